"""What a run is and what it goes on from: its folder, its description, its checkpoint."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from nerfstudio.engine.trainer import Trainer, TrainerConfig
from nerfstudio.utils.rich_utils import CONSOLE
from torch import Tensor

from sasnet_ns.data.frames import FRAME_FILE
from sasnet_ns.models.loading import (
    checkpoint_path,
    checkpoint_steps,
    lies_elsewhere,
    newest_step,
    read_checkpoint,
)
from sasnet_ns.models.run_description import (
    FILE,
    WITHOUT_EFFECT,
    describe_environment,
    describe_files,
    read_description,
    write_description,
)
from sasnet_ns.models.run_lock import claim
from sasnet_ns.training.options import differences, digest, plain_options
from sdf_tools.errors import file_trouble
from sdf_tools.io.writing import sweep_partials

DESCRIBING = ("config.yml", FILE, "dataparser_transforms.json", FRAME_FILE)
"""Files in a run's folder that say what it is, written before it has trained."""


class RunConfig(TrainerConfig):
    """A run in a folder that no other process trains in."""

    replaced: Mapping[str, bytes] = {}
    """The files that described a run which lay in the folder before this one, by their names."""
    former_steps: tuple[int, ...] = ()
    """Of the checkpoints that lay in the folder before this run, and that it does not go on from."""

    def save_config(self) -> None:
        """Claim the run's folder, clear it of what dead processes left unfinished, and write config.yml.

        A run that is started from another's file (``--load-config``) has the other's folder by that file: it takes one
        of its own. A ``--timestamp`` that somebody named twice is a folder to train over; its checkpoints go with the
        first one of this run, because a later step among them would be taken for this run's.
        """
        if self.max_num_iterations < 1:
            raise SystemExit(f"{self.method_name}: --max-num-iterations must be 1 or more.")
        steps = {f.name: getattr(self, f.name) for f in fields(self) if f.name.startswith("steps_per_")}
        for name, value in {**steps, "logging.steps_per_log": self.logging.steps_per_log}.items():
            if value < 0:  # nerfstudio would do it at every step
                option = name.replace("_", "-")
                raise SystemExit(f"{self.method_name}: --{option} must be 0 (never) or more, not {value}.")
        if self.logging.local_writer.enable and self.logging.steps_per_log == 0:  # nerfstudio would divide by it
            raise SystemExit(
                f"{self.method_name}: --logging.local-writer.enable True prints every --logging.steps-per-log steps; "
                "make that 1 or more."
            )
        taken = self.get_base_dir()
        from_file = any(word.replace("_", "-").startswith("--load-config") for word in sys.argv[1:])
        if from_file and newest_step(self.get_checkpoint_dir()) >= 0:
            self.timestamp = "{timestamp}"
            self.set_timestamp()
            CONSOLE.print(f"'{taken}' holds a run already; this one is '{self.get_base_dir()}'.", highlight=False)
        folder = self.get_base_dir()
        try:
            claim(folder)
            for place in (folder, self.get_checkpoint_dir()):
                sweep_partials(place)
            before = {name: (folder / name).read_bytes() for name in DESCRIBING if (folder / name).is_file()}
            super().save_config()
            self.replaced = before if "config.yml" in before else {}
            self.former_steps = tuple(checkpoint_steps(self.get_checkpoint_dir()))
        except OSError as error:
            raise SystemExit(
                f"{self.method_name}: The folder '{folder}' cannot be made or written ({file_trouble(error)}); give "
                "another place with --output-dir."
            ) from None
        except ValueError as error:
            raise SystemExit(f"{self.method_name}: {error}") from None

    def earlier_run(self) -> Path | None:
        """The folder of the run that this one goes on from: the nearest one above its checkpoints that is one."""
        place = self.load_dir
        if place is None and self.load_checkpoint is not None:
            place = self.load_checkpoint.parent
        if place is None:
            return None
        place = place.resolve()
        files = (FILE, "config.yml")
        return next((a for a in place.parents if any((a / file).is_file() for file in files)), place.parent)


