"""A trained field as one file that runs without this package: torch.export (.pt2) or ONNX (.onnx)."""

from __future__ import annotations

import copy
import json
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import nn

from sdf_tools.errors import needs
from sdf_tools.io.writing import write_atomically

if TYPE_CHECKING:
    from sasnet_ns.networks.sdf import SignedDistanceField

SUFFIXES = (".pt2", ".onnx")


def portable(module: nn.Module) -> nn.Module:
    """A copy on the CPU whose kernels are plain torch operations, which every exporter knows."""
    clone = copy.deepcopy(module).cpu().eval().requires_grad_(False)
    for part in clone.modules():
        for holder in (part, getattr(part, "config", None)):
            if hasattr(holder, "implementation"):
                holder.implementation = "torch"  # type: ignore[union-attr]
    return clone


def export_field(field: SignedDistanceField, path: Path | str) -> None:
    """Write a field as a program from (N, 3) float32 box coordinates to (N,) signed distances in box units.

    ``.pt2`` loads with ``torch.export.load(path).module()``, ``.onnx`` with any ONNX runtime (input ``points``, output
    ``signed_distance``). The similarity ``box = (world - center) * scale`` goes along: in the ``.pt2`` as
    ``frame.json`` (``extra_files``), in the ``.onnx`` as metadata.

    Args:
        field: the trained field; it is not changed.
        path: file to write; it appears whole or not at all.

    Raises:
        ValueError: the suffix is neither .pt2 nor .onnx.
        MissingLibraryError: .onnx without onnxscript.
    """
    path = Path(path)
    if path.suffix not in SUFFIXES:
        raise ValueError(f"cannot export to '{path.name}'; name a .pt2 (torch.export) or .onnx file.")
    program = torch.export.export(
        portable(field), (torch.zeros(4, 3),), dynamic_shapes=({0: torch.export.Dim("points", min=1)},)
    )
    frame = {"center": field.center.tolist(), "scale": float(field.scale)}
    if path.suffix == ".pt2":
        save = partial(torch.export.save, program, extra_files={"frame.json": json.dumps(frame)})
    else:
        save = partial(_save_onnx, program, frame)
    write_atomically(path, save)


def _save_onnx(program: torch.export.ExportedProgram, frame: dict[str, object], path: Path) -> None:
    with needs("onnxscript", "ONNX export"):
        import onnxscript  # noqa: F401
    onnx_program = torch.onnx.export(
        program, input_names=["points"], output_names=["signed_distance"], dynamo=True, verbose=False
    )
    assert onnx_program is not None
    onnx_program.model.metadata_props.update({name: str(value) for name, value in frame.items()})
    # Weights stay inside: one file is what moves between machines.
    onnx_program.save(str(path), external_data=False)
