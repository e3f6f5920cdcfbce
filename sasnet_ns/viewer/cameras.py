"""Where the browser's camera stands: presets, a turntable, and what it sees as a file."""

from __future__ import annotations

import math
import threading
import time
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

PRESETS = ("front", "back", "left", "right", "top", "oblique")
_OBLIQUE = (0.55, 0.3)  # azimuth from the front and elevation, radians
_TURN_SECONDS, _FRAMES_A_SECOND = 8.0, 30


def default_front(up: Float[Tensor, "3"]) -> Float[Tensor, "3"]:
    """Where scans usually look: along +z where y is up, along -y where z is up."""
    return torch.tensor([0.0, -1.0, 0.0]) if float(up[2]) else torch.tensor([0.0, 0.0, 1.0])


def directions(up: Float[Tensor, "3"], front: Float[Tensor, "3"]) -> dict[str, Float[Tensor, "3"]]:
    """Unit vectors from the middle of the shape to the camera, by the name of the preset.

    Args:
        up: unit vector upwards.
        front: unit vector from the shape's middle towards whoever looks at its front; the usual one where it is ``up``.
    """
    if abs(float(up @ front)) > 0.99:
        front = default_front(up)
    side = torch.linalg.cross(up, front)
    azimuth, elevation = _OBLIQUE
    level = math.cos(azimuth) * front + math.sin(azimuth) * side
    return {
        "front": front,
        "back": -front,
        "right": side,
        "left": -side,
        # Not exactly from above, where the direction of the camera's own upward side is lost.
        "top": torch.nn.functional.normalize(up + 0.01 * front, dim=0),
        "oblique": math.cos(elevation) * level + math.sin(elevation) * up,
    }


class CameraMan:
    """Moves the cameras of the browsers that look at one scene.

    Args:
        up: unit vector upwards.
        front: unit vector towards the viewer who sees the front.
        center: (3,) what to look at, scene units.
        side: length of the box, scene units.
        scale: viser units per scene unit.
    """

    def __init__(self, up: Tensor, front: Tensor, center: Tensor, side: float, scale: float) -> None:
        self.up, self.center = up, center
        self._directions = directions(up, front)
        self._side = side * scale
        self._scale = scale
        self._turning: dict[int, threading.Event] = {}

    def place(self, client: Any, preset: str) -> None:
        """Put a browser's camera at a preset, with the whole shape in view."""
        self.stop_turning(client)
        self._put(client, self._directions[preset])

    def _put(self, client: Any, direction: Tensor) -> None:
        # The shorter side of the canvas decides how far away all of the box is in view.
        half = math.tan(client.camera.fov / 2) * min(1.0, client.camera.aspect)
        distance = self._side * (0.35 + 0.45 / half)
        target = (self._scale * self.center).numpy()
        with client.atomic():
            client.camera.up_direction = self.up.numpy()
            client.camera.position = target + distance * direction.numpy()
            client.camera.look_at = target

    def toggle_turntable(self, client: Any) -> bool:
        """Start to walk around the shape, or stop; whether the camera turns now."""
        if self.stop_turning(client):
            return False
        stop = self._turning[client.client_id] = threading.Event()
        threading.Thread(target=self._turn, args=(client, stop), daemon=True).start()
        return True

    def stop_turning(self, client: Any) -> bool:
        """End a turntable; whether there was one."""
        stop = self._turning.pop(client.client_id, None)
        if stop is not None:
            stop.set()
        return stop is not None

    def _turn(self, client: Any, stop: threading.Event) -> None:
        target = self._scale * self.center
        offset = torch.from_numpy(np.asarray(client.camera.position)).float() - target
        height = (offset @ self.up) * self.up
        flat = offset - height
        side = torch.linalg.cross(self.up, flat)
        began = time.monotonic()
        while not stop.is_set() and client.client_id in client._viser_server.get_clients():
            angle = 2 * math.pi * (time.monotonic() - began) / _TURN_SECONDS
            position = target + height + math.cos(angle) * flat + math.sin(angle) * side
            with client.atomic():
                client.camera.up_direction = self.up.numpy()
                client.camera.position = position.numpy()
                client.camera.look_at = target.numpy()
            stop.wait(1 / _FRAMES_A_SECOND)