class DescribedTrainer(Trainer):
    """Writes ``run.json`` and reads checkpoints as weights; goes on only from what fits.

    A method fills in :meth:`data_files` and :meth:`frame`.
    """

    config: RunConfig
    total_steps: int
    _resumed_from: Path | None = None

    def data_files(self) -> list[Path]:
        """Files of the data, whose checksum goes into the description."""
        return []

    def frame(self) -> dict[str, Any] | None:
        """How the run's coordinates belong to those of the data, where the method's checkpoints hold that."""
        return None

    def _describe_run(self) -> None:
        """Write ``run.json``, after comparing it with that of the run which this one goes on from."""
        if self.local_rank:
            return
        options = plain_options(self.config)
        options["max_num_iterations"] = self.total_steps
        data = self.config.pipeline.datamanager.data
        self._description = {
            "method": self.config.method_name,
            "model": type(self.config.pipeline.model).__name__,
            "seed": self.config.machine.seed,
            "data": {"path": None if data is None else str(data), **describe_files(self.data_files())},
            "frame": self.frame(),
            **describe_environment(self.device),
            "options_sha256": digest(options),
            "options": options,
        }
        if self._resumed_from is not None:
            self._compare(self._resumed_from)
            self._description["resumed"] = {"from": str(self._resumed_from), "step": self._start_step}
        write_description(self.base_dir, self._description)

    def _compare(self, folder: Path) -> None:
        """Say what differs from the run that is gone on with, and refuse another method or another shape."""
        name = self.config.method_name
        try:
            before = read_description(folder)
        except ValueError as error:
            raise SystemExit(f"{name}: {error}") from None
        if before is None:
            return
        if before.get("method") != name:
            raise SystemExit(f"{name}: '{folder}' is a run of {before.get('method')}; it cannot go on as {name}.")
        old, new = before.get("data") or {}, self._description["data"]
        if isinstance(old, dict) and old.get("of") == new["of"] and old.get("sha256") != new["sha256"]:
            if self._description["frame"] is not None:
                raise SystemExit(
                    f"{name}: '{folder}' was trained on {old.get('path')}, and '{new['path']}' has other contents; "
                    "start a run of its own."
                )
            CONSOLE.print(f"'{new['path']}' has other contents than when the run began.", highlight=False)
        changed = differences(before["options"], self._description["options"], ignored=WITHOUT_EFFECT)
        if changed:
            CONSOLE.print("Going on with other options than the run had:", highlight=False)
            for line in changed:
                CONSOLE.print(f"  {line}", highlight=False, markup=False, soft_wrap=True)

    def _load_checkpoint(self) -> None:
        config, name = self.config, self.config.method_name
        folder, path = config.load_dir, config.load_checkpoint
        if folder is not None:
            step = newest_step(folder) if config.load_step is None else config.load_step
            if step < 0:
                raise SystemExit(
                    f"{name}: There is no checkpoint in '{folder}'; give the nerfstudio_models folder of a run."
                )
            path = checkpoint_path(folder, step)
        if path is None:
            return
        if path.is_dir():
            raise SystemExit(f"{name}: --load-checkpoint '{path}' is a folder; give it by --load-dir.")
        try:
            state = read_checkpoint(path)
            self._resumed_from = config.earlier_run()
            self._same_shape(state["pipeline"], path)
            self.pipeline.load_pipeline(state["pipeline"], state["step"])
            self.optimizers.load_optimizers(state["optimizers"])
            if "schedulers" in state and config.load_scheduler:
                self.optimizers.load_schedulers(state["schedulers"])
            self.grad_scaler.load_state_dict(state["scalers"])
            self._start_step = state["step"] + 1
        except ValueError as error:
            raise SystemExit(f"{name}: {error}") from None
        except (RuntimeError, KeyError, TypeError, AttributeError) as error:
            # torch lists every tensor that does not fit
            reason = (str(error).splitlines() or [type(error).__name__])[-1].strip().removesuffix(".")
            raise SystemExit(
                f"{name}: '{path}' does not fit this run's options ({reason}); repeat those that it was started with."
            ) from None
        if path.resolve().parent == self.checkpoint_dir.resolve():
            config.former_steps = tuple(step for step in config.former_steps if step >= self._start_step)
        CONSOLE.print(f"Going on from step {self._start_step:,} of '{path}'.", highlight=False)

    def _same_shape(self, state: dict[str, Tensor], path: Path) -> None:
        """Refuse a checkpoint of a shape that lies elsewhere: the mesh would come out in the wrong place."""
        if self.frame() is not None and lies_elsewhere(state, self.pipeline.state_dict()):
            raise ValueError(f"'{path}' was trained on another shape; start a run of its own for this one.")
