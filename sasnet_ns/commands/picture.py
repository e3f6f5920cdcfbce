"""Draw trained fields without a browser: surfaces, errors, slices, masks, levels of detail, comparisons, curves.

    sasnet picture RUN --output-path armadillo.png
    sasnet picture RUN --output-path turn.mp4                       # or .gif: a turntable
    sasnet picture RUN --show masks --output-path masks.png
    sasnet picture RUN OTHER_RUN --output-path comparison.png       # side by side, with errors
    sasnet picture RUN OTHER_RUN --show curves --output-path curves.png

RUN is the folder or config.yml of a run, or a field.pt. Errors are measured against the shape that the run was trained
on, unless --shape names another.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from sasnet_ns.commands._command_line import command_line

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from sasnet_ns.commands._run_shape import RunShape
    from sasnet_ns.models.surface import LoadedSurface
    from sasnet_ns.viewer.curves import Row
    from sasnet_ns.viewer.quantities import Reference
    from sasnet_ns.viewer.shown_field import ShownField
    from sdf_tools.geometry import Mesh, Shape
    from sdf_tools.pictures.render import Camera

_PLOTS = ("slice", "curves")


@dataclass
class Arguments:
    """Draw trained fields: surfaces, errors, slices, masks, comparisons, curves, without a browser."""

    runs: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """Folder or config.yml of a run, or a field.pt or field.safetensors; several for a comparison."""
    output_path: Path = Path("picture.png")
    """Picture to write: .png or .jpg; .gif or .mp4 for a turntable; slices and curves .png, .pdf or .svg. It
    appears whole or not at all."""
    show: Literal["shaded", "normals", "error", "gradient", "curvature", "masks", "bands", "slice", "curves"] = "shaded"
    """The surface as clay (photographs: in its colours), by its normals, by its distance from the input, by the length
    of the gradient, by its curvature; every mask; the surface with each number of bands; distances on a plane with
    level lines; loss and errors over the steps (of fits of images and volumes loss and PSNR)."""
    shape: str | None = None
    """Name or file of the input, for errors; the run's own if left out."""
    resolution: int = 256
    """Cells along the longest side of the box."""
    size: int | None = None
    """Pixels of a picture's side: 800 for one, 300 for each in a sheet, 900 high for a slice if left out."""
    turntable: bool = False
    """Turn all the way round in a .png as well (an animated PNG)."""
    frames: int = 36
    """Pictures of a turntable."""
    azimuth: float | None = None
    """Degrees around the up axis; a little beside the front if left out."""
    elevation: float = 12.0
    """Degrees above the horizon."""
    zoom: float = 1.0
    """1 just fits the sphere around the shape."""
    up: Literal["x", "y", "z"] | None = None
    """The axis that points up; what the run says if left out, else y."""
    largest: float | None = None
    """Value of the last colour of errors, in the input's units; the 99th percentile if left out."""
    axis: Literal["x", "y", "z"] = "z"
    """slice: the axis that the plane is perpendicular to."""
    offset: float | None = None
    """slice: where on it, in the input's units; the middle if left out."""
    trust: bool = False
    """Read a config.yml that has no run.json beside it, which can run any code in it: for runs that you made."""


def run(arguments: Arguments) -> None:
    """Load, draw, write."""
    from sasnet_ns.commands._run_shape import run_shape
    from sdf_tools.pictures.render import STILL, check_picture_name, save_picture

    _check(arguments)
    suffix = arguments.output_path.suffix.lower()
    moving = arguments.turntable or suffix in (".gif", ".mp4")
    single = len(arguments.runs) == 1 and arguments.show not in ("masks", "bands", *_PLOTS)
    if moving and not single:
        raise ValueError("a turntable shows one run's surface; sheets, slices and curves need a .png.")
    if arguments.show in _PLOTS:
        if suffix not in (".png", ".pdf", ".svg"):
            raise ValueError(f"a plot must end in .png, .pdf or .svg, not '{arguments.output_path}'.")
    else:
        check_picture_name(arguments.output_path, moving)
        if not moving and suffix not in STILL:
            raise ValueError(f"a picture must end in .png or .jpg, not '{arguments.output_path}'.")
    if arguments.show == "curves":
        _draw_curves(arguments)
    else:
        known = [run_shape(path, arguments.shape) for path in arguments.runs]
        surfaces = [_load(path, arguments.trust) for path in arguments.runs]
        if arguments.show == "slice":
            _draw_slice(surfaces[0], arguments)
        else:
            save_picture(_draw(surfaces, known, arguments, moving), arguments.output_path)
    print(arguments.output_path)


