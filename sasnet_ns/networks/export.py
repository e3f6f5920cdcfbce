"""A trained field as one file for elsewhere: torch.export (.pt2), ONNX (.onnx), or weights alone."""

from __future__ import annotations

import copy
import io
import json
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import torch
from torch import nn

from sasnet_ns.networks.baselines.finer import Finer
from sdf_tools.errors import MissingLibraryError
from sdf_tools.io.writing import write_atomically

if TYPE_CHECKING:
    from sasnet_ns.networks.sdf import SignedDistanceField

Module = TypeVar("Module", bound=nn.Module)

SUFFIXES = (".pt2", ".onnx", ".safetensors", ".pt")


def portable(module: Module) -> Module:
    """A copy on the CPU whose kernels are plain torch operations, which exporters know, and differentiate right."""
    clone = copy.deepcopy(module).cpu().eval().requires_grad_(False)
    for part in clone.modules():
        for holder in (part, getattr(part, "config", None)):
            if hasattr(holder, "implementation"):
                holder.implementation = "torch"  # type: ignore[union-attr]
        if isinstance(part, Finer):  # a trace does not see whether points will require gradients
            part.detach_scale = False
    return clone


def export_field(field: SignedDistanceField, path: Path | str, bits: int = 32, step: int | None = None) -> None:
    """Write a field as a program from (N, 3) float32 box coordinates to (N,) signed distances in box units.

    ``.pt2`` loads with ``torch.export.load(path).module()``, ``.onnx`` with any ONNX runtime (input ``points``, output
    ``signed_distance``). The similarity ``box = (world - center) * scale`` goes along: in the ``.pt2`` as
    ``frame.json`` (``extra_files``), in the ``.onnx`` as metadata. ``.safetensors`` holds no program but the weights
    and, as JSON in its metadata, the network's name and options: nothing in it can run, and this package reads it back.
    ``.pt`` holds the same as torch writes it.

    Args:
        field: the trained field; it is not changed.
        path: file to write; it appears whole or not at all.
        bits: of the weights, 8 or 16 for a smaller .pt or .safetensors.
        step: training steps done, kept in a .pt or .safetensors where it is known.

    Raises:
        ValueError: the suffix is none of .pt2, .onnx, .safetensors and .pt, or ``bits`` is not for it.
        MissingLibraryError: .onnx without onnxscript, .safetensors without safetensors.
    """
    path = Path(path)
    if path.suffix not in SUFFIXES:
        raise ValueError(
            f"cannot export to '{path.name}'; name a .pt2 (torch.export), .onnx, .safetensors or .pt file."
        )
    if path.suffix in (".safetensors", ".pt"):
        field.save(path, step=step, bits=bits)
        return
    if bits != 32:
        raise ValueError(f"weights of {bits} bits go into a .safetensors or .pt file; '{path.name}' is a program.")
    # strict=False is the default from torch 2.7 on; the other way fails at autocast in torch 2.4.
    program = torch.export.export(
        portable(field), (torch.zeros(4, 3),), dynamic_shapes=({0: torch.export.Dim("points", min=1)},), strict=False
    )
    frame = {"center": field.center.tolist(), "scale": float(field.scale)}
    if path.suffix == ".pt2":
        # In memory first: torch's writer aborts the process when the disk is full.
        buffer = io.BytesIO()
        torch.export.save(program, buffer, extra_files={"frame.json": json.dumps(frame)})
        write_atomically(path, buffer.getvalue())
    else:
        write_atomically(path, partial(_save_onnx, program, frame))


def _save_onnx(program: torch.export.ExportedProgram, frame: dict[str, object], path: Path) -> None:
    try:
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise MissingLibraryError(
            "ONNX export needs onnxscript, which is not installed: pip install onnxscript in an environment of its own "
            "(its protobuf is not nerfstudio's), and export the run's field.pt there; a .pt2 needs nothing more."
        ) from error
    onnx_program = torch.onnx.export(
        program, input_names=["points"], output_names=["signed_distance"], dynamo=True, verbose=False
    )
    assert onnx_program is not None
    onnx_program.model.metadata_props.update({name: str(value) for name, value in frame.items()})
    # Weights stay inside: one file is what moves between machines.
    onnx_program.save(str(path), external_data=False)
