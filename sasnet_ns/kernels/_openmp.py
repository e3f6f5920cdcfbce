"""torch's own OpenMP threads, and how compiled code hands them work.

torch's idle workers spin for a while after each of its products, in wait for the next. Threads of our own would have to
take the cores from them; work handed to that same team starts at once. Handing it over from compiled code costs a
microsecond; from Python every thread would first wait for the interpreter's lock, which took longer than the work.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

Team = tuple[int, int, int, int]
"""Addresses of GOMP_parallel, omp_get_thread_num and omp_get_num_threads, and the number of threads to ask for."""


def team() -> Team | None:
    """torch's threads; None where their library cannot be asked."""
    addresses = _addresses()
    # Always torch's own number of threads: a team of another size would be built anew each time.
    return None if addresses is None else (*addresses, torch.get_num_threads())


@functools.cache
def _addresses() -> tuple[int, int, int] | None:
    """In the OpenMP library that comes with torch and is loaded already."""
    try:
        loaded = Path("/proc/self/maps").read_text().splitlines()
    except OSError:
        return None
    folder = f"{Path(torch.__file__).resolve().parent / 'lib'}/"  # maps name no links
    for line in loaded:
        path = line[line.find("/") :]
        if path.startswith(folder) and Path(path).name.startswith(("libgomp", "libiomp5", "libomp")):
            library = ctypes.CDLL(path)
            if hasattr(library, "GOMP_parallel"):
                names = ("GOMP_parallel", "omp_get_thread_num", "omp_get_num_threads")
                run, number, size = (ctypes.cast(getattr(library, name), ctypes.c_void_p).value or 0 for name in names)
                return run, number, size
    return None


def _on_team(typing_context: Any, kernel: Any, team: Any, parts: Any, arguments: Any) -> tuple[Any, Callable[..., Any]]:
    """For compiled code: run ``kernel(part, parts, *arguments)`` for every part on a :data:`Team`; wait for all.

    This is what a C compiler makes of ``#pragma omp parallel``: the arguments in a struct, and a function of their
    address in which each thread takes every so many-th part. Kernels must not raise.
    """
    dispatcher = kernel.dispatcher
    signature = kernel.get_call_type(typing_context, (types.intp, types.intp, *arguments.types), {})

    def generate(context: Any, builder: Any, _: Any, values: Any) -> Any:
        overload = dispatcher.overloads[signature.args]
        context.active_code_library.add_linking_library(overload.library)
        word, address, integer = context.get_value_type(types.intp), cgutils.voidptr_t, ir.IntType(32)
        run, number, size, threads = cgutils.unpack_tuple(builder, values[1], 4)
        unpacked = cgutils.unpack_tuple(builder, values[3])
        shared = cgutils.alloca_once_value(builder, cgutils.pack_struct(builder, [values[2], number, size, *unpacked]))

        body_type = ir.FunctionType(ir.VoidType(), [address])
        name = builder.module.get_unique_name(f"{dispatcher.__name__}.member")
        body = ir.Function(builder.module, body_type, name=name)
        body.linkage = "internal"
        inside = ir.IRBuilder(body.append_basic_block())
        fields = cgutils.unpack_tuple(inside, inside.load(inside.bitcast(body.args[0], shared.type)))
        question = ir.FunctionType(integer, []).as_pointer()
        member, members = (inside.zext(inside.call(inside.inttoptr(f, question), []), word) for f in fields[1:3])
        with cgutils.for_range_slice(inside, member, fields[0], members) as (part, _):
            context.call_internal_no_propagate(inside, overload.fndesc, signature, [part, fields[0], *fields[3:]])
        inside.ret_void()

        entry = ir.FunctionType(ir.VoidType(), [body_type.as_pointer(), address, integer, integer]).as_pointer()
        arguments_ = [body, builder.bitcast(shared, address), builder.trunc(threads, integer), integer(0)]
        builder.call(builder.inttoptr(run, entry), arguments_)
        return context.get_dummy_value()

    return types.none(kernel, team, parts, arguments), generate


on_team: Any = intrinsic(_on_team)
