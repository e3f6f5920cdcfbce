"""A loss of points and its gradient on CUDA, in Triton: one pass over the values, and the sum of its blocks."""

# No deferred annotations here: the interpreter of Triton 3.0 does not know constexpr by its text.
import torch
import triton
import triton.language as tl
from torch import Tensor

from sasnet_ns.kernels._device import on_device_of
from sasnet_ns.kernels.step_form import PointLoss


@triton.jit(do_not_specialize=["count", "channels"])
def _loss_kernel(  # type: ignore[no-untyped-def]
    f_ptr, t_ptr, weight_ptr, far_ptr, grad_ptr, sum_ptr, near, sign_margin, share, count, channels,
    squared: tl.constexpr, weighted: tl.constexpr, relative: tl.constexpr, absolute: tl.constexpr,
    block: tl.constexpr,
):  # fmt: skip
    """Gradients of a block of values, and the block's part of the loss; ``share`` is one over the number of values."""
    places = tl.program_id(0).to(tl.int64) * block + tl.arange(0, block)
    inside = places < count
    f = tl.load(f_ptr + places, mask=inside, other=0.0)
    t = tl.load(t_ptr + places, mask=inside, other=0.0)
    difference = f - t
    if absolute:
        difference = tl.abs(f) - t
    error = tl.abs(difference)
    weight = tl.where(inside, share, 0.0)
    if weighted:
        weight *= tl.load(weight_ptr + places // channels, mask=inside, other=0.0)
    if relative:
        far = tl.maximum(near / (tl.abs(t) + near), tl.load(far_ptr), propagate_nan=tl.PropagateNan.ALL)
        weight *= tl.where(error > sign_margin * tl.abs(t), 1.0, far)
    # the slope of |x| at 0 is 0, as torch has it
    slope = (difference > 0).to(tl.float32) - (difference < 0).to(tl.float32)
    if absolute:
        slope *= (f > 0).to(tl.float32) - (f < 0).to(tl.float32)
    value = weight * error
    if squared:
        value *= error
        slope *= 2.0 * error
    tl.store(grad_ptr + places, weight * slope, mask=inside)
    tl.store(sum_ptr + tl.program_id(0), tl.sum(value, axis=0))


BLOCK = 1024


def point_loss(predicted: Tensor, target: Tensor, loss: PointLoss, weight: Tensor | None) -> tuple[Tensor, Tensor]:
    """Loss and gradient (N, c) of ``predicted`` (N, c) against ``target`` (N, c), weights (N,) or None."""
    f, t = predicted.contiguous(), target.contiguous()
    gradient, sums = torch.empty_like(f), f.new_zeros(max(1, triton.cdiv(f.numel(), BLOCK)))
    far = loss.far_weight
    if not isinstance(far, Tensor):
        far = f.new_full((), far)
    if f.numel():
        with on_device_of(f):
            _loss_kernel[(sums.shape[0],)](
                f, t, f if weight is None else weight.contiguous(), far, gradient, sums,
                0.0 if loss.near is None else float(loss.near), float(loss.sign_margin), 1.0 / f.numel(),
                f.numel(), f.shape[1], squared=loss.power == 2, weighted=weight is not None,
                relative=loss.near is not None, absolute=loss.absolute, block=BLOCK,
            )  # fmt: skip
    return sums.sum(), gradient
