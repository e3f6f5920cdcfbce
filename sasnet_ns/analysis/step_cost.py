"""Average step time and peak memory of training (the paper's AST and PMem, Supp. Sec. 4)."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass

import torch

_RANGE = "optimisation step"


@dataclass
class StepCost:
    """What a training step costs.

    Attributes:
        step_us: mean time of a step over all runs, microseconds.
        step_us_spread: standard deviation of the runs' means, microseconds.
        peak_mib: the most memory that tensors held at once during a step, MiB, those from before it included.
        runs: measured runs.
        steps: steps in each run.
        device: where.
    """

    step_us: float
    step_us_spread: float
    peak_mib: float
    runs: int
    steps: int
    device: str


def measure_step_cost(
    step: Callable[[], object], device: torch.device | str = "cpu", runs: int = 5, steps: int = 3, held_bytes: int = 0
) -> StepCost:
    """Profile a training step with PyTorch's profiler, as the paper does.

    The time is that of the profiler's step ranges without memory tracing, which slows a step down; the memory comes
    from a run of its own: on CUDA the allocator's peak, on the CPU the profiler's allocations and releases summed up.

    Args:
        step: does one optimisation step (forward, backward, update).
        device: where it computes.
        runs: measured runs, after one warm-up step each.
        steps: steps in each.
        held_bytes: memory of parameters, optimiser and data that live before the step; the CPU's trace does not see
            it, CUDA's allocator does.
    """
    from torch.autograd import DeviceType
    from torch.profiler import ProfilerActivity, profile, record_function

    device = torch.device(device)
    cuda = device.type == "cuda"
    activities = [ProfilerActivity.CPU] + ([ProfilerActivity.CUDA] if cuda else [])
    means = []
    for _ in range(runs):
        step()
        with profile(activities=activities) as profiler:
            for _ in range(steps):
                with record_function(_RANGE):
                    step()
                    if cuda:
                        torch.cuda.synchronize(device)
        # With CUDA every range is listed a second time, as an annotation of the GPU's, without the processor's time.
        own = [e for e in profiler.events() if e.name == _RANGE and e.device_type == DeviceType.CPU]
        means.append(statistics.fmean(e.cpu_time_total for e in own))
    spread = statistics.stdev(means) if runs > 1 else 0.0
    return StepCost(statistics.fmean(means), spread, _peak(step, device, held_bytes) / 2**20, runs, steps, str(device))


def _peak(step: Callable[[], object], device: torch.device, held_bytes: int) -> float:
    """Bytes."""
    from torch.profiler import ProfilerActivity, profile

    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        step()
        torch.cuda.synchronize(device)
        return float(torch.cuda.max_memory_allocated(device))
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        step()
    events = [e for e in profiler.profiler.kineto_results.events() if e.name() == "[memory]"]  # type: ignore[union-attr]
    now = peak = 0
    for event in sorted(events, key=lambda e: e.start_ns()):
        now += event.nbytes()
        peak = max(peak, now)
    return float(held_bytes + peak)
