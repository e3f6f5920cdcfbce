"""What the Triton kernels need of a GPU, from compiling them for one; none has to be at hand.

Arguments are specialised as a launch would: pointers are aligned, integers equal to 1 become constants, multiples of 16
are known to be. ``stack`` above 0 means that registers are kept in memory.
"""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.report import print_table, write_rows

CAPABILITY = 90


@dataclass
class Usage:
    """Resources of one compiled kernel.

    Attributes:
        kernel: its name and setting.
        registers: per thread, at most 255.
        stack: bytes per thread in memory that hold what registers do not.
        shared: bytes of shared memory per block of threads.
    """

    kernel: str
    registers: int
    stack: int
    shared: int


def run(json_path: Path | None, quick: bool) -> None:
    """Compile every kernel in the settings that networks use; print a table and write it as JSON."""
    rows = [compile_kernel(name, *case) for name, case in cases(quick).items()]
    lines = [(r.kernel, *(f"{n:,}" for n in (r.registers, r.stack, r.shared))) for r in rows]
    print_table(f"compiled for sm_{CAPABILITY}", ("kernel",), ("registers", "stack", "shared"), lines)
    write_rows(json_path, rows)


def cases(quick: bool) -> dict[str, tuple[Any, ...]]:
    """Name to the arguments of :func:`compile_kernel` after it."""
    from sasnet_ns.kernels import _triton_grid as grid
    from sasnet_ns.kernels import _triton_loss as losses
    from sasnet_ns.kernels import _triton_sine as sine

    found: dict[str, tuple[Any, ...]] = {}
    level = {"levels_ptr": "*i32", "count": 10_000, "entries": 20_000, "table_mask": 4095}
    least = {"levels_ptr": "*i32", "count": 1, "entries": 16, "table_mask": 1}
    shape = {"levels": 8, "features": 2, "padded": 2, "block": grid.BLOCK, "in_dim": 3, "smooth": True}
    for tangent in (False, True):
        flags = {**shape, "tangent": tangent}
        name = ", derivative" if tangent else ""
        found[f"gather{name}"] = (grid._gather_kernel, {**flags, "scatter": False}, level)
        found[f"scatter{name}"] = (grid._gather_kernel, {**flags, "scatter": True}, level)
        found[f"contract{name}"] = (grid._contract_kernel, flags, level)
    found["gather, tables of 2 entries, 1 point"] = (
        grid._gather_kernel, {**shape, "tangent": False, "scatter": False}, least
    )  # fmt: skip
    found["gather, bfloat16 table"] = (
        grid._gather_kernel, {**shape, "tangent": False, "scatter": False}, {**level, "table_ptr": "*bf16"}
    )  # fmt: skip
    numbers = {"borders_ptr": "*i32", "omega": 30.0, "count": 10_000, "free": 0}
    for columns in (24, 128) if quick else (24, 64, 128, 224):
        sizes = {**numbers, "groups": 224 // columns, "width": 224}
        blocks = {"block_rows": sine.BLOCK_ROWS, "block_columns": sine.block_columns(columns)}
        for kernel, name, more in (
            (sine._forward_kernel, "sine forward", {"in_dim": 0}),
            (sine._forward_kernel, "embedding forward", {"in_dim": 3}),
            (sine._backward_kernel, "sine backward", {"in_dim": 0}),
            (sine._backward_kernel, "embedding backward", {"in_dim": 3}),
            (sine._backward2_kernel, "sine second backward", {}),
        ):
            found[f"{name}, groups of {columns}"] = (kernel, {**blocks, **more, "masked": True}, sizes, sine.WARPS)
    half = {"z_ptr": "*bf16", "mask_ptr": "*bf16", "grad_z_ptr": "*bf16", "grad_mask_ptr": "*bf16"}
    found["sine backward, bfloat16"] = (
        sine._backward_kernel, {**blocks, "in_dim": 0, "masked": True}, {**sizes, **half}, sine.WARPS
    )  # fmt: skip
    rules = {"squared": False, "weighted": False, "relative": True, "absolute": False, "block": losses.BLOCK}
    values = {"near": 1e-3, "sign_margin": 0.5, "share": 1e-4, "count": 10_000, "channels": 1}
    found["loss"] = (losses._loss_kernel, rules, values)
    return found


def compile_kernel(
    name: str, kernel: Any, constants: dict[str, Any], arguments: dict[str, Any], warps: int = 4
) -> Usage:
    """Compile one kernel.

    Args:
        name: for the table.
        kernel: decorated by ``triton.jit``.
        constants: its ``tl.constexpr`` parameters.
        arguments: of the others, an integer's or float's value or a pointer's type; ``*_ptr`` is ``*fp32`` by default.
        warps: of a block of threads.

    Raises:
        RuntimeError: the compiler's message.
    """
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    signature: dict[str, str] = {}
    known = dict(constants)
    aligned: dict[tuple[int, ...], list[list[Any]]] = {}
    for index, parameter in enumerate(kernel.params):
        key, value = parameter.name, arguments.get(parameter.name)
        if key in constants:
            signature[key] = "constexpr"
        elif key.endswith("_ptr"):
            signature[key] = value or "*fp32"
            aligned[index,] = [["tt.divisibility", 16]]
        elif isinstance(value, float):
            signature[key] = "fp32"
        elif value == 1 and not parameter.do_not_specialize:
            signature[key], known[key] = "constexpr", 1
        else:
            signature[key] = "i32"
            if value is not None and value % 16 == 0 and not parameter.do_not_specialize:
                aligned[index,] = [["tt.divisibility", 16]]
    positions = {(kernel.arg_names.index(key),): value for key, value in known.items()}
    source = ASTSource(fn=kernel, signature=signature, constexprs=positions, attrs=aligned)
    built = triton.compile(source, target=GPUTarget("cuda", CAPABILITY, 32), options={"num_warps": warps})
    registers, stack = _resources(built.asm["cubin"])
    return Usage(name, registers, stack, built.metadata.shared)


def _resources(cubin: bytes) -> tuple[int, int]:
    """Registers and stack of a compiled program, as the toolkit's own tool reads them."""
    import triton

    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "kernel.cubin"
        file.write_bytes(cubin)
        text = subprocess.run(
            [os.fspath(tool), "-res-usage", os.fspath(file)], capture_output=True, text=True, check=True
        ).stdout
    found = re.search(r"REG:(\d+) STACK:(\d+)", text)
    if found is None:
        raise RuntimeError(f"cuobjdump says nothing about registers: {text[-200:]}")
    return int(found[1]), int(found[2])
