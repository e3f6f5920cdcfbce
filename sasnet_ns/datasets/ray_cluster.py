"""The same work on many machines: Ray actors, each with a warm worker process of its own that keeps the limits."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from sasnet_ns.datasets.listing import Entry
from sasnet_ns.datasets.rows import Row
from sasnet_ns.datasets.workers import Fit, Limits, configuration_of, fit_entry, fit_in_workers

if TYPE_CHECKING:
    from sasnet_ns.datasets.master import Engine
    from sasnet_ns.datasets.one import FitOptions

_LOSSES = 3
"""Nodes that a shape may take down until it is a row of its own."""


def ray_engine(
    address: str, limits: Limits | None = None, *, cpus: float = 1.0, gpus: float = 0.0, fit: Fit = fit_entry
) -> Engine:
    """What :func:`fit_shapes` takes as its ``engine`` to send shapes to a Ray cluster.

    As many actors as the cluster has room for, each with one shape at a time: a new shape is given out when a row comes
    back, so nothing piles up. A shape whose node is lost goes to another; since a field's bytes follow from shape and
    configuration, one that was fitted twice does no harm. Input and output folders must be the same for all nodes, as
    on a shared file system, and this package installed on each.

    Args:
        address: of the cluster (``auto``, ``HOST:PORT``, ``ray://HOST:PORT``), or ``local`` for one on this machine.
        limits: of each shape.
        cpus: cores for each actor.
        gpus: share of a GPU for each actor.
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
            ray.init(address=None if address == "local" else address, log_to_driver=False, include_dashboard=False)
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise ValueError(f"there is no Ray cluster at '{address}': {str(error).splitlines()[0]}") from error

    def engine(entries: Iterator[Entry], options: FitOptions) -> Iterator[Row]:
        try:
            yield from _run(entries, options, limits or Limits(), cpus, gpus, fit)
        finally:
            if own:
                ray.shutdown()

    return engine


class _Fitter:
    """An actor: one worker process on its node, under the same limits as on a single machine."""

    def __init__(self, options: FitOptions, limits: Limits, fit: Fit, cpus: float) -> None:
        import os

        self.waiting: list[Entry] = []
        log = options.output / "logs" / f"ray-{os.uname().nodename}-{os.getpid()}"
        endless = iter(self._next, None)
        self.rows = fit_in_workers(endless, options, 1, limits, log, fit, threads=max(1, int(cpus)))

    def _next(self) -> Entry:
        return self.waiting.pop()

    def fit(self, entry: Entry) -> Row:
        self.waiting.append(entry)
        return next(self.rows)


def _run(
    entries: Iterator[Entry], options: FitOptions, limits: Limits, cpus: float, gpus: float, fit: Fit
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
    running: dict[Any, tuple[Any, Entry]] = {}
    again: list[Entry] = []
    losses: dict[str, int] = {}

    def give(actor: Any) -> None:
        entry = again.pop() if again else next(entries, None)
        if entry is None:
            ray.kill(actor)
            actors.remove(actor)
        else:
            running[actor.fit.remote(entry)] = actor, entry

    def grow() -> None:
        for _ in range(room() - len(actors)):
            actors.append(kind.remote(options, limits, fit, cpus))
            give(actors[-1])

    try:
        grow()
        while running:
            ready, _ = ray.wait(list(running), num_returns=1, timeout=5.0)
            for reference in ready:
                actor, entry = running.pop(reference)
                try:
                    row = ray.get(reference)
                except ray.exceptions.RayActorError:
                    actors.remove(actor)
                    name = f"{entry.path} {entry.where}"
                    losses[name] = losses.get(name, 0) + 1
                    if losses[name] < _LOSSES:
                        again.append(entry)
                        continue
                    text = f"'{entry.path}' was on {_LOSSES} nodes or actors that were lost."
                    row = Row(entry.path, "crashed", text, configuration_hash=configuration_of(entry, options))
                else:
                    give(actor)
                yield row
            if again or not ready:
                grow()
    finally:
        for actor in actors:
            ray.kill(actor)
