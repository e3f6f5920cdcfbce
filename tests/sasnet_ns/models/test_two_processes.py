"""nerfstudio's trainer in two processes that average their gradients, as ``--machine.num-devices 2`` starts them.

On a CPU, by gloo. nerfstudio itself refuses that (it names a device to DistributedDataParallel, which a CPU does not
take), so its wrapper is called without the name here; everything else is what two GPUs run.
"""

from __future__ import annotations

import copy
import functools
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

pytest.importorskip("nerfstudio")

from sasnet_ns.networks import SignedDistanceField

STEPS = 6


def _config(folder: Path, shape: Path) -> Any:
    from sasnet_ns.methods import sasnet_sdf

    config = copy.deepcopy(sasnet_sdf.config)
    config.output_dir, config.timestamp, config.vis = folder, "run", "tensorboard"
    config.max_num_iterations, config.steps_per_geometry_eval = STEPS, 3
    config.machine.device_type, config.machine.num_devices = "cpu", 2
    config.viewer.quit_on_train_completion = True
    data, network = config.pipeline.datamanager, config.pipeline.model.sasnet
    data.data, data.pool_size, data.points_per_batch, data.probe_points = shape, 20_000, 500, 5_000
    network.embedding_width, network.hidden_widths, network.groups = 64, (64, 64), (8, 8)
    return config


def _worker(rank: int, folder: Path, shape: Path, bfloat16: bool) -> None:
    import torch.distributed as dist
    from torch.nn.parallel import DistributedDataParallel

    torch.set_num_threads(1)
    config = _config(folder, shape)
    config.pipeline.model.bfloat16 = bfloat16  # then autograd's way instead of the fused step
    import nerfstudio.pipelines.base_pipeline as pipelines

    class OnCPU(DistributedDataParallel):
        def __init__(self, model: torch.nn.Module, device_ids: list[int], **options: Any) -> None:
            super().__init__(model, **options)

    pipelines.DDP = OnCPU
    barrier = dist.barrier
    dist.barrier = lambda *arguments, **options: barrier()
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    torch.manual_seed(config.machine.seed + rank)  # as nerfstudio does
    if rank == 0:
        config.save_config()
    trainer = config.setup(local_rank=rank, world_size=2)
    trainer.setup()
    alone = copy.deepcopy(trainer.pipeline.model.field)
    # the gradients of the first step, averaged by DDP
    losses = trainer.pipeline.get_train_loss_dict(0)[1]
    functools.reduce(torch.add, losses.values()).backward()
    fused = trainer.pipeline.model._steps._fused[None] is not None
    averaged = [p.grad.clone() for p in trainer.pipeline.model.field.parameters()]
    for p in trainer.pipeline.model.parameters():
        p.grad = None
    trainer.train()
    trained = [p.detach().clone() for p in trainer.pipeline.model.field.parameters()]
    content = {
        "fused": fused,
        "field": alone,
        "averaged": averaged,
        "trained": trained,
        "loss": float(losses["sdf"].detach()),
    }
    torch.save({**content, "pool": trainer.pipeline.datamanager.pool}, folder / f"rank{rank}.pt")
    dist.barrier()
    dist.destroy_process_group()


@pytest.mark.slow
@pytest.mark.parametrize("bfloat16", [False, True], ids=["fused step", "bfloat16"])
def test_two_processes_train_on_the_joined_batch(tmp_path: Path, sphere_file: Path, bfloat16: bool) -> None:
    torch.multiprocessing.spawn(_worker, (tmp_path, sphere_file, bfloat16), nprocs=2)
    one, other = (torch.load(tmp_path / f"rank{rank}.pt", weights_only=False) for rank in (0, 1))
    assert one["fused"] == other["fused"] == (not bfloat16)
    assert one["loss"] != other["loss"]  # each process has points of its own
    for a, b in zip(one["trained"], other["trained"], strict=True):
        assert torch.equal(a, b)
    gradients, trained = _by_one_process(one["field"], one["pool"], bfloat16)
    tolerance = 2e-2 if bfloat16 else 1e-4
    table = one["field"].network.mask_generator.table.shape
    for name, found, wanted in (("gradient", one["averaged"], gradients), ("weights", one["trained"], trained)):
        for a, b in zip(found, wanted, strict=True):
            far = int(((a - b).abs() >= tolerance * b.abs().max() + 1e-9).sum())
            if bfloat16 and name == "weights" and a.shape == table:
                # Adam moves an entry with next to no gradient as far as any other, whichever way bfloat16 rounded it
                # (21 of 53,632): a few may be far, as long as the whole is not.
                assert far < a.numel() / 1000 and float((a - b).norm()) < tolerance * float(b.norm())
            else:
                assert far == 0, name
    kept = SignedDistanceField.load(run := tmp_path / "sphere" / "sasnet-sdf" / "run")
    assert all(torch.equal(a, b) for a, b in zip(kept.parameters(), one["trained"], strict=True))
    assert (run / "nerfstudio_models" / f"step-{STEPS - 1:09d}.ckpt").is_file()


def _by_one_process(field: Any, pool: Any, bfloat16: bool) -> tuple[list[Tensor], list[Tensor]]:
    """First gradients and final weights of one process whose batches are those of both."""
    from sasnet_ns.training.objective import SDFObjective, progress_at, sdf_losses
    from sasnet_ns.training.recipe import Recipe, build_optimizers, learning_rate_factor
    from sdf_tools.pools import SDFBatch

    recipe, gradients = Recipe(steps=STEPS), []
    optimizers = build_optimizers(field.network, recipe)
    peaks = {role: optimizer.param_groups[0]["lr"] for role, optimizer in optimizers.items()}
    for step in range(STEPS):
        halves = [pool.batch(500, 2 * step + rank) for rank in (0, 1)]
        points, sdf, kind = (torch.cat([getattr(half, name) for half in halves]) for name in ("points", "sdf", "kind"))
        for parameter in field.parameters():
            parameter.grad = None
        with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
            losses, _ = sdf_losses(
                field, SDFBatch(points, sdf, kind, (0, 0, 0)), SDFObjective(), progress_at(step, STEPS)
            )
        functools.reduce(torch.add, losses.values()).backward()
        if not step:
            gradients = [p.grad.clone() for p in field.parameters() if p.grad is not None]
        for role, optimizer in optimizers.items():
            optimizer.param_groups[0]["lr"] = peaks[role] * learning_rate_factor(step, recipe)
            optimizer.step()
    return gradients, [p.detach() for p in field.parameters()]
