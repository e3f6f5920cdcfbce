"""Distances between surfaces: Chamfer in every convention, exact point-to-surface, F-score, normals."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from sdf_tools.distance.signed_distance import SignedDistance
from sdf_tools.errors import ShapeError
from sdf_tools.geometry import Mesh, Shape
from sdf_tools.sampling import sample_surface
from sdf_tools.spatial.neighbours import nearest_neighbours
from sdf_tools.topology import unit_face_normals

Convention = Literal["bacon", "occnet_l1", "occnet_l2", "deepsdf", "point_to_mesh"]

_SAMPLES = {"bacon": 300_000, "occnet_l1": 100_000, "occnet_l2": 100_000, "deepsdf": 30_000, "point_to_mesh": 200_000}


def nearest_distances(queries: Float[Tensor, "N 3"], points: Float[Tensor, "M 3"]) -> Float[Tensor, " N"]:
    """Distance from each query to the nearest of ``points``, float64; NaN for a query that is not finite.

    Raises:
        ValueError: a point is not finite.
    """
    if not torch.isfinite(points).all():
        raise ValueError("points must be finite; leave out those that are NaN or infinite.")
    finite = torch.isfinite(queries).all(dim=-1).cpu()
    asked = queries.detach().cpu().double()
    search = nearest_neighbours(points.detach().cpu().double().numpy())
    distance = torch.full((len(asked),), math.nan, dtype=torch.float64)
    distance[finite] = torch.from_numpy(search(asked[finite].numpy(), 1)[0][:, 0])
    return distance


def require_samples(name: str, number: int, least: int = 1) -> None:
    """Refuse a number of samples from which nothing can be measured.

    Raises:
        ValueError: it is less than ``least``.
    """
    if number < least:
        raise ValueError(f"{name} must be at least {least}, not {number}.")


def require_seed(seed: int) -> None:
    """Refuse a seed that some generator does not take, before anything is measured.

    Raises:
        ValueError: it is negative, or has more than 63 bits.
    """
    if not 0 <= seed < 2**63:
        raise ValueError(f"seed must be from 0 to {2**63 - 1}, not {seed}.")


def require_mesh(shape: Shape) -> None:
    """Refuse a point cloud where meshes are compared.

    Raises:
        ShapeError: it is a point cloud.
    """
    if not isinstance(shape, Mesh):
        raise ShapeError(f"'{shape.name}' is a point cloud, not a mesh; compare it by evaluate_cloud.")


def chamfer(
    prediction: Mesh,
    reference: Mesh,
    convention: Convention = "point_to_mesh",
    samples: int | None = None,
    seed: int = 0,
) -> float:
    """Chamfer distance between two meshes as given (no normalisation here), on area-uniform samples of both.

    ``d`` runs over samples of one mesh and is the distance to the nearest sample of the other:

    - "bacon": mean d^2 + mean d^2, 300,000 samples (BACON, FINER, SASNet's Table 3). Also what DiGS calls "DeepSDF".
    - "deepsdf": mean d^2 + mean d^2, 30,000 samples (DeepSDF).
    - "occnet_l1": (mean d + mean d) / 2, 100,000 samples (Occupancy Networks, ConvONet; with 1M samples DiGS on SRB).
    - "occnet_l2": (mean d^2 + mean d^2) / 2, 100,000 samples (Occupancy Networks).
    - "point_to_mesh": (mean d + mean d) / 2 with exact distances to the other mesh's triangles: no sampling floor.

    Two samplings of the same surface already score ``chamfer_floor`` in the squared conventions.

    Args:
        prediction: one mesh.
        reference: the other, same units.
        convention: see above.
        samples: per mesh; None is the convention's own number.
        seed: of the samples.

    Returns:
        In the meshes' units, squared for the conventions with d^2.

    Raises:
        ValueError: no such convention, or fewer samples than 1.
        ShapeError: a mesh has no area, or is a point cloud.
    """
    require_mesh(prediction)
    require_mesh(reference)
    if convention not in get_args(Convention):
        raise ValueError(f"convention must be one of {', '.join(get_args(Convention))}; got '{convention}'.")
    count = _SAMPLES[convention] if samples is None else samples
    require_samples("samples", count)
    a = sample_surface(prediction, count, seed).points
    b = sample_surface(reference, count, seed + 1).points
    if convention == "point_to_mesh":
        forward = SignedDistance(reference, sign="unsigned")(a)
        backward = SignedDistance(prediction, sign="unsigned")(b)
    else:
        forward, backward = nearest_distances(a, b), nearest_distances(b, a)
    power = 1 if convention in ("occnet_l1", "point_to_mesh") else 2
    total = float(forward.pow(power).mean() + backward.pow(power).mean())
    return total if convention in ("bacon", "deepsdf") else total / 2


def chamfer_floor(area: float, samples: int = 300_000) -> float:
    """What "bacon" and "deepsdf" Chamfer give two independent samplings of one and the same surface: ``2 A / (pi n)``.

    Samples are a Poisson process of density n / A on the surface; its expected squared nearest distance is A / (pi n).
    """
    return 2 * area / (math.pi * samples)


@dataclass(frozen=True)
class SurfaceError:
    """Exact errors at area-uniform samples of one mesh, measured to the other.

    Attributes:
        points: (N, 3) the samples.
        distance: (N,) unsigned distance to the other surface's closest triangle.
        cosine: (N,) cosine between the face normals of the sampled and the closest triangle.
    """

    points: Float[Tensor, "N 3"]
    distance: Float[Tensor, " N"]
    cosine: Float[Tensor, " N"]


def surface_error(source: Mesh, target: SignedDistance, samples: int = 200_000, seed: int = 0) -> SurfaceError:
    """Distances and normals from samples of ``source`` to the mesh behind ``target`` (``sign="unsigned"`` suffices)."""
    drawn = sample_surface(source, samples, seed)
    closest = target.closest(drawn.points)
    assert isinstance(target.shape, Mesh)
    normals = torch.from_numpy(unit_face_normals(target.shape.vertices.numpy(), target.shape.faces.numpy()))
    cosine = (drawn.normals * normals[closest.faces]).sum(-1).clamp(-1, 1)
    return SurfaceError(drawn.points, closest.distance.abs(), cosine)


def f_score(
    prediction_distance: Float[Tensor, " N"], reference_distance: Float[Tensor, " M"], threshold: float
) -> float:
    """Harmonic mean of precision and recall at ``threshold`` (Knapitsch et al. 2017, Tanks and Temples).

    Precision is the share of prediction samples closer than the threshold to the reference, recall the reverse.
    1 % of the longest side is the threshold most often quoted.
    """
    precision = float((prediction_distance < threshold).double().mean())
    recall = float((reference_distance < threshold).double().mean())
    return 2 * precision * recall / (precision + recall) if precision + recall > 0 else 0.0


def vertex_error(mesh: Mesh, reference: Mesh, *, signed: bool = True) -> Float[Tensor, " V"]:
    """Distance of every vertex to the reference's surface, in their units: what error-coloured renderings show.

    Negative inside the reference if ``signed``.
    """
    return SignedDistance(reference, sign="auto" if signed else "unsigned")(mesh.vertices)
