"""A trained field as one file."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from sasnet_ns.networks import SignedDistanceField
from sasnet_ns.networks.export import export_field

SMALL = {"embedding_width": 32, "hidden_widths": (16, 16), "groups": (4, 4), "grid_levels": 3, "grid_log2_entries": 8}


@pytest.fixture
def field() -> SignedDistanceField:
    torch.manual_seed(0)
    field = SignedDistanceField("sasnet", SMALL, torch.tensor([1.0, 2.0, 3.0]), 0.25)
    with torch.no_grad():
        field.network.mask_generator.table.normal_()  # type: ignore[union-attr]
    return field


@pytest.mark.parametrize("points", [1, 7, 3000])
def test_the_exported_program_gives_the_same_distances(field: SignedDistanceField, tmp_path: Path, points: int) -> None:
    export_field(field, tmp_path / "field.pt2")
    x = torch.rand(points, 3) - 0.5
    loaded = torch.export.load(tmp_path / "field.pt2").module()
    assert torch.allclose(loaded(x), field(x), atol=1e-5)
    assert [path.name for path in tmp_path.iterdir()] == ["field.pt2"]


def test_the_frame_travels_with_the_program(field: SignedDistanceField, tmp_path: Path) -> None:
    export_field(field, tmp_path / "field.pt2")
    extra = {"frame.json": ""}
    torch.export.load(tmp_path / "field.pt2", extra_files=extra)
    assert extra["frame.json"] == '{"center": [1.0, 2.0, 3.0], "scale": 0.25}'


def test_the_field_keeps_its_kernels(field: SignedDistanceField, tmp_path: Path) -> None:
    before = field.network.config.implementation  # type: ignore[union-attr]
    export_field(field, tmp_path / "field.pt2")
    assert field.network.config.implementation == before == "auto"  # type: ignore[union-attr]
    assert all(parameter.requires_grad for parameter in field.parameters())


@pytest.mark.parametrize("network", ["siren", "ngp"])
def test_other_networks_export_too(network: str, tmp_path: Path) -> None:
    field = SignedDistanceField(network, {"width": 16})
    export_field(field, tmp_path / "field.pt2")
    x = torch.rand(9, 3) - 0.5
    assert torch.allclose(torch.export.load(tmp_path / "field.pt2").module()(x), field(x), atol=1e-5)


def test_onnx_gives_the_same_distances(field: SignedDistanceField, tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    onnxruntime = pytest.importorskip("onnxruntime")
    export_field(field, tmp_path / "field.onnx")
    session = onnxruntime.InferenceSession(str(tmp_path / "field.onnx"))
    assert session.get_modelmeta().custom_metadata_map["scale"] == "0.25"
    for points in (1, 3000):
        x = torch.rand(points, 3) - 0.5
        (values,) = session.run(["signed_distance"], {"points": x.numpy()})
        assert torch.allclose(torch.from_numpy(values), field(x), atol=1e-5)


def test_another_suffix_is_refused(field: SignedDistanceField, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="pt2"):
        export_field(field, tmp_path / "field.pth")
    assert not list(tmp_path.iterdir())
