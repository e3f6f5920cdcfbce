"""The lighting of all pictures: a matte surface under distant lights, darker where it sees little around it."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

_SHOULDER = 0.8  # brightness from which on light is compressed


@dataclass(frozen=True)
class Lights:
    """Distant lights and light from everywhere.

    Attributes:
        directions: (L, 3) unit vectors from the surface towards each light.
        strengths: (L, C) of each, one value (C = 1) or RGB (C = 3).
        ambient: strength of the light from everywhere.
        crevice: share of all light that still reaches a point from which nothing of the surroundings is seen.
    """

    directions: Float[Tensor, "L 3"]
    strengths: Float[Tensor, "L C"]
    ambient: float
    crevice: float

    def turned(self, axes: Float[Tensor, "3 3"]) -> Lights:
        """The lights in a world where the rows of ``axes`` are what their own x, y and z are here."""
        return replace(self, directions=self.directions.to(axes) @ axes)

    def on(self, normals: Float[Tensor, "N 3"], openness: Float[Tensor, " N"] | float = 1.0) -> Float[Tensor, "N C"]:
        """The light that a matte surface sends back (Lambert's law), as a factor of its colour.

        Args:
            normals: (N, 3) unit normals.
            openness: (N,) share of its surroundings that each point sees, 0 to 1.
        """
        share = self.crevice + (1 - self.crevice) * torch.as_tensor(openness).to(normals)
        diffuse = (normals @ self.directions.to(normals).T).clamp_min(0) @ self.strengths.to(normals)
        return (self.ambient + diffuse) * share.reshape(-1, 1)


def _lights(directions: list[list[float]], strengths: list[list[float]], ambient: float, crevice: float) -> Lights:
    towards = torch.tensor(directions, dtype=torch.float64)
    return Lights(towards / towards.norm(dim=1, keepdim=True), torch.tensor(strengths).double(), ambient, crevice)


# Key, fill and rim that move with the camera, whose axes (right, up, backward) theirs are. The key stands well off the
# line of sight and the fill opposite it in another tint, so that flat faces of different directions differ.
CAMERA_LIGHTS = _lights(
    [[-0.55, 0.65, 0.55], [0.85, -0.05, 0.35], [0.2, 0.5, -0.85]],
    [[1.0, 0.97, 0.92], [0.31, 0.34, 0.39], [0.4, 0.4, 0.4]],
    ambient=0.24,
    crevice=0.25,
)

# Fixed in a scene whose z is up, from all sides, so that no view is dark: key, fill, back, two low ones.
STUDIO_LIGHTS = _lights(
    [[0.5, -0.6, 0.7], [-0.8, -0.3, 0.3], [0.1, 0.9, 0.4], [0.7, 0.5, -0.5], [-0.5, -0.2, -0.8]],
    [[0.66], [0.36], [0.4], [0.25], [0.25]],
    ambient=0.36,
    crevice=0.3,
)

# One beside the camera.
HEADLIGHT = _lights([[0.0, 0.0, 1.0]], [[0.75]], ambient=0.36, crevice=0.3)


def shade(
    lights: Lights,
    base: Float[Tensor, "N 3"],
    normals: Float[Tensor, "N 3"],
    rays: Float[Tensor, "N 3"],
    openness: Float[Tensor, " N"] | float = 1.0,
) -> Float[Tensor, "N 3"]:
    """Colours of a surface with a slight gloss, as in ``sdf_tools.render_mesh``; may exceed 1 in highlights.

    Args:
        lights: turned to the camera; the first makes the highlights (Blinn, SIGGRAPH 1977).
        base: (N, 3) RGB of the surface.
        normals: (N, 3) unit normals.
        rays: (N, 3) unit directions from the camera.
        openness: see :meth:`Lights.on`.
    """
    light = lights.on(normals, openness)
    # A shoulder instead of clipping: bright sides keep their colour.
    over = (light - _SHOULDER).clamp_min(0) / (1 - _SHOULDER)
    light = light.clamp_max(_SHOULDER) + (1 - _SHOULDER) * torch.tanh(over)
    half = torch.nn.functional.normalize(lights.directions[0].to(normals) - rays, dim=-1)
    shine = 0.12 * (normals * half).sum(-1).clamp_min(0) ** 24 * openness
    return base * light + shine[:, None]