def _check(arguments: Arguments) -> None:
    from sdf_tools.pictures.render import check_picture_size

    if not arguments.runs:
        raise ValueError("name a run: its folder, its config.yml or a field.pt.")
    missing = [path for path in arguments.runs if not path.exists()]
    if missing:
        raise ValueError(f"there is no run at '{missing[0]}'; give its folder or its config.yml.")
    if not arguments.output_path.resolve().parent.is_dir():
        raise ValueError(f"the folder of '{arguments.output_path}' does not exist; create it first.")
    for name, least in (("resolution", 8), ("frames", 2)):
        if getattr(arguments, name) < least:
            raise ValueError(f"--{name} must be at least {least}, not {getattr(arguments, name)}.")
    if arguments.size is not None and arguments.size < 16:
        raise ValueError(f"--size must be at least 16, not {arguments.size}.")
    if arguments.size is not None:
        check_picture_size((arguments.size, arguments.size))
    for name in ("zoom", "largest"):
        value = getattr(arguments, name)
        if value is not None and not 0 < value < math.inf:
            raise ValueError(f"--{name} must be positive and finite, not {value:g}.")
    for name in ("azimuth", "elevation"):
        angle = getattr(arguments, name)
        if angle is not None and not math.isfinite(angle):
            raise ValueError(f"--{name} must be finite, not {angle:g}.")
    if len(arguments.runs) > 1 and arguments.show not in ("shaded", "error", "curves"):
        raise ValueError(f"--show {arguments.show} draws one run; give one, or leave --show out for a comparison.")


def _load(path: Path, trust: bool) -> LoadedSurface:
    import torch

    from sasnet_ns.models.loading import load_surface

    device = "cuda" if torch.cuda.is_available() else "cpu"
    return load_surface(path, torch.device(device), trust=trust)


def _shown(path: Path, known: RunShape) -> ShownField | None:
    """The field with its masks and bands; None for runs on photographs."""
    from sasnet_ns.models.loading import load_field
    from sasnet_ns.viewer.shown_field import shown_shape

    folder = path if path.is_dir() else path.parent
    if path.suffix not in (".pt", ".safetensors") and not (folder / "field.pt").is_file():
        return None
    field, _ = load_field(path)
    return shown_shape(lambda: field, levels=known.levels)


def _mesh(surface: LoadedSurface, path: Path, resolution: int) -> Mesh:
    from sasnet_ns.commands import extract

    return extract.extract(surface, extract.Arguments(load_config=path, resolution=resolution))


def _draw(
    surfaces: list[LoadedSurface], shapes: list[RunShape], arguments: Arguments, moving: bool
) -> Tensor | list[Tensor]:
    from sasnet_ns.viewer import pictures
    from sdf_tools.pictures.plots import add_color_bar
    from sdf_tools.pictures.render import BACKGROUND, render_mesh, turntable

    known = shapes[0]
    camera = _camera(known, arguments)
    several = len(surfaces) > 1
    reference = None
    if arguments.show in ("error", "bands") and not several:
        reference = _reference(known, needed=arguments.show == "error")
    tile = arguments.size or 300
    first = arguments.runs[0]
    field = None if several else _shown(first, known)
    if arguments.show in ("masks", "bands") and field is None:
        raise ValueError(f"--show {arguments.show} is for fields of shapes; '{first}' was trained on photographs.")
    if arguments.show == "bands" and field is not None:
        return pictures.level_sheet(field, camera, tile, arguments.resolution, reference)
    meshes = [
        _mesh(surface, path, arguments.resolution) for surface, path in zip(surfaces, arguments.runs, strict=True)
    ]
    if several:
        references = _references(shapes, needed=arguments.show == "error")
        return pictures.comparison_sheet(meshes, _names(arguments.runs), camera, tile, references, arguments.largest)
    if arguments.show == "masks" and field is not None:
        return pictures.mask_sheet(field, meshes[0], camera, tile)
    quantity: Literal["shaded", "normals", "error", "gradient", "curvature"] = arguments.show  # type: ignore[assignment]
    mesh, scale = pictures.color_surface(meshes[0], quantity, field, reference, arguments.largest)
    size = (arguments.size or 800,) * 2
    if moving:
        drawn = turntable(mesh, arguments.frames, camera, size, progress=True)
    else:
        drawn = [render_mesh(mesh, camera, size)]
    if scale is not None:
        label = f"{scale.title} (largest {scale.most:.3g})"
        drawn = [add_color_bar(picture, scale.low, scale.high, scale.colormap, label, BACKGROUND) for picture in drawn]
    return drawn if moving else drawn[0]


def _camera(known: RunShape, arguments: Arguments) -> Camera:
    from sasnet_ns.viewer.pictures import camera_towards

    camera = camera_towards(known.front, arguments.up or known.up, elevation=arguments.elevation)
    azimuth = camera.azimuth if arguments.azimuth is None else arguments.azimuth
    return dataclasses.replace(camera, azimuth=azimuth, zoom=arguments.zoom)


def _reference(known: RunShape, needed: bool) -> Reference | None:
    """Distance from the input; said where it is missing, an error where it is what was asked for."""
    from sdf_tools.distance.signed_distance import SignedDistance

    if known.shape is None:
        if needed:
            raise ValueError(f"{known.why_not}.")
        warnings.warn(f"no errors: {known.why_not}.", stacklevel=1)
        return None
    return SignedDistance(known.shape, sign="unsigned")


