"""A nerfstudio datamanager without photographs: batches of points with their signed distance to one shape."""

from __future__ import annotations

import time
import warnings
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from jaxtyping import Bool, Float
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.data.datamanagers.base_datamanager import DataManager, DataManagerConfig
from nerfstudio.utils.rich_utils import CONSOLE
from torch import Tensor

from sasnet_ns.data.terminal import end_on_interrupt
from sasnet_ns.data.views import Axis, OrientedPoints, ShapeViews, orbit_cameras
from sasnet_ns.shapes.named import resolve_shape, shape_names
from sasnet_ns.shapes.prepare import require_inside
from sdf_tools.errors import ShapeError, ShapeWarning
from sdf_tools.geometry import Mesh, NormalizedShape, PointCloud, positions
from sdf_tools.pools import PoolConfig
from sdf_tools.ranges import require

if TYPE_CHECKING:
    from sdf_tools.distance.signed_distance import SignedDistance
    from sdf_tools.pools import SDFBatch

TRAIN_VIEWS, EVAL_VIEWS, VIEW_SIZE = 12, 4, 192
_SPLATS = 200_000  # surface samples that the pictures of the virtual views are drawn from


@dataclass
class GeometryProbe:
    """Fixed points on which training progress is measured, in box units.

    Attributes:
        points: (N, 3) uniform points in the shape's bounding box.
        inside: (N,) whether the shape contains them.
        surface: (M, 3) points on the shape's surface.
    """

    points: Float[Tensor, "N 3"]
    inside: Bool[Tensor, " N"]
    surface: Float[Tensor, "M 3"]


@dataclass
class ShapeDataManagerConfig(PoolConfig, DataManagerConfig):
    """Configuration of the datamanager that turns a mesh or point cloud into signed-distance samples."""

    _target: type = field(default_factory=lambda: ShapeDataManager)
    """Class to build."""
    data: Path | None = None
    """A shape's name (armadillo, bunny, dragon, happy_buddha, lucy, thai_statue), or a mesh or point-cloud file. The
    same as --data."""
    orientation: Literal["check", "guess", "trust"] = "check"
    """How the inside is found. check mends triangles and given normals where that is certain, says so, and refuses what
    would be a guess; guess takes the better guess; trust takes them as they are."""
    probe_points: int = 150_000
    """Points at which intersection over union is measured during training."""
    up_axis: Literal["x", "y", "z"] = "y"
    """The shape's upward direction, for the virtual cameras and the viewer (Lucy is z)."""


