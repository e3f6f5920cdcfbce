"""A trained field as one HTML file that opens from disk, offline: errors, masks and slices on a surface to turn."""

from __future__ import annotations

import base64
import html
import json
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from sasnet_ns.networks import SignedDistanceField
from sasnet_ns.viewer.cameras import default_front, directions
from sasnet_ns.viewer.live_surface import Surface, extract
from sasnet_ns.viewer.quantities import Reference, ViewSettings, color_values, evaluate
from sasnet_ns.viewer.shading import CLAY, color_distances
from sasnet_ns.viewer.shown_field import ShownField, shown_shape
from sdf_tools.errors import MissingLibraryError, ShapeError
from sdf_tools.geometry import Shape

_LEVELS = 255  # of a slice's distances; a byte each
_REACH = 0.26  # the largest of them as a share of the box; between two level lines
_FAR = 100  # sides of the box from zero, from where on float32, in which browsers draw, blurs the surface
_TEMPLATE = Path(__file__).with_name("page_template.html")


def write_page(
    field: SignedDistanceField | Path | str,
    path: Path | str,
    *,
    shape: Shape | None = None,
    resolution: int = 128,
    masks: int = 8,
    slices: int = 31,
    slice_size: int = 160,
    up: Literal["x", "y", "z"] = "y",
    front: tuple[float, float, float] | None = None,
    title: str | None = None,
) -> Path:
    """Write a page that shows a field: no server, nothing from the web, 5 MB and what the surface needs.

    On it: the surface shaded, by its error against the input with a colour bar, by the length of the gradient, by
    curvature and by masks; a slice with level lines that a slider moves; the surface solid, clear or hidden.

    Args:
        field: the field, its ``field.pt``, or the folder or config.yml of its run.
        path: the .html file; appears whole or not at all.
        shape: the input in its own units, for the errors; None leaves them out.
        resolution: cells along the box of the surface.
        masks: how many masks to show, those that vary most over the surface; 0 for none.
        slices: positions of the slice along each axis.
        slice_size: samples along a side of it.
        up: the shape's upward axis.
        front: unit vector towards whoever looks at the front; default +z, or -y where z is up.
        title: of the page; default the file's name.

    Returns:
        The path.

    Raises:
        ShapeError: the field has no surface, or ``path`` does not end in .html.
        MissingLibraryError: plotly is not installed.
        ValueError: there is no field at the path.
    """
    from sdf_tools.io.writing import write_atomically

    path = Path(path)
    if path.suffix.lower() not in (".html", ".htm"):
        raise ShapeError(f"'{path}' is to be a page; give a name that ends in .html.")
    try:
        from plotly.offline import get_plotlyjs
    except ImportError as error:
        raise MissingLibraryError("Pages need plotly; install it with 'pip install plotly'.") from error
    trained = field if isinstance(field, SignedDistanceField) else SignedDistanceField.load(field)
    shown = shown_shape(lambda: trained)
    surface = extract(shown, resolution, ViewSettings(), thorough=True)
    reference = None if shape is None else _distance_from(shape)
    origin = _origin(shown)
    data = {
        "vertices": _packed((shown.frame.to_world(surface.vertices) - origin).float()),
        "faces": _packed(surface.faces.int()),
        "looks": _looks(shown, surface, reference, masks),
        **_slices(shown, origin, slices, slice_size),
        **_camera(torch.eye(3)["xyz".index(up)], front),
    }
    page = _TEMPLATE.read_text(encoding="utf-8")
    for name, text in (
        ("TITLE", html.escape(title or path.stem)),
        ("PLOTLY", get_plotlyjs()),
        # A closing tag inside the data would end the script.
        ("DATA", json.dumps(data).replace("</", "<\\/")),
    ):
        page = page.replace(f"%%{name}%%", text)
    write_atomically(path, page.encode("utf-8"))
    return path


def _origin(field: ShownField) -> torch.Tensor:
    """World coordinates that the page counts from: zero, or the middle of a box that is far away."""
    center = field.frame.center.double().cpu()
    side = float((field.bounds[1] - field.bounds[0]).max()) / field.frame.scale
    return center if float(center.abs().max()) > _FAR * side else torch.zeros_like(center)


