"""A finished run of any method as a function of space, without its data set."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from sasnet_ns.models.run_description import FILE, apply_options, read_description
from sasnet_ns.models.surface import LoadedSurface, field_state, in_world_axes
from sasnet_ns.networks import SignedDistanceField
from sasnet_ns.networks.weights import read_weights
from sdf_tools.errors import MissingLibraryError


def load_surface(
    path: Path,
    device: torch.device | str = "cpu",
    frame: Literal["data", "colmap"] | None = None,
    *,
    trust: bool = False,
) -> LoadedSurface:
    """The surface of a run.

    Nothing in the run's files can run code: weights are read as weights, options from ``run.json``.

    Args:
        path: the ``config.yml`` of a run, its folder, or a ``field.pt`` or ``field.safetensors``.
        device: where the network runs.
        frame: axes of the result for a run on photographs: those of ``transforms.json``, its cameras and its points
            (``data``, also None), or COLMAP's, which ns-process-data turns before it writes them.
        trust: read a ``config.yml`` that has no ``run.json`` beside it as nerfstudio does, which runs what it says.

    Raises:
        ValueError: there is no run, it has no checkpoint yet, its method has no surface, or it must be trusted; a
            ``frame`` is asked for that it does not have.
        MissingLibraryError: the run needs nerfstudio, which is not installed.
    """
    folder = path if path.is_dir() else path.parent
    alone = path.suffix in (".pt", ".safetensors") and not path.is_dir()
    if frame is not None and (alone or (folder / "field.pt").is_file()):
        raise ValueError(f"'{path}' was not trained on photographs and has the axes of its shape alone.")
    if alone:
        return _from_field(load_field(path, device)[0])
    if not path.exists():
        raise ValueError(f"there is no run at '{path}'; give the config.yml that ns-train names when it finishes.")
    if path.is_file() and path.name not in _RUN_FILES:
        none = "" if (folder / "field.pt").is_file() else ", and its folder holds no field.pt"
        raise ValueError(
            f"'{path}' is no config.yml, .pt or .safetensors{none}; name one of these, or the folder of a run."
        )
    if (folder / "field.pt").is_file():
        return _from_field(load_field(folder, device)[0])
    config_path = folder / "config.yml"
    description = read_description(folder)
    if description is None and not config_path.is_file():
        raise ValueError(f"'{folder}' holds no field.pt and no config.yml; it is not the folder of a run.")
    if description is None and not trust:
        raise ValueError(
            f"'{config_path}' has no {FILE} beside it, and reading nerfstudio's config.yml alone can run any code in "
            "it; give --trust if you made the run or know who did."
        )
    manager: Any = None
    with _nerfstudio():
        if description is None:
            config = _read_config(config_path)
            manager = config.pipeline.datamanager
            method, model, checkpoints = config.method_name, config.pipeline.model, str(config.relative_model_dir)
        else:
            method, model, checkpoints = _read_description(description, folder)
    from sasnet_ns.data.frames import load_frame
    from sasnet_ns.models.density_surface import density_surface
    from sasnet_ns.models.nerfacto import SASNetNerfactoModelConfig
    from sasnet_ns.models.surface_model import SASNetSurfaceConfig

    if not isinstance(model, SASNetSurfaceConfig | SASNetNerfactoModelConfig):
        raise ValueError(f"'{folder}' is a run of {method}, which meshes cannot be extracted from.")
    state = last_checkpoint(_inside(folder, checkpoints))[0]
    applied = load_frame(folder, manager)
    axes, to_scene = _axes(folder, applied, _parser(description, manager), frame), _to_scene(folder, applied, frame)
    build: Any = _from_surface_run if isinstance(model, SASNetSurfaceConfig) else density_surface
    with _weights_that_fit(folder):
        return dataclasses.replace(build(model, state, to_scene, device), axes=axes)


_RUN_FILES = ("config.yml", FILE)


def _inside(folder: Path, checkpoints: str) -> Path:
    """A run's folder of checkpoints; a name that leads out of the run's folder stands for one in it."""
    relative = Path(checkpoints)
    leaves = relative.is_absolute() or ".." in relative.parts
    return folder / (relative.name if leaves else relative)


@contextlib.contextmanager
def _nerfstudio() -> Iterator[None]:
    from sasnet_ns.data.terminal import quiet_import, silence_nerfstudio

    silence_nerfstudio()
    try:
        with quiet_import():
            import nerfstudio.cameras.cameras
            import nerfstudio.configs.base_config  # noqa: F401  (nerfstudio's writer cannot be imported first)
    except ImportError as error:
        raise MissingLibraryError(f"this run needs nerfstudio: pip install nerfstudio ({error}).") from error
    yield


@contextlib.contextmanager
def _weights_that_fit(folder: Path) -> Iterator[None]:
    """Weights of another network are a sentence: a run that has begun over another one has saved nothing yet."""
    try:
        yield
    except (RuntimeError, KeyError) as error:
        if isinstance(error, RuntimeError) and "in loading state_dict" not in str(error):
            raise
        raise ValueError(
            f"the last checkpoint in '{folder}' is not of the run that its {FILE} describes; let that run reach "
            "--steps-per-save or its end."
        ) from error


def load_field(path: Path, device: torch.device | str = "cpu") -> tuple[SignedDistanceField, int | None]:
    """The field of a run on a shape, and the training steps that its files say it has had.

    Args:
        path: the ``config.yml`` of a run or its folder, whose last checkpoint is read where it has had more steps than
            the ``field.pt``; or a ``field.pt`` or ``field.safetensors``, read as it is.
        device: where the network runs.

    Raises:
        ValueError: there is no field, it is damaged, or it is of a former run in the same folder.
    """
    if not path.is_dir() and path.suffix in (".pt", ".safetensors"):
        return SignedDistanceField.load_with_step(path, device)
    folder = path if path.is_dir() else path.parent
    field, step = SignedDistanceField.load_with_step(folder / "field.pt", device)
    description = read_description(folder) or {"options": {}}
    options = description["options"]
    if not _is_of_run(field, description):
        raise ValueError(
            f"'{folder / 'field.pt'}' is not of the run that {FILE} describes; let that run reach --steps-per-save or "
            "its end."
        )
    checkpoints = _inside(folder, str(options.get("relative_model_dir", "nerfstudio_models")))
    if step is None or newest_step(checkpoints) < step:
        return field, step
    state, last = last_checkpoint(checkpoints)
    with _weights_that_fit(folder):
        field.load_state_dict(field_state(state))
    return field, last + 1


def _is_of_run(field: SignedDistanceField, description: dict[str, Any]) -> bool:
    """Whether a field has the network and the place in space of a run: one that was trained over has others."""
    try:
        network, frame = description["options"]["pipeline"]["model"]["network"], description["frame"]
        place = torch.tensor([*frame["center"], frame["scale"]], dtype=torch.float64)
    except (KeyError, TypeError, ValueError):  # a description of something else, which says neither
        return True
    own = torch.cat([field.center, field.scale.reshape(1)]).double().cpu()
    return network == field.description["network"] and place.shape == own.shape and torch.allclose(place, own)


def _model_configs() -> dict[str, Any]:
    """Configurations of models that runs may name, each as its class makes it."""
    from sasnet_ns.models.nerfacto import SASNetNerfactoModelConfig
    from sasnet_ns.models.neus import SASNetNeuSModelConfig
    from sasnet_ns.models.neus_facto import SASNetNeuSFactoModelConfig
    from sasnet_ns.models.surface_model import surface_field_config

    return {
        "SASNetNeuSModelConfig": SASNetNeuSModelConfig(sdf_field=surface_field_config()),
        "SASNetNeuSFactoModelConfig": SASNetNeuSFactoModelConfig(sdf_field=surface_field_config()),
        "SASNetNerfactoModelConfig": SASNetNerfactoModelConfig(),
    }


def _read_description(description: dict[str, Any], folder: Path) -> tuple[str, Any, str]:
    """Method, configuration of the model and folder of the checkpoints, built from words and numbers alone.

    Raises:
        ValueError: the description is incomplete, or of no model of this package.
    """
    method, known = str(description.get("method")), _model_configs()
    model = known.get(str(description.get("model")))
    if model is None:
        raise ValueError(f"'{folder}' is a run of {method}, which meshes cannot be extracted from.")
    options = description["options"]
    try:
        chosen, checkpoints = options["pipeline"]["model"], str(options["relative_model_dir"])
    except (KeyError, TypeError):
        raise ValueError(f"'{folder / FILE}' is incomplete: it does not describe the model.") from None
    return method, apply_options(model, chosen, f"'{folder / FILE}'"), checkpoints


def _parser(description: dict[str, Any] | None, manager: Any) -> str:
    """Name of the class that read a run's data set; empty where its description does not say it."""
    if description is None:
        return str(manager.dataparser._target.__name__)
    try:
        return str(description["options"]["pipeline"]["datamanager"]["dataparser"]["_target"]).rpartition(".")[2]
    except (KeyError, TypeError):
        return ""


