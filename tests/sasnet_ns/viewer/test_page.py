"""A field as one HTML file."""

from __future__ import annotations

import base64
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from sasnet_ns.networks import SignedDistanceField
from sasnet_ns.viewer.page import write_page
from sdf_tools.errors import ShapeError
from sdf_tools.geometry import PointCloud

pytest.importorskip("plotly")


class _BallField(SignedDistanceField):
    def forward(self, points: Tensor) -> Tensor:
        return points.norm(dim=-1) - 0.3


def _ball() -> _BallField:
    torch.manual_seed(0)
    options = {"preset": "sdf", "embedding_width": 32, "hidden_widths": (32,), "groups": (4,)}
    return _BallField("sasnet", options, torch.tensor([10.0, 0, 0]), 0.25)


def test_page_holds_everything(tmp_path: Path) -> None:
    directions = torch.nn.functional.normalize(torch.randn(4000, 3, dtype=torch.float64), dim=-1)
    cloud = PointCloud(directions * 1.2 + torch.tensor([10.0, 0, 0]), directions)
    path = write_page(
        _ball(), tmp_path / "ball.html", shape=cloud, resolution=24, masks=2, slices=3, slice_size=16, title="A <ball>"
    )
    page = path.read_text(encoding="utf-8")
    assert "<title>A &lt;ball&gt;</title>" in page and "%%" not in page.split("<style>")[0]
    head = page.split("<script>")[0] + page.split("</script>")[-1]
    assert not re.search(r'(?:src|href)="https?:', head)
    found = re.search(r"^const data = (\{.*\});$", page, re.M)
    assert found is not None
    data = json.loads(found[1])
    vertices = np.frombuffer(base64.b64decode(data["vertices"]), "<f4").reshape(-1, 3)
    radius = np.linalg.norm(vertices - [10, 0, 0], axis=1)
    assert abs(radius - 1.2).max() < 0.02  # in the shape's own units
    names = [look["name"] for look in data["looks"]]
    assert names[:4] == ["shaded", "error", "gradient", "curvature"] and len(names) == 6
    error = np.frombuffer(base64.b64decode(data["looks"][1]["values"]), "<f4")
    assert len(error) == len(vertices) and error.max() < 0.1
    middle = np.frombuffer(base64.b64decode(data["slices"]["z"][1]), "u1").reshape(16, 16)
    assert middle[8, 8] < 127 < middle[0, 0]  # inside is below zero


def test_page_says_what_is_wrong(tmp_path: Path) -> None:
    with pytest.raises(ShapeError, match=r"ends in \.html"):
        write_page(_ball(), tmp_path / "ball.png")
    with pytest.raises(ValueError, match="there is no field"):
        write_page(tmp_path / "nowhere", tmp_path / "ball.html")
    assert not list(tmp_path.iterdir())