def _camera(up: torch.Tensor, front: tuple[float, float, float] | None) -> dict[str, list[float]]:
    """Where the page's camera stands first, and its light, in plotly's units."""
    ahead = default_front(up) if front is None else torch.tensor(front)
    eye = 1.9 * directions(up, ahead)["oblique"]
    return {"up": up.tolist(), "eye": eye.tolist(), "light": (1e4 * (0.7 * eye + 0.7 * up)).tolist()}


def _distance_from(shape: Shape) -> Reference:
    from sdf_tools.distance.signed_distance import SignedDistance

    return SignedDistance(shape, sign="unsigned")


def _packed(values: torch.Tensor) -> str:
    """The bytes of a tensor, little-endian as browsers read them, in base64."""
    array = np.ascontiguousarray(values.cpu().numpy())
    return base64.b64encode(array.astype(array.dtype.newbyteorder("<")).tobytes()).decode()


def _looks(field: ShownField, surface: Surface, reference: Reference | None, masks: int) -> list[dict[str, Any]]:
    """What the surface can be coloured by: a value a vertex, a colour scale and its ends."""
    clay = "rgb({},{},{})".format(*(round(255 * c) for c in CLAY))
    looks: list[dict[str, Any]] = [{"name": "shaded", "scale": [[0, clay], [1, clay]], "low": 0, "high": 1}]
    wanted = [("error", "error", ViewSettings())] if reference is not None else []
    wanted += [("gradient", "gradient", ViewSettings()), ("curvature", "curvature", ViewSettings())]
    points = surface.vertices.to(field.device)
    for layer, group in _most_varied(field, points, masks):
        name = f"{field.mask_layers[layer][0]}, mask {group + 1}"
        wanted.append((name, "mask", ViewSettings(mask_layer=layer, mask_group=group)))
    for name, quantity, settings in wanted:
        values, bar, kind = evaluate(field, quantity, points, settings, reference)
        _, scale = color_values(values, bar, kind)
        looks.append(
            {
                "name": name,
                "values": _packed(values.float()),
                "scale": _color_steps(scale.colormap),
                "low": scale.low,
                "high": scale.high,
                "bar": f"{bar}<br>largest {scale.most:.3g}",
            }
        )
    return looks


def _most_varied(field: ShownField, points: torch.Tensor, count: int) -> list[tuple[int, int]]:
    """(layer, group) of the masks with the largest deviation over the surface."""
    spread: list[tuple[float, int, int]] = []
    for layer, (_, groups) in field.mask_layers.items():
        spread += [(float(field.mask(points, layer, group).std()), layer, group) for group in range(groups)]
    return [(layer, group) for _, layer, group in sorted(spread, reverse=True)[:count]]


def _color_steps(name: str) -> list[list[Any]]:
    import matplotlib

    colors = (matplotlib.colormaps[name](np.linspace(0, 1, 32))[:, :3] * 255).round().astype(int)
    return [[index / 31, f"rgb({r},{g},{b})"] for index, (r, g, b) in enumerate(colors)]


@torch.no_grad()
def _slices(field: ShownField, origin: torch.Tensor, count: int, size: int) -> dict[str, Any]:
    """Distances on planes across each axis as bytes, and the colours that the bytes stand for."""
    low, high = field.bounds
    reach = float((high - low).max())
    painted = color_distances(torch.linspace(-_REACH, _REACH, _LEVELS), spacing=0.025, width=0.0016)
    steps = [
        [i / (_LEVELS - 1), f"rgb({r},{g},{b})"] for i, (r, g, b) in enumerate((painted * 255).round().int().tolist())
    ]
    planes: dict[str, list[str]] = {}
    for axis, name in enumerate("xyz"):
        across, along = (a for a in range(3) if a != axis)
        points = torch.zeros(size, size, 3)
        points[..., across] = torch.linspace(float(low[across]), float(high[across]), size)[None, :]
        points[..., along] = torch.linspace(float(low[along]), float(high[along]), size)[:, None]
        planes[name] = []
        for position in np.linspace(float(low[axis]), float(high[axis]), count):
            points[..., axis] = position
            values = field.values(points.reshape(-1, 3).to(field.device)).float().cpu() / reach
            levels = ((values / _REACH + 1) / 2 * (_LEVELS - 1)).round().clamp(0, _LEVELS - 1)
            planes[name].append(_packed(levels.to(torch.uint8)))
    corners = (field.frame.to_world(field.bounds) - origin).tolist()
    return {"slices": planes, "sliceScale": steps, "sliceSize": size, "low": corners[0], "high": corners[1]}
