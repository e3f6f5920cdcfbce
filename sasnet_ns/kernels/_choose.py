"""Which backend a call runs on."""

from __future__ import annotations

import functools
import importlib.util
import os
import sys
import warnings

import torch
from torch import Tensor
from torch.autograd import forward_ad

from sdf_tools.errors import MissingLibraryError

INSTALL = {"numba": "pip install numba", "triton": "pip install triton", "tcnn": "see github.com/NVlabs/tiny-cuda-nn"}
MODULES = {"numba": "numba", "triton": "triton", "tcnn": "tinycudann"}


@functools.cache
def _load_error(backend: str) -> str | None:
    """Why a backend's library cannot be used, or None."""
    if importlib.util.find_spec(MODULES[backend]) is None:
        return f"{MODULES[backend]} is not installed"
    try:
        importlib.import_module(MODULES[backend])
    except Exception as error:  # a broken installation may raise anything
        return f"importing {MODULES[backend]} failed ({error})"
    if backend == "triton" and torch.cuda.is_available() and os.environ.get("TRITON_INTERPRET") != "1":
        try:
            importlib.import_module("triton.runtime").driver.active.get_current_device()
        except Exception as error:  # no C compiler, no header of Python, a GPU that it does not know
            return f"Triton does not start ({str(error).splitlines()[0] if str(error) else type(error).__name__})"
    return None


@functools.cache
def _warn_once(backend: str, reason: str) -> None:
    warnings.warn(
        f"The plain torch kernels are used, several times slower, because {reason}: {INSTALL[backend]}.", stacklevel=4
    )


def transformed(*tensors: Tensor | None) -> bool:
    """Whether torch.func or forward-mode differentiation follows a tensor: hand-written kernels would not see it."""
    if torch.compiler.is_compiling():
        return False
    given = [tensor for tensor in tensors if tensor is not None]
    if any(map(torch._C._functorch.is_functorch_wrapped_tensor, given)):
        return True
    return forward_ad._current_level >= 0 and any(
        forward_ad.unpack_dual(tensor).tangent is not None for tensor in given
    )


def batched(*tensors: Tensor) -> bool:
    """Whether torch.vmap holds a tensor, inside other transforms too: nothing can depend on its values."""
    functorch = torch._C._functorch
    for tensor in tensors:
        while functorch.is_functorch_wrapped_tensor(tensor):
            if functorch.is_batchedtensor(tensor):
                return True
            tensor = functorch.get_unwrapped(tensor)
    return False


def recorded() -> bool:
    """Whether torch.jit.trace or make_fx records torch's operations, of which hand-written kernels are none."""
    if torch.compiler.is_compiling():
        return False
    tracing = sys.modules.get("torch.fx.experimental.proxy_tensor")
    return torch.jit.is_tracing() or (tracing is not None and tracing.get_proxy_mode() is not None)


def choose(implementation: str, device: torch.device, fast_dtype: bool, allowed: tuple[str, ...]) -> str:
    """Backend for tensors on ``device``: ``torch``, ``numba``, ``triton`` or ``tcnn``.

    Args:
        implementation: a backend's name or ``auto``, which is ``torch`` while operations are recorded.
        device: where the tensors are.
        fast_dtype: whether the fast backends handle the dtype; if not, ``auto`` is ``torch``.
        allowed: the names that this kernel knows.

    Raises:
        MissingLibraryError: if a backend is asked for by name and cannot be loaded.
        ValueError: if the name is unknown, the backend cannot run on the device, or its work cannot be recorded.
    """
    if implementation == "torch":
        return "torch"
    if implementation == "auto":
        backend = {"cpu": "numba", "cuda": "triton"}.get(device.type, "torch")
        if not fast_dtype or backend == "torch" or recorded():
            return "torch"
        reason = _load_error(backend)
        if reason is not None:
            _warn_once(backend, reason)
            return "torch"
        return backend
    if implementation not in allowed:
        raise ValueError(f"Unknown implementation {implementation!r}; choose from auto, torch, {', '.join(allowed)}.")
    if recorded():
        raise ValueError(
            f"torch.jit.trace and make_fx cannot record implementation={implementation!r}; use 'auto' or 'torch'."
        )
    reason = _load_error(implementation)
    if reason is not None:
        raise MissingLibraryError(f"implementation={implementation!r} cannot run: {reason}; {INSTALL[implementation]}.")
    if implementation == "numba" and device.type != "cpu":
        raise ValueError(f"implementation='numba' runs on CPU tensors; these are on {device}.")
    interpreted = os.environ.get("TRITON_INTERPRET") == "1"  # Triton's own way to run kernels without a GPU
    if implementation == "triton" and device.type != "cuda" and not interpreted:
        raise ValueError(f"implementation='triton' runs on CUDA tensors; these are on {device}.")
    if implementation == "tcnn" and device.type != "cuda":
        raise ValueError(f"implementation='tcnn' runs on CUDA tensors; these are on {device}.")
    if not fast_dtype:
        raise ValueError(f"implementation={implementation!r} does not handle this dtype; use float32 or 'torch'.")
    return implementation