class ShapeDataManager(DataManager):
    """Signed-distance samples of one shape, and virtual views that stand in for photographs.

    A step's batch is a function of the seed and the step alone, so a resumed run sees exactly what an uninterrupted one
    would have seen. Only training builds the pool of samples; ``ns-viewer`` and ``ns-render`` read the shape when they
    need it and work without it otherwise.

    Args:
        config: see :class:`ShapeDataManagerConfig`.
        device: where batches live.
        test_mode: ``val`` during training; ``test`` and ``inference`` build no pool.
        world_size: number of processes.
        local_rank: this process among them; each draws batches of its own.

    Raises:
        ShapeError: ``data`` is missing, neither a name nor a file, or no usable shape.
        ValueError: a number of the configuration is out of range.
    """

    config: ShapeDataManagerConfig

    def __init__(
        self,
        config: ShapeDataManagerConfig,
        device: torch.device | str = "cpu",
        test_mode: Literal["test", "val", "inference"] = "val",
        world_size: int = 1,
        local_rank: int = 0,
        **_: Any,
    ) -> None:
        self.config = config
        if test_mode == "val":
            config.check()
            require("probe_points", config.probe_points, 1)
        self.device = torch.device(device)
        self.test_mode = test_mode
        if test_mode != "val":
            end_on_interrupt()
        self.world_size = world_size
        self.local_rank = local_rank
        super().__init__()
        up: Axis = config.up_axis
        metadata: dict[str, object] = {"up_axis": up, "seed": config.seed}
        if test_mode == "val":
            frame = self.normalized
            metadata |= {"center": frame.center, "scale": frame.scale, "noise": frame.noise}
            self.setup_train()
        self.train_dataset = ShapeViews(
            orbit_cameras(TRAIN_VIEWS, VIEW_SIZE, up), self._surface_for_views, metadata, "train"
        )
        self.eval_dataset = ShapeViews(
            orbit_cameras(EVAL_VIEWS, VIEW_SIZE, up, first_azimuth=0.35), self._surface_for_views, metadata, "eval"
        )

    # cached_property throughout: nerfstudio's viewer reads every plain property, which would load the shape.
    @cached_property
    def normalized(self) -> NormalizedShape:
        """The shape in box units; a point cloud without normals gets estimated ones."""
        from sasnet_ns.shapes.prepare import prepare_shape

        if self.config.data is None:
            raise ShapeError(f"No shape given; use --data with a file or one of: {', '.join(shape_names())}.")
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", ShapeWarning)
            shape = resolve_shape(self.config.data)
            if isinstance(shape, PointCloud) and shape.normals is None:
                CONSOLE.print(f"'{shape.name}' has no normals; estimating them.")
            ready = prepare_shape(shape, orientation=self.config.orientation, max_points=self.config.max_points)
        for warning in caught:
            CONSOLE.print(str(warning.message), highlight=False, markup=False)
        return ready

    def _surface_samples(self, count: int) -> OrientedPoints:
        """Points on the surface in box units with outward normals."""
        shape = self.normalized.shape
        if isinstance(shape, Mesh):
            from sdf_tools.sampling import sample_surface

            samples = sample_surface(shape, count, seed=self.config.seed + 2)
            return samples.points, samples.normals
        assert shape.normals is not None
        generator = torch.Generator().manual_seed(self.config.seed + 2)
        rows = torch.randperm(shape.points.shape[0], generator=generator)[:count]
        return shape.points[rows], shape.normals[rows]

    @cached_property
    def surface(self) -> OrientedPoints | None:
        """Surface samples for pictures and the viewer, or None if the shape cannot be read any more."""
        try:
            return self._surface_samples(_SPLATS)
        except ShapeError as error:
            CONSOLE.print(f"The reference shape is not shown: {error}")
            return None

    def _surface_for_views(self) -> OrientedPoints | None:
        return self.surface

    @cached_property
    def fixed_indices_eval_dataloader(self) -> list[tuple[Cameras, dict[str, Any]]]:
        """Every evaluation view with its picture."""
        return [self._eval_view(i) for i in range(EVAL_VIEWS)]

    def _eval_view(self, index: int) -> tuple[Cameras, dict[str, Any]]:
        assert self.eval_dataset is not None
        camera = self.eval_dataset.cameras[index : index + 1].to(self.device)
        return camera, {"image": self.eval_dataset[index]["image"], "image_idx": index}

    def setup_train(self) -> None:
        """Compute the pool of samples that batches are drawn from, and the points that progress is measured on."""
        from sdf_tools.distance.signed_distance import SignedDistance

        config, shape = self.config, self.normalized.shape
        start = time.perf_counter()
        with CONSOLE.status(f"Computing {config.pool_size:,} signed distances to '{shape.name}'"):
            self.distance = SignedDistance(shape)
            pool = config.build_pool(shape, distance=self.distance)
            require_inside(shape.name, pool.sdf)
            self.probe = self._probe(self.distance)
        size = f"{shape.faces.shape[0]:,} faces" if isinstance(shape, Mesh) else f"{shape.points.shape[0]:,} points"
        CONSOLE.print(
            f"'{shape.name}', {size}: {len(pool):,} signed distances in {time.perf_counter() - start:.1f} s",
            highlight=False,
        )
        self.pool = pool.to(self.device)
        self.dealer = config.dealer(self.pool, shape, distance=self.distance)

    def _probe(self, distance: SignedDistance) -> GeometryProbe:
        generator = torch.Generator().manual_seed(self.config.seed + 1)
        where = positions(self.normalized.shape)
        low, high = where.amin(0), where.amax(0)
        unit = torch.rand(self.config.probe_points, 3, generator=generator, dtype=torch.float64)
        points = low + (high - low) * unit
        surface, _ = self._surface_samples(20_000)
        parts = (points.float(), distance.contains(points), surface.float())
        return GeometryProbe(*(part.to(self.device) for part in parts))

    def setup_eval(self) -> None:
        """Nothing to prepare: what evaluation needs is computed when it is first used."""

    def next_train(self, step: int) -> tuple[SDFBatch, dict[str, Any]]:  # type: ignore[override]
        """The batch of a training step: where to evaluate, and (as nerfstudio wants it) the targets."""
        self.train_count += 1
        batch = self.dealer.batch(self.config.points_per_batch, step * self.world_size + self.local_rank)
        return batch, {"sdf": batch.sdf}

    def next_eval(self, step: int) -> tuple[SDFBatch, dict[str, Any]]:  # type: ignore[override]
        """A batch of the same distribution, from the far side of the pool."""
        self.eval_count += 1
        batch = self.pool.batch(self.config.points_per_batch, -1 - step)
        return batch, {"sdf": batch.sdf}

    def next_eval_image(self, step: int) -> tuple[Cameras, dict[str, Any]]:
        """The evaluation views in turn."""
        self.eval_count += 1
        return self._eval_view(self.eval_count % EVAL_VIEWS)

    def get_train_rays_per_batch(self) -> int:
        """Points per step."""
        return self.config.points_per_batch

    def get_eval_rays_per_batch(self) -> int:
        """Points per evaluation batch."""
        return self.config.points_per_batch

    def get_datapath(self) -> Path:
        """Where the viewer keeps camera paths: beside the shape's file, or here for a named shape."""
        path = self.config.data
        return path.parent if path is not None and path.is_file() else Path()

    def get_param_groups(self) -> dict[str, list[torch.nn.Parameter]]:
        """No parameters here."""
        return {}