def _from_field(field: SignedDistanceField) -> LoadedSurface:
    field.eval()
    half = torch.full((3,), 0.5)
    return LoadedSurface(
        field, torch.stack([-half, half]), field.center.cpu(), float(field.scale), device=field.center.device
    )


def _read_config(path: Path) -> Any:
    """The configuration as nerfstudio reads it; the caller has been told that this runs what the file says."""
    import yaml

    return yaml.load(path.read_text(), Loader=yaml.Loader)


def allow_numpy_scalars() -> None:
    """Let ``torch.load(weights_only=True)`` read the numpy scalars in other methods' checkpoints.

    nerfstudio's own schedulers leave them there, and nerfstudio 1.1.5 loads without saying otherwise: on torch 2.6 and
    later resuming, ns-eval and ns-viewer fail (nerfstudio issue 3683). They hold no code.
    """
    import _codecs  # its encode() carries a number's bytes; torch from 2.5 on lets it in by itself

    import numpy as np

    scalar: Any = np.float64(0).__reduce__()[0]  # numpy has moved it from one module to another
    kinds = {type(np.dtype(kind)) for kind in (np.float32, np.float64, np.int32, np.int64)}
    torch.serialization.add_safe_globals([scalar, np.dtype, _codecs.encode, *kinds])


