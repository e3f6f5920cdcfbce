"""nerfstudio's trainer with exact resumption, whole checkpoints, one line of progress and a clean end."""

from __future__ import annotations

import contextlib
import shlex
import signal
import threading
import time
import warnings
from collections.abc import Iterator, Mapping
from typing import Any, Literal

import torch
from nerfstudio.engine.callbacks import TrainingCallbackLocation
from nerfstudio.engine.trainer import TrainerConfig
from nerfstudio.utils import writer
from nerfstudio.utils.misc import step_check
from nerfstudio.utils.rich_utils import CONSOLE
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from torch import Tensor

from sasnet_ns.kernels import tune
from sasnet_ns.models.described_trainer import DESCRIBING, DescribedTrainer
from sasnet_ns.models.loading import checkpoint_path, newest_step
from sasnet_ns.models.next_commands import resume
from sasnet_ns.models.optimization import SparseLogOptimizers
from sasnet_ns.models.run_lock import release
from sasnet_ns.networks.weights import save_weights
from sasnet_ns.training.divergence import ROLLBACKS, SLOWER, DivergedError, DivergenceGuard
from sasnet_ns.training.thread_choice import ThreadChoice, threads_kept
from sasnet_ns.viewer.curves import Row, read_history, thinned, write_history
from sdf_tools.errors import MissingLibraryError, file_trouble
from sdf_tools.io.writing import write_atomically

_STEPS_PER_ROW = 50  # of the history; on a GPU the loss is waited for no more often
_TIMINGS = {
    name.value for name in (writer.EventName.ITER_TRAIN_TIME, writer.EventName.TRAIN_RAYS_PER_SEC, writer.EventName.ETA)
}


