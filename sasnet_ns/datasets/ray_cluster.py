"""The same work on many machines: Ray actors, each with a warm worker process of its own that keeps the limits."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from sasnet_ns.datasets.listing import Entry, grouped
from sasnet_ns.datasets.rows import Row
from sasnet_ns.datasets.workers import (
    Fit,
    FitTogether,
    Limits,
    configuration_of,
    fit_entries,
    fit_entry,
    fit_in_workers,
)

if TYPE_CHECKING:
    from sasnet_ns.datasets.master import Engine
    from sasnet_ns.datasets.one import FitOptions

_STORE = 100 << 20
"""Bytes of shared memory of a cluster on this machine; only paths and rows go through it."""
_LOOK = 5.0  # seconds between two looks at which nodes there are
_LOSSES = 3
"""Nodes that a shape may take down until it is a row of its own."""


def ray_engine(
    address: str,
    limits: Limits | None = None,
    *,
    cpus: float = 1.0,
    gpus: float = 0.0,
    batch: int = 1,
    fit: Fit = fit_entry,
) -> Engine:
    """What :func:`fit_shapes` takes as its ``engine`` to send shapes to a Ray cluster.

    As many actors as the cluster has room for, each with one group of shapes at a time: a new one is given out when
    rows come back, so nothing piles up. Shapes whose node is lost go to another, each by itself; since a field's bytes
    follow from shape and configuration, one that was fitted twice does no harm. Input and output folders must be the
    same for all nodes, as on a shared file system, and this package installed on each.

    Args:
        address: of the cluster (``auto``, ``HOST:PORT``, ``ray://HOST:PORT``), or ``local`` for one on this machine.
        limits: of each shape.
        cpus: cores for each actor.
        gpus: share of a GPU for each actor.
        batch: fields that an actor trains together.
        fit: what to do with a shape.

    Raises:
        MissingLibraryError: Ray is not installed.
        ValueError: there is no cluster at the address, or it has no room for an actor.
    """
    from sdf_tools.errors import needs

    with needs("ray", "A cluster"):
        import ray
    own = not ray.is_initialized()
    if own:
        try:
            if address == "local":
                ray.init("local", log_to_driver=False, include_dashboard=False, object_store_memory=_STORE)
            else:
                ray.init(address, log_to_driver=False)
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise ValueError(f"there is no Ray cluster at '{address}': {str(error).splitlines()[0]}") from error

    def engine(entries: Iterator[Entry], options: FitOptions) -> Iterator[Row]:
        try:
            together = fit_entries if batch > 1 else None
            yield from _run(grouped(entries, batch), options, limits or Limits(), cpus, gpus, fit, together)
        finally:
            if own:
                ray.shutdown()

    return engine


class _Fitter:
    """An actor: one worker process on its node, under the same limits as on a single machine."""

    def __init__(
        self, options: FitOptions, limits: Limits, fit: Fit, together: FitTogether | None, cpus: float
    ) -> None:
        import os

        self.waiting: list[list[Entry]] = []
        log = options.output / "logs" / f"ray-{os.uname().nodename}-{os.getpid()}"
        endless = iter(self._next, None)
        self.rows = fit_in_workers(endless, options, 1, limits, log, fit, together, max(1, int(cpus)))

    def _next(self) -> list[Entry]:
        return self.waiting.pop()

    def fit(self, entries: list[Entry]) -> list[Row]:
        self.waiting.append(entries)
        return [next(self.rows) for _ in entries]


def _run(
    groups: Iterator[list[Entry]],
    options: FitOptions,
    limits: Limits,
    cpus: float,
    gpus: float,
    fit: Fit,
    together: FitTogether | None,
) -> Iterator[Row]:
    import ray

    def room() -> int:
        have = ray.cluster_resources()
        return int(min(have.get("CPU", 0) / cpus, have.get("GPU", 0) / gpus if gpus else float("inf")))

    # Actors are not restarted by Ray: a lost one may have had its node, and another node may have room.
    kind = ray.remote(num_cpus=cpus, num_gpus=gpus, max_restarts=0)(_Fitter)
    if room() < 1:
        raise ValueError(f"the Ray cluster has no room for a worker of {cpus:g} cores and {gpus:g} GPUs.")
    actors: list[Any] = []
    running: dict[Any, tuple[Any, list[Entry]]] = {}
    again: list[list[Entry]] = []
    losses: dict[str, int] = {}

    def give(actor: Any) -> None:
        group = again.pop() if again else next(groups, None)
        if group is None:
            ray.kill(actor)
            actors.remove(actor)
        else:
            running[actor.fit.remote(group)] = actor, group

    def grow() -> None:
        for _ in range(room() - len(actors)):
            actors.append(kind.remote(options, limits, fit, together, cpus))
            give(actors[-1])

    def lost(group: list[Entry]) -> Iterator[Row]:
        """Shapes whose actor is gone: once more, each by itself, or a row after too many times."""
        for entry in group:
            name = f"{entry.path} {entry.where}"
            losses[name] = losses.get(name, 0) + 1
            if losses[name] < _LOSSES:
                again.append([entry])
            else:
                text = f"'{entry.path}' was on {_LOSSES} nodes or actors that were lost."
                yield Row(entry.path, "crashed", text, configuration_hash=configuration_of(entry, options))

    try:
        grow()
        while running or again:
            ready, _ = ray.wait(list(running), num_returns=1, timeout=_LOOK) if running else ([], [])
            for reference in ready:
                actor, group = running.pop(reference)
                try:
                    rows = ray.get(reference)
                except ray.exceptions.RayTaskError as error:
                    raise RuntimeError(f"a worker of the Ray cluster failed: {str(error).splitlines()[-1]}") from error
                except ray.exceptions.RayError:  # its actor or its node is gone, or Ray ended it for its memory
                    actors.remove(actor)
                    yield from lost(group)
                else:
                    give(actor)
                    yield from rows
            if again or not ready:
                grow()
            if not running:  # no node has room just now
                time.sleep(_LOOK)
    finally:
        for actor in actors:
            ray.kill(actor)