def lies_elsewhere(before: dict[str, Tensor], now: dict[str, Tensor]) -> bool:
    """Whether the field of one state of a pipeline is of a shape with another place or size than that of the other."""
    names = [name for name in now if name.endswith(("field.center", "field.scale")) and name in before]
    return any(
        before[name].shape != now[name].shape
        or not torch.allclose(before[name].to(now[name]), now[name], rtol=1e-9, atol=0)
        for name in names
    )


def checkpoint_path(folder: Path, step: int) -> Path:
    """The file of a step's checkpoint in a folder of checkpoints."""
    return folder / f"step-{step:09d}.ckpt"


def checkpoint_steps(folder: Path) -> list[int]:
    """Steps of the checkpoints in a folder of checkpoints."""
    return [int(name[1]) for path in folder.glob("*") if (name := _CHECKPOINT.fullmatch(path.name))]


def newest_step(folder: Path) -> int:
    """Step of the last checkpoint in a folder of checkpoints; -1 where there is none."""
    return max(checkpoint_steps(folder), default=-1)


_CHECKPOINT = re.compile(r"step-(\d{9,})\.ckpt")


def last_checkpoint(folder: Path) -> tuple[dict[str, Tensor], int]:
    """The model's weights without the pipeline's prefix, and the last step that they have had.

    Raises:
        ValueError: the run saved none, or the file is damaged.
    """
    step = newest_step(folder)
    if step < 0:
        raise ValueError(f"'{folder.parent}' has no checkpoint yet; let the run reach --steps-per-save or its end.")
    content = read_checkpoint(checkpoint_path(folder, step))
    state = content["pipeline"]
    names = {name: name.removeprefix("_model.").removeprefix("module.") for name in state if name.startswith("_model.")}
    return {short: state[name] for name, short in names.items()}, step


def read_checkpoint(path: Path) -> dict[str, Any]:
    """A checkpoint as the trainers of this package write it.

    Raises:
        ValueError: it is missing, damaged, not a checkpoint, or holds Python objects.
    """
    allow_numpy_scalars()
    try:
        content = read_weights(path)
    except FileNotFoundError:
        raise ValueError(f"there is no checkpoint '{path}'.") from None
    step, state = (content.get(name) if isinstance(content, dict) else None for name in ("step", "pipeline"))
    if not isinstance(step, int) or step < 0 or not isinstance(state, dict):
        raise ValueError(f"'{path}' is not a checkpoint of a run.")
    return content


def _to_scene(
    folder: Path, applied: dict[str, Any] | None, frame: Literal["data", "colmap"] | None
) -> Float[Tensor, "3 4"]:
    """The similarity from the axes asked for to the run's; the identity where none was written."""
    path = folder / "dataparser_transforms.json"
    if not path.is_file():
        return torch.eye(4, dtype=torch.float64)[:3]
    from sasnet_ns.data.frames import frame_to_scene

    content = json.loads(path.read_text())
    transform = torch.tensor(content["transform"], dtype=torch.float64)[:3]
    return frame_to_scene(transform, content["scale"], applied, frame or "data")


def _axes(folder: Path, applied: dict[str, Any] | None, parser: str, frame: Literal["data", "colmap"] | None) -> str:
    """What the axes are called, where there are two kinds or COLMAP's are asked for.

    Raises:
        ValueError: COLMAP's are asked for, and the data set has nothing to do with them.
    """
    if applied is not None and frame == "colmap":
        return "in COLMAP's axes (--frame data for those of transforms.json and its points)"
    if applied is not None:
        return "in the axes of transforms.json and its points (--frame colmap for COLMAP's)"
    if frame != "colmap":
        return ""
    if parser == "ColmapDataParser":
        return "in COLMAP's axes"
    if parser == "Nerfstudio":  # photographs that nothing was applied to may be COLMAP's as they are
        return "in the axes of transforms.json, which names no applied_transform to undo"
    raise ValueError(f"'{folder}' was not trained on photographs that COLMAP has placed; leave --frame out.")


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