class ResumableTrainer(DescribedTrainer):
    """What every method of this package trains with.

    Beyond nerfstudio's trainer: ``--load-dir`` continues up to ``max_num_iterations`` in all and reproduces the run
    that was never interrupted, and refuses what would not; Ctrl-C and SIGTERM finish the step and keep a checkpoint;
    checkpoints appear whole or not at all; a run that diverges is taken back and slowed down, or ended. ``run.json``
    says what the run was.

    A method fills in :meth:`report_interval`, :meth:`measure`, :meth:`describe`, :meth:`save_extras`,
    :meth:`summary_rows`, :meth:`data_files`, :meth:`frame`, :meth:`collapsed` and :meth:`failure`.
    """

    _training_state: Literal["training", "paused", "completed"] = "training"
    _started = _paused_at = 0.0
    _interrupted = False
    _stop = False

    def __init__(self, config: TrainerConfig, local_rank: int = 0, world_size: int = 1) -> None:
        if config.machine.device_type == "cuda" and not torch.cuda.is_available():
            config.machine.device_type = "cpu"
        if config.machine.device_type == "cpu" and not local_rank:
            threads = torch.get_num_threads()
            CONSOLE.print(f"Training on the CPU with {threads} thread{'s' * (threads > 1)}: no CUDA device is used.")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # nerfstudio still asks for torch.cuda.amp.GradScaler
            super().__init__(config, local_rank, world_size)
        tune()
        self.total_steps = config.max_num_iterations
        self.completed_steps = 0
        self._signal: int | None = None
        self._mean_loss: Tensor | None = None
        self._last_report: dict[str, float] = {}
        self._progress: Progress | None = None
        self._started = time.perf_counter()
        self.history: list[Row] = []

    @property
    def training_state(self) -> Literal["training", "paused", "completed"]:  # type: ignore[override]
        """What the viewer's buttons set; the time of a pause is no time that steps took."""
        return self._training_state

    @training_state.setter
    def training_state(self, state: Literal["training", "paused", "completed"]) -> None:
        now, before = time.perf_counter(), self._training_state
        if state == "paused" != before:
            self._paused_at = now
        elif before == "paused" != state:
            self._started += now - max(self._started, self._paused_at)
        self._training_state = state

    def setup(self, test_mode: Literal["test", "val", "inference"] = "val") -> None:
        """Read the data, build everything, load a checkpoint if one is named, describe the run."""
        try:
            super().setup(test_mode)
            self._describe_run()
        except BaseException as error:
            self._forget_run()
            if isinstance(error, KeyboardInterrupt):
                raise SystemExit(f"{self.config.method_name}: interrupted before the first step.") from None
            if isinstance(error, OSError):
                raise SystemExit(f"{self.config.method_name}: {file_trouble(error)}") from None
            if isinstance(error, ValueError | MissingLibraryError):  # options that nothing can be built of
                raise SystemExit(f"{self.config.method_name}: {error}") from None
            raise
        self.completed_steps = self._start_step
        earlier = self.config.earlier_run()
        if earlier is not None:
            self.history = [row for row in read_history(earlier) if row["step"] <= self._start_step]

    def _forget_run(self) -> None:
        """Leave the folder as it was before a run that never began; a new one goes, and empty ones above it."""
        release(self.base_dir)
        former = self.config.replaced
        with contextlib.suppress(OSError):
            for name in DESCRIBING if former else ():
                if name in former:
                    write_atomically(self.base_dir / name, former[name])
                else:
                    (self.base_dir / name).unlink(missing_ok=True)
            if former:
                return
            (self.base_dir / "config.yml").unlink()
            for folder in (self.base_dir, *self.base_dir.parents[:3]):
                folder.rmdir()

    def setup_optimizers(self) -> SparseLogOptimizers:
        """Optimizers whose schedules span the whole run."""
        return SparseLogOptimizers(
            self.config.optimizers,
            self.pipeline.get_param_groups(),
            self.config.max_num_iterations,
            self.config.logging.steps_per_log,
        )

    def train(self) -> None:
        """Train up to ``max_num_iterations`` steps in all, those before a resumption included."""
        total = self.total_steps
        if self._start_step >= total:
            raise SystemExit(
                f"{self.config.method_name}: The checkpoint has {self._start_step:,} steps already; ask for more with "
                f"--max-num-iterations."
            )
        columns = (
            TextColumn("training"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
        )
        self._progress = Progress(
            *columns, console=CONSOLE, auto_refresh=False, transient=True, disable=not CONSOLE.is_terminal
        )
        self._started = time.perf_counter()
        self._guard = DivergenceGuard(
            lambda: dict(self.pipeline.state_dict()),
            self.optimizers.optimizers.values(),
            self._start_step,
            rollbacks=ROLLBACKS if self.world_size == 1 else 0,  # processes would go back without each other
        )
        self._threads = ThreadChoice(self.device)
        with self._graceful_interrupt(), self._progress, threads_kept():
            self._task = self._progress.add_task("training", total=total, completed=self._start_step)
            # nerfstudio counts max_num_iterations from the resumed step on.
            self.config.max_num_iterations = total - self._start_step
            try:
                super().train()
            except DivergedError as error:
                raise SystemExit(f"{self.config.method_name}: {error} {self._what_is_kept()}") from None
            except MissingLibraryError as error:
                raise SystemExit(f"{self.config.method_name}: {error}") from None
            finally:
                self.config.max_num_iterations = total
                release(self.base_dir)
        if self._signal == signal.SIGTERM:
            raise SystemExit(128 + signal.SIGTERM)

    @property
    def stop_training(self) -> bool:
        """Whether no further step begins; nerfstudio's ``train`` sets it False before the first, signal or not."""
        return self._stop or self._interrupted

    @stop_training.setter
    def stop_training(self, value: bool) -> None:
        self._stop = value

    def _what_is_kept(self) -> str:
        step = newest_step(self.checkpoint_dir)
        if step < 0:
            return "There is no checkpoint yet."
        return f"The checkpoint of step {step + 1:,} in '{self.checkpoint_dir}' is kept."

    @contextlib.contextmanager
    def _graceful_interrupt(self) -> Iterator[None]:
        """Let the first Ctrl-C or SIGTERM end training after the step that is running; a second one ends it at once."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def stop(signum: int, frame: Any) -> None:
            if self._interrupted:
                raise KeyboardInterrupt
            self._interrupted, self._signal = True, signum
            CONSOLE.print("Stopping after this step; Ctrl-C again stops at once.")

        previous = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}

        def restore() -> None:
            for number, handler in previous.items():
                signal.signal(number, handler)

        self._restore_interrupt = restore
        try:
            yield
        finally:
            restore()

    def train_iteration(self, step: int) -> Any:
        """One optimisation step, and a report when it is due."""
        loss, *dictionaries = self.take_step(step)
        self.completed_steps = step + 1
        loss = loss.detach()
        # A running mean on the device: reading it waits for the device, so only reports do.
        self._mean_loss = loss.clone() if self._mean_loss is None else self._mean_loss.lerp_(loss, 0.05)
        self._threads.after_step()
        went_back = self._guard.after_step(self.completed_steps, loss)
        if went_back is not None:
            self._slow_down(went_back)
        every = self.report_interval()
        due = bool(every) and self.completed_steps % every == 0
        if self._mean_loss is not None and self.completed_steps % _STEPS_PER_ROW == 0 and not due:
            self._note({"loss": float(self._mean_loss)})
        if due:
            self._report()
            collapse = self.collapsed(self._last_report)
            if collapse is not None:
                self._slow_down(self._guard.roll_back(self.completed_steps, collapse))
        if self._progress is not None and not self._progress.disable and step % 10 == 0:
            self._progress.update(self._task, completed=self.completed_steps, refresh=True)
        return loss, *({name: value.detach() for name, value in values.items()} for values in dictionaries)

    def take_step(self, step: int) -> Any:
        """One optimisation step: loss, terms of the loss, metrics, as nerfstudio's ``train_iteration`` gives them."""
        return super().train_iteration(step)

    def _slow_down(self, sentence: str) -> None:
        """Say that training was taken back, and lower the learning rates of the rest of the run, resumed or not."""
        CONSOLE.print(f"[bold yellow]{sentence}[/bold yellow]", highlight=False, soft_wrap=True)
        self._mean_loss = None
        for optimizer in self.optimizers.optimizers.values():
            for group in optimizer.param_groups:
                for name in ("lr", "initial_lr"):
                    if name in group:
                        group[name] *= SLOWER
        for scheduler in self.optimizers.schedulers.values():
            scheduler.base_lrs = [SLOWER * rate for rate in getattr(scheduler, "base_lrs", [])]

    def collapsed(self, report: dict[str, float]) -> str | None:
        """What a report says about a run that has lost what it had learned, the beginning of a sentence; else None."""
        return None

    def failure(self) -> str | None:
        """Why a run that came to its end has failed, a sentence; None where it has not."""
        return None

    def _update_viewer_state(self, step: int) -> None:
        """Called after each step; keeps most timings out of the event file: nerfstudio would write every step's."""
        if not step_check(step, self.config.logging.steps_per_log, run_at_zero=True):
            writer.EVENT_STORAGE[:] = [event for event in writer.EVENT_STORAGE if event["name"] not in _TIMINGS]
        super()._update_viewer_state(step)

    def _note(self, numbers: dict[str, float]) -> None:
        """A row of the run's history, which is kept beside the checkpoints and shown by the viewer."""
        self.history = thinned([*self.history, {"step": float(self.completed_steps), **numbers}])

    def report_interval(self) -> int:
        """Steps between two reports; 0 for none."""
        return 0

    def measure(self) -> dict[str, float] | dict[str, Tensor]:
        """What a report tells beside the loss, numbers or tensors; the model is in evaluation mode meanwhile."""
        return {}

    def describe(self, report: dict[str, float]) -> str:
        """The measured values as they stand in the terminal's line."""
        return "  ".join(f"{name} {value:.3g}" for name, value in report.items() if name != "loss")

    def save_extras(self) -> None:
        """Write what a method keeps beside its checkpoints, each file whole or not at all."""

    def summary_rows(self, config_path: str) -> dict[str, str]:
        """Rows of the closing summary: results, and commands to go on with."""
        return {}

    def _report(self) -> None:
        """One line in the terminal and a row in the event file."""
        done, total = self.completed_steps, self.total_steps
        per_step = (time.perf_counter() - self._started) / max(1, done - self._start_step)
        was_training = self.pipeline.model.training
        self.pipeline.model.eval()
        metrics = self.measure()
        self.pipeline.model.train(was_training)
        loss: float | Tensor = float("nan") if self._mean_loss is None else self._mean_loss
        self._last_report = read_numbers({"loss": loss, **metrics})
        self._note(self._last_report)
        for name, value in self._last_report.items():
            writer.put_scalar(f"Geometry/{name}", value, done)
        if self.local_rank:
            return
        CONSOLE.print(
            f"step {done:>5,}/{total:,}  loss {self._last_report['loss']:.2e}  {self.describe(self._last_report)}  "
            f"{1e3 * per_step:.0f} ms/step  {clock((total - done) * per_step)} left",
            highlight=False,
        )

    def save_checkpoint(self, step: int) -> None:
        """Write a checkpoint, whole or not at all; older checkpoints go afterwards."""
        if self.local_rank != 0:
            return
        path = checkpoint_path(self.checkpoint_dir, step)
        pipeline = getattr(self.pipeline, "module", self.pipeline)
        state = {
            "step": step,
            "pipeline": pipeline.state_dict(),
            "optimizers": {name: o.state_dict() for name, o in self.optimizers.optimizers.items()},
            "schedulers": {name: s.state_dict() for name, s in self.optimizers.schedulers.items()},
            "scalers": self.grad_scaler.state_dict(),
        }
        last = newest_step(self.checkpoint_dir)
        try:
            # The extras first, so that a run that is killed between the two has a newer field.pt than checkpoint.
            self.save_extras()
            write_history(self.base_dir, self.history)
            # Not begun in the checkpoint folder: nerfstudio reads a step from every file name there.
            save_weights(path, state, folder=self.base_dir)
        except OSError as error:
            kept = f" The checkpoint of step {last + 1:,} is kept." if last >= 0 else ""
            raise SystemExit(
                f"{self.config.method_name}: step {step + 1:,} cannot be saved: {file_trouble(error)}{kept}"
            ) from None
        others = [checkpoint_path(self.checkpoint_dir, former) for former in self.config.former_steps]
        self.config.former_steps = ()
        if self.config.save_only_latest_checkpoint:
            others = list(self.checkpoint_dir.glob("*.ckpt"))
        for other in others:
            if other != path:
                other.unlink(missing_ok=True)

    def _after_train(self) -> None:
        """Save, say what came out and what to do next, and keep the viewer open if there is one."""
        if self._progress is not None:
            self._progress.stop()
        self.training_state = "completed"
        if self.completed_steps == self._start_step:
            if self.config.replaced:
                self._forget_run()
            raise SystemExit(f"{self.config.method_name}: Stopped before the first step; nothing was saved.")
        self.step = self.completed_steps - 1
        every = self.report_interval()
        if every and self.completed_steps % every:
            self._report()
        self.save_checkpoint(self.step)
        writer.write_out_storage()
        self._print_summary()
        failure = None if self._interrupted else self.failure()
        for callback in self.callbacks:
            callback.run_callback_at_location(step=self.step, location=TrainingCallbackLocation.AFTER_TRAIN)
        restore = getattr(self, "_restore_interrupt", None)
        if restore is not None:
            restore()
        release(self.base_dir)
        if failure is not None:
            raise SystemExit(f"{self.config.method_name}: {failure}")
        if not self.config.viewer.quit_on_train_completion and not self._interrupted:
            with contextlib.suppress(KeyboardInterrupt):
                self._train_complete_viewer()

    def _print_summary(self) -> None:
        if self.local_rank:
            return
        seconds = time.perf_counter() - self._started
        per_step = 1e3 * seconds / max(1, self.completed_steps - self._start_step)
        rows = {"steps": f"{self.completed_steps:,}, {clock(seconds)} of training, {per_step:.2f} ms each"}
        rows["run"] = str(self.base_dir)
        config_path = shlex.quote(str(self.base_dir / "config.yml"))
        if self._interrupted:
            data = self.config.pipeline.datamanager.data
            rows["resume"] = resume(str(self.config.method_name), data, self.checkpoint_dir)
        rows |= self.summary_rows(config_path)
        title = "Training interrupted, checkpoint kept" if self._interrupted else "Training finished"
        CONSOLE.rule(title, align="left", style="green")
        for name, text in rows.items():
            # Unwrapped, so that the commands can be copied.
            CONSOLE.print(f"{name:>13}  {text}", soft_wrap=True, highlight=False, markup=False)


def read_numbers(values: Mapping[str, float | Tensor]) -> dict[str, float]:
    """Numbers and scalar tensors as numbers, waiting for the device once."""
    tensors = {name: value.detach().double() for name, value in values.items() if isinstance(value, Tensor)}
    read = dict(zip(tensors, torch.stack(list(tensors.values())).tolist(), strict=True)) if tensors else {}
    return {name: read[name] if name in read else float(value) for name, value in values.items()}


def clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