def _references(shapes: Sequence[RunShape], needed: bool) -> Reference | list[Reference] | None:
    """Distance from the input that all runs have, or from that of each; None where one is not known."""
    found = [_reference(known, needed) for known in shapes[:1]]
    for known in shapes[1:]:
        same = known.shape is not None and shapes[0].shape is not None and _alike(known.shape, shapes[0].shape)
        found.append(found[0] if same else _reference(known, needed))
    known_ones = [measure for measure in found if measure is not None]
    if len(known_ones) < len(found):
        return None
    return known_ones[0] if all(measure is known_ones[0] for measure in known_ones) else known_ones


def _alike(one: Shape, other: Shape) -> bool:
    from sdf_tools.geometry import positions

    return type(one) is type(other) and positions(one).equal(positions(other))


def _names(runs: Sequence[Path]) -> list[str]:
    """What tells runs apart in a few words: the parts of their paths that not all share, from the end on."""
    paths = [path.resolve() if path.is_dir() else path.resolve().with_suffix("") for path in runs]
    if all(path.name == paths[0].name for path in paths) and not all(path.is_dir() for path in runs):
        paths = [path.parent for path in paths]  # all are config.yml, or all field.pt
    shared = {part for part in paths[0].parts if all(part in path.parts for path in paths)}
    names = [[part for part in path.parts if part not in shared] or [path.name] for path in paths]
    for count in range(1, max(map(len, names)) + 1):
        short = ["/".join(name[-count:]) for name in names]
        if len(set(short)) == len(short):
            return short
    return [f"{name} ({index + 1})" for index, name in enumerate(short)]  # one run given twice


def _draw_slice(surface: LoadedSurface, arguments: Arguments) -> None:
    """Distances on a plane in the input's own units."""
    import torch

    from sdf_tools.chunks import in_chunks
    from sdf_tools.pictures.plots import slice_plot

    if surface.inside != "below":
        raise ValueError(f"'{arguments.runs[0]}' has learned densities, not distances, and has no level lines.")
    center, scale = surface.center.double().cpu(), surface.scale
    low, high = ((corner.double().cpu() / scale + center) for corner in surface.bounds)
    index = "xyz".index(arguments.axis)
    offset = float(center[index]) if arguments.offset is None else arguments.offset
    if not float(low[index]) <= offset <= float(high[index]):
        raise ValueError(
            f"--offset {offset:g} is outside the trained box, which runs from {float(low[index]):.6g} to "
            f"{float(high[index]):.6g} along {arguments.axis}."
        )

    @torch.no_grad()
    def distance(points: torch.Tensor) -> torch.Tensor:
        box = ((points.double() - center) * scale).float().to(surface.device)
        return in_chunks(surface.field, box).cpu() / scale

    digits = max(4, 3 + int(math.log10(max(abs(offset) * scale, 1.0))))  # more where the box is far away
    slice_plot(
        distance, arguments.output_path, axis=arguments.axis, offset=offset,
        resolution=arguments.size or 400, bounds=(tuple(low.tolist()), tuple(high.tolist())),
        spacing=_round(0.025 / scale), title=f"signed distance at {arguments.axis} = {offset:.{digits}g}",
        size=arguments.size or 900,
    )  # fmt: skip


def _round(value: float) -> float:
    """The nearest of 1, 2 and 5 times a power of ten."""
    power = 10.0 ** math.floor(math.log10(value))
    return min((step * power for step in (1, 2, 5, 10)), key=lambda step: abs(math.log(step / value)))


def _draw_curves(arguments: Arguments) -> None:
    from sasnet_ns.viewer.pictures import curve_figure
    from sdf_tools.io.writing import write_atomically

    names = _names(arguments.runs) if len(arguments.runs) > 1 else [arguments.runs[0].resolve().name]
    figure = curve_figure(dict(zip(names, (_history(path) for path in arguments.runs), strict=True)))
    write_atomically(arguments.output_path, partial(figure.savefig))


def _history(path: Path) -> list[Row]:
    """A run's numbers: history.json, or losses.json of fit-shape (every tenth step and the last)."""
    from sasnet_ns.networks import SignedDistanceField
    from sasnet_ns.viewer.curves import read_history

    folder = path if path.is_dir() else path.parent
    rows = read_history(folder)
    losses = folder / "losses.json"
    if rows or not losses.is_file():
        return rows
    try:
        values = json.loads(losses.read_text())
    except ValueError:
        raise ValueError(f"'{losses}' is not JSON.") from None
    steps = 10 * len(values)
    with contextlib.suppress(ValueError):
        steps = SignedDistanceField.load_with_step(folder / "field.pt")[1] or steps
    return [{"step": float(min(10 * index, steps)), "loss": float(value)} for index, value in enumerate(values, 1)]


def main(args: Sequence[str] | None = None, program: str | None = None) -> None:
    """The command line; ``args`` and ``program`` as :func:`command_line` takes them."""
    command_line(Arguments, run, description=__doc__, name="picture", program=program, args=args)
