"""A finished run of any method as a function of space, without its data set."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from sasnet_ns.models.surface import LoadedSurface, field_state, in_world_axes
from sasnet_ns.networks import SignedDistanceField


def load_surface(path: Path, device: torch.device | str = "cpu") -> LoadedSurface:
    """The surface of a run.

    Args:
        path: the ``config.yml`` of a run, its folder, or a ``field.pt``.
        device: where the network runs.

    Raises:
        ValueError: there is no run, it has no checkpoint yet, or its method has no surface.
        MissingLibraryError: the run needs nerfstudio, which is not installed.
    """
    folder = path if path.is_dir() else path.parent
    file = path if path.suffix == ".pt" else folder / "field.pt"
    if file.is_file():
        return _from_field(SignedDistanceField.load(file, device))
    if not path.exists():
        raise ValueError(f"there is no run at '{path}'; give the config.yml that ns-train names when it finishes.")
    config_path = folder / "config.yml"
    if not config_path.is_file() or (path.is_file() and path.name != "config.yml"):
        raise ValueError(f"'{folder}' holds no field.pt and no config.yml; it is not the folder of a run.")
    config = _read_config(config_path)
    state = _last_checkpoint(folder, config)
    from sasnet_ns.models.surface_model import SASNetSurfaceConfig

    model = config.pipeline.model
    if isinstance(model, SASNetSurfaceConfig):
        return _from_surface_run(model, state, _world_to_scene(folder), device)
    from sasnet_ns.models.nerfacto import SASNetNerfactoModelConfig

    if isinstance(model, SASNetNerfactoModelConfig):
        from sasnet_ns.models.density_surface import density_surface

        return density_surface(model, state, _world_to_scene(folder), device)
    raise ValueError(f"'{folder}' is a run of {config.method_name}, which meshes cannot be extracted from.")


def _from_field(field: SignedDistanceField) -> LoadedSurface:
    field.eval()
    half = torch.full((3,), 0.5)
    return LoadedSurface(
        field, torch.stack([-half, half]), field.center.cpu(), float(field.scale), device=field.center.device
    )


def _read_config(path: Path) -> Any:
    from sdf_tools.errors import MissingLibraryError

    try:
        import nerfstudio.configs.base_config  # noqa: F401  (nerfstudio's writer cannot be imported first)
        import yaml
    except ImportError as error:
        raise MissingLibraryError(f"this run needs nerfstudio: pip install nerfstudio ({error}).") from error
    # As nerfstudio reads it: the file names Python classes, so it must be one's own.
    return yaml.load(path.read_text(), Loader=yaml.Loader)


def allow_numpy_scalars() -> None:
    """Let ``torch.load(weights_only=True)`` read the numpy scalars in other methods' checkpoints.

    nerfstudio's own schedulers leave them there, and nerfstudio 1.1.5 loads without saying otherwise: on torch 2.6 and
    later resuming, ns-eval and ns-viewer fail (nerfstudio issue 3683). They hold no code.
    """
    import numpy as np

    scalar: Any = np.float64(0).__reduce__()[0]  # numpy has moved it from one module to another
    kinds = {type(np.dtype(kind)) for kind in (np.float32, np.float64, np.int32, np.int64)}
    torch.serialization.add_safe_globals([scalar, np.dtype, *kinds])


def _last_checkpoint(folder: Path, config: Any) -> dict[str, Tensor]:
    """The model's weights without the pipeline's prefix.

    Raises:
        ValueError: the run saved none.
    """
    found = sorted((folder / config.relative_model_dir).glob("step-*.ckpt"))
    if not found:
        raise ValueError(f"'{folder}' has no checkpoint yet; let the run reach --steps-per-save steps or its end.")
    allow_numpy_scalars()
    state = torch.load(found[-1], map_location="cpu", weights_only=True)["pipeline"]
    names = {name: name.removeprefix("_model.").removeprefix("module.") for name in state if name.startswith("_model.")}
    return {short: state[name] for name, short in names.items()}


def _world_to_scene(folder: Path) -> Float[Tensor, "3 4"]:
    """The similarity from the data set's coordinates to the run's; the identity where none was written."""
    path = folder / "dataparser_transforms.json"
    if not path.is_file():
        return torch.eye(4, dtype=torch.float64)[:3]
    content = json.loads(path.read_text())
    return content["scale"] * torch.tensor(content["transform"], dtype=torch.float64)[:3]


def _from_surface_run(
    model: Any, state: dict[str, Tensor], world_to_scene: Float[Tensor, "3 4"], device: torch.device | str
) -> LoadedSurface:
    from nerfstudio.field_components.spatial_distortions import SceneContraction

    weights = field_state(state)
    codes = weights.get("color.appearance.embedding.weight")
    config = dataclasses.replace(model.sdf_field, init_field=None)
    field = config.setup(
        aabb=weights["aabb"],
        num_images=0 if codes is None else len(codes),
        use_average_appearance_embedding=model.use_average_appearance_embedding,
        spatial_distortion=SceneContraction(order=float("inf")),
    )
    field.load_state_dict(weights)
    field = field.to(device).eval()
    surface = in_world_axes(field.sdf, _trained_corners(field).cpu(), world_to_scene, field.surface_colors)
    return dataclasses.replace(surface, device=device)


def _trained_corners(field: Any) -> Float[Tensor, "8 3"]:
    """Corners of the region that the network covers, scene coordinates."""
    geometry = field.geometry
    if geometry.distortion is not None:
        low, high = field.aabb.detach()
        return torch.cartesian_prod(*torch.stack([low, high], dim=1))
    corners = torch.cartesian_prod(*torch.tensor([[-1.0, 1.0]] * 3, device=geometry.to_network.device))
    turn, shift = geometry.to_network[:, :3], geometry.to_network[:, 3]
    return torch.linalg.solve(turn, (corners - shift).T).T
