"""Losses for neural signed distance fields: pure functions of values and derivatives, each with its source.

``f`` is the field (negative inside), ``g`` its gradient, ``H`` its Hessian. Derivatives come from the network itself
where it offers them, else from ``gradient``, ``laplacian`` and ``hessian`` below, which stay differentiable. Weights
belong to the caller; ``sdf_tools.schedules`` holds schedules for them. All losses are scalars; an empty batch gives 0.

>>> import torch
>>> from sdf_tools import losses
>>> points = torch.tensor([[3.0, 0, 4], [0, 1, 0]], requires_grad=True)
>>> values = 2 * points.norm(dim=1) - 2  # twice the distance to the unit sphere
>>> g = losses.gradient(values, points)
>>> losses.eikonal_loss(g).item(), losses.manifold_loss(values[1:]).item()
(1.0, 0.0)
>>> round(losses.laplacian(g, points)[0].item(), 4)  # 2 * 2 / |x|
0.8
>>> kind = torch.tensor([losses.COARSE, losses.FINE])
>>> losses.coarse_to_fine_loss(values.detach(), torch.tensor([4.0, 0.5]), kind, reduction="sum").item()
0.4099999964237213
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

FINE, COARSE, UNIFORM = 0, 1, 2
"""What a sample is: close to the surface, farther from it, or anywhere in the box."""


def _mean(values: Tensor) -> Tensor:
    return values.mean() if values.numel() else values.sum()


def _refuse_other_shapes(names: str, first: Tensor, second: Tensor) -> None:
    """Shapes that differ would broadcast, to N^2 pairs, without a word."""
    if first.shape != second.shape:
        raise ValueError(f"{names} must have one shape; got {tuple(first.shape)} and {tuple(second.shape)}.")


def coarse_to_fine_loss(
    predicted: Float[Tensor, "*batch"],
    target: Float[Tensor, "*batch"],
    kind: Int[Tensor, "*batch"],
    *,
    coarse_weight: float = 0.01,
    uniform_weight: float | None = None,
    reduction: Literal["mean", "sum"] = "mean",
) -> Float[Tensor, ""]:
    """Squared error of signed distances, samples close to the surface weighted 1 and the others less.

    ``sum_fine (f - d)^2 + coarse_weight * sum_coarse (f - d)^2``: BACON (Lindell et al., CVPR 2022), FINER and SASNet
    take the sum over 5,000 fine and 5,000 coarse samples with coarse_weight 0.01.

    Args:
        predicted: field values.
        target: signed distances, same units.
        kind: what each sample is: ``FINE``, ``COARSE`` or ``UNIFORM``.
        coarse_weight: weight of coarse samples.
        uniform_weight: weight of uniform samples; None means coarse_weight.
        reduction: "sum" is BACON's; "mean" divides by the number of all samples, so that it does not grow with the
            batch.

    Raises:
        ValueError: the shapes differ, or an unknown reduction.
    """
    if not predicted.shape == target.shape == kind.shape:
        raise ValueError(
            f"predicted, target and kind must have one shape; got {tuple(predicted.shape)}, {tuple(target.shape)} and "
            f"{tuple(kind.shape)}."
        )
    if reduction not in ("mean", "sum"):
        raise ValueError(f"reduction must be 'mean' or 'sum'; got '{reduction}'.")
    uniform = coarse_weight if uniform_weight is None else uniform_weight
    weight = torch.full_like(predicted, coarse_weight, requires_grad=False)
    weight = weight.masked_fill(kind == FINE, 1.0).masked_fill(kind == UNIFORM, uniform)
    error = weight * (predicted - target).square()
    return error.sum() if reduction == "sum" else _mean(error)


def distance_weighted_loss(
    predicted: Float[Tensor, "*batch"],
    target: Float[Tensor, "*batch"],
    *,
    near: float = 3e-3,
    far_weight: float = 0.1,
    sign_margin: float = 0.5,
) -> Float[Tensor, ""]:
    """Absolute error of signed distances, the less weight the farther the sample is from the surface.

    ``mean max(near / (|d| + near), far_weight) |f - d|``. Without the lower bound this is the relative error that
    instant-ngp trains distances with (Mueller et al., SIGGRAPH 2022, Sec. 5.2), scaled by ``near``. Lowering
    ``far_weight`` during training settles empty space first and the surface afterwards. A sample whose error exceeds
    ``sign_margin |d|`` counts fully, wherever it is: that is where surface could appear in empty space.

    Args:
        predicted: field values.
        target: signed distances, same units.
        near: distance at which a sample counts half as much as one on the surface.
        far_weight: smallest weight, between 0 and 1.
        sign_margin: error that endangers a sample's sign, as a share of its distance; ``inf`` for none.

    Raises:
        ValueError: the shapes differ.
    """
    _refuse_other_shapes("predicted and target", predicted, target)
    error = (predicted - target).abs()
    weight = (near / (target.abs() + near)).clamp_min(far_weight)
    weight = torch.where(error.detach() > sign_margin * target.abs(), torch.ones_like(weight), weight)
    return _mean(weight * error)


def eikonal_loss(gradient: Float[Tensor, "*batch d"], power: int = 2) -> Float[Tensor, ""]:
    """``mean | |g| - 1 |^power``: distances grow by one per unit.

    Power 2: IGR (Gropp et al., ICML 2020, eq. 2). Power 1: SIREN (Sitzmann et al., NeurIPS 2020, eq. 6), DiGS.
    """
    return _mean((gradient.norm(dim=-1) - 1).abs().pow(power))


def off_surface_loss(values: Float[Tensor, "*batch"], alpha: float = 100.0) -> Float[Tensor, ""]:
    """``mean exp(-alpha |f|)`` at points away from the surface: no zeros there (SIREN, eq. 6, alpha >> 1)."""
    return _mean(torch.exp(-alpha * values.abs()))


def manifold_loss(values: Float[Tensor, "*batch"]) -> Float[Tensor, ""]:
    """``mean |f|`` at surface points: the field vanishes there (IGR, eq. 4, first term; SIREN, eq. 6)."""
    return _mean(values.abs())


def normal_alignment_loss(
    gradient: Float[Tensor, "*batch d"], normals: Float[Tensor, "*batch d"], *, signed: bool = True
) -> Float[Tensor, ""]:
    """``mean 1 - cos(g, n)`` at surface points (SIREN, eq. 6); ``1 - |cos|`` for normals without orientation.

    Raises:
        ValueError: the shapes differ.
    """
    _refuse_other_shapes("gradient and normals", gradient, normals)
    cosine = torch.nn.functional.cosine_similarity(gradient, normals, dim=-1)
    return _mean(1 - (cosine if signed else cosine.abs()))


def normal_difference_loss(
    gradient: Float[Tensor, "*batch d"], normals: Float[Tensor, "*batch d"]
) -> Float[Tensor, ""]:
    """``mean |g - n|`` at surface points: direction and length at once (IGR, eq. 4, second term).

    Raises:
        ValueError: the shapes differ.
    """
    _refuse_other_shapes("gradient and normals", gradient, normals)
    return _mean((gradient - normals).norm(dim=-1))


def sign_agnostic_loss(
    values: Float[Tensor, "*batch"], unsigned_distance: Float[Tensor, "*batch"], power: int = 1
) -> Float[Tensor, ""]:
    """``mean | |f| - h |^power`` with unsigned distances ``h`` to a raw cloud (SAL, Atzmon and Lipman 2020, eq. 2).

    Both signs fit equally well: a network that starts as the distance of a sphere ends up with a sign of its own.

    Raises:
        ValueError: the shapes differ.
    """
    _refuse_other_shapes("values and unsigned_distance", values, unsigned_distance)
    return _mean((values.abs() - unsigned_distance).abs().pow(power))


def divergence_loss(laplacian: Float[Tensor, "*batch"]) -> Float[Tensor, ""]:
    """``mean |div g|``, the Laplacian's magnitude (DiGS, Ben-Shabat et al., CVPR 2022).

    Makes surfaces grow smoothly from points without normals; its weight has to vanish while training.
    """
    return _mean(laplacian.abs())


def curvature_loss(laplacian: Float[Tensor, "*batch"]) -> Float[Tensor, ""]:
    """``mean |trace H|`` at surface points, twice the mean curvature there (Neuralangelo, Li et al., CVPR 2023, eq. 8).

    The same number as ``divergence_loss``, used near the surface and usually on ``numerical_laplacian``.
    """
    return _mean(laplacian.abs())


def directional_divergence_loss(
    gradient: Float[Tensor, "*batch d"], gradient_change: Float[Tensor, "*batch d"]
) -> Float[Tensor, ""]:
    """``mean |g . H g| / |g|^2``: second derivative along the gradient (StEik, Yang et al., NeurIPS 2023).

    Zero for every distance field, whatever its curvature, unlike the full divergence.

    Args:
        gradient: ``g``.
        gradient_change: ``H g``, from ``hessian_gradient_product``.

    Raises:
        ValueError: the shapes differ.
    """
    _refuse_other_shapes("gradient and gradient_change", gradient, gradient_change)
    along = (gradient * gradient_change).sum(-1)
    return _mean(along.abs() / gradient.square().sum(-1).clamp_min(1e-8))


def singular_hessian_loss(hessian: Float[Tensor, "*batch 3 3"]) -> Float[Tensor, ""]:
    """``mean |det H|`` near the surface (Neural-Singular-Hessian, Wang et al., SIGGRAPH Asia 2023).

    A distance field has ``H g = 0``, so its Hessian is singular.
    """
    return _mean(torch.linalg.det(hessian).abs())


def heat_loss(
    values: Float[Tensor, "*batch"], gradient: Float[Tensor, "*batch d"], absorption: float
) -> Float[Tensor, ""]:
    """``mean exp(-2 a |f|) (|g|^2 + 1) / 2`` in the domain (HotSpot, Wang et al., CVPR 2025).

    The energy of the screened Poisson equation whose solution ``exp(-a |f|)`` is 1 on the surface: as the absorption
    ``a`` grows, its logarithm over ``-a`` becomes the distance (Varadhan). Without signs; unlike the Eikonal loss it
    has one minimum. Goes with ``manifold_loss``.

    Args:
        values: ``f``.
        gradient: ``g``.
        absorption: ``a``, in one over the units of ``f``.

    Raises:
        ValueError: the shapes differ.
    """
    if values.shape != gradient.shape[:-1]:
        raise ValueError(
            f"values must have one number for each gradient; got {tuple(values.shape)} and {tuple(gradient.shape)}."
        )
    heat = torch.exp(-2 * absorption * values.abs())
    return _mean(heat * (gradient.square().sum(-1) + 1) / 2)


def mask_sparsity_loss(masks: Sequence[Float[Tensor, "*batch groups"] | None]) -> Float[Tensor, ""]:
    """Mean over points of the sum of all mask values, ``mean |m|_1`` (SASNet's sparsity term).

    None stands for a layer without masks, as in what ``SASNet.masks`` returns. The paper publishes no weight for it;
    note that this grows with the number of groups.
    """
    there = [mask for mask in masks if mask is not None]
    if not there:
        return torch.zeros(())
    return torch.stack([_mean(mask.abs().sum(-1)) for mask in there]).sum()


def gradient(values: Float[Tensor, "*batch"], points: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch d"]:
    """Gradient of each value with respect to its point, by automatic differentiation; differentiable again."""
    return torch.autograd.grad(values.sum(), points, create_graph=True)[0]


def _change(total: Float[Tensor, ""], points: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch d"]:
    """Derivative of a part of the gradient; zeros where, as for affine fields, it is the same at all points."""
    found = None
    if total.requires_grad or not points.requires_grad:  # else the constant has no graph, which autograd refuses
        (found,) = torch.autograd.grad(total, points, create_graph=True, allow_unused=True)
    return 0 * points if found is None else found


def hessian_gradient_product(
    gradient: Float[Tensor, "*batch d"], points: Float[Tensor, "*batch d"]
) -> Float[Tensor, "*batch d"]:
    """``H g = grad(|g|^2 / 2)``: one backward pass, where the full Hessian takes ``d``."""
    return _change(gradient.square().sum() / 2, points)


def hessian(gradient: Float[Tensor, "*batch d"], points: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch d d"]:
    """Hessian of each value with respect to its point, in ``d`` backward passes; differentiable again."""
    rows = [_change(gradient[..., i].sum(), points) for i in range(points.shape[-1])]
    return torch.stack(rows, dim=-2)


def laplacian(gradient: Float[Tensor, "*batch d"], points: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch"]:
    """``div g``, the Hessian's trace; differentiable again."""
    return torch.diagonal(hessian(gradient, points), dim1=-2, dim2=-1).sum(-1)


def numerical_laplacian(
    field: Callable[[Tensor], Tensor], points: Float[Tensor, "*batch d"], step: float
) -> Float[Tensor, "*batch"]:
    """Laplacian by central differences, blind to what is finer than ``step`` (Neuralangelo, eq. 7)."""
    total = -2 * points.shape[-1] * field(points)
    for axis in range(points.shape[-1]):
        shift = torch.zeros(points.shape[-1], dtype=points.dtype, device=points.device)
        shift[axis] = step
        total = total + field(points + shift) + field(points - shift)
    return total / step**2
