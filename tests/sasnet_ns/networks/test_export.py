"""A trained field as one file."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from sasnet_ns.networks import SignedDistanceField
from sasnet_ns.networks.export import export_field
from sasnet_ns.networks.packing import pack_state, unpack_state

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


@pytest.mark.parametrize("network", ["siren", "ngp", "neurbf"])
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


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_fewer_bits_are_smaller_and_near(field: SignedDistanceField, tmp_path: Path, suffix: str) -> None:
    if suffix == ".safetensors":
        pytest.importorskip("safetensors")
    x = torch.rand(3000, 3) - 0.5
    field.requires_grad_(False)
    size, off = {}, {}
    for bits in (32, 16, 8):
        path = tmp_path / f"field{bits}{suffix}"
        export_field(field, path, bits)
        loaded = SignedDistanceField.load(path)
        size[bits], off[bits] = path.stat().st_size, float((loaded(x) - field(x)).detach().abs().max())
        assert loaded.center.tolist() == [1.0, 2.0, 3.0] and float(loaded.scale) == 0.25
        assert torch.equal(loaded.network.frequencies, field.network.frequencies)
    assert size[8] < size[16] < size[32]
    reach = float(field(x).abs().max())
    assert off[32] == 0 < off[16] < 2e-3 * reach and off[8] < 0.1 * reach


@pytest.mark.parametrize("count", [256, 300])
def test_eight_bits_are_within_half_a_step_of_their_run(count: int) -> None:
    values = torch.randn(count, generator=torch.Generator().manual_seed(0)) * torch.logspace(-3, 3, count)
    state = {"weight": values, "buffer": values, "bias": values[:3]}
    packed = pack_state(state, ["weight", "bias"], 8)
    assert packed["buffer"] is state["buffer"] and packed["bias"] is state["bias"]
    back = unpack_state(packed, state)
    assert set(back) == set(state)
    for start in range(0, count, 64):
        run = values[start : start + 64]
        assert (back["weight"][start : start + 64] - run).abs().max() < 0.51 * run.abs().max() / 127
    zero = {"weight": torch.zeros(256)}
    assert unpack_state(pack_state(zero, zero, 8), zero)["weight"].abs().max() == 0


@pytest.mark.parametrize("size", [1.0, 1e-3, 1e-4, 1e-5])
def test_eight_bits_hold_small_weights_too(size: float) -> None:
    """Scales of small weights are halves far apart; the largest value of a run used to be cut off."""
    weight = size * torch.randn(40, 64, generator=torch.Generator().manual_seed(0))
    state = {"w": weight}
    found = unpack_state(pack_state(state, ["w"], 8), state)["w"]
    runs, error = weight.reshape(-1), (found - weight).abs()
    assert error.max() < max(0.0045 * runs.abs().max(), 2**-24)


def test_bytes_that_are_not_the_networks_are_refused(field: SignedDistanceField, tmp_path: Path) -> None:
    state = {"weight": torch.randn(300)}
    packed = pack_state(state, state, 8)
    with pytest.raises(ValueError, match="not those of this network"):
        unpack_state(packed, {"weight": torch.zeros(200)})
    with pytest.raises(ValueError, match="damaged"):
        unpack_state({**packed, "weight": packed["weight"].flip(0)}, state)
    with pytest.raises(ValueError, match="16 bits cannot hold"):
        pack_state({"weight": torch.full((300,), 1e6)}, ["weight"], 16)
    with pytest.raises(ValueError, match="is a program"):
        export_field(field, tmp_path / "field.pt2", 8)
    with pytest.raises(ValueError, match="8, 16 or 32"):
        export_field(field, tmp_path / "field.pt", 4)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("network", "options"),
    [
        ("siren", {"width": 100_000}), ("siren", {"width": 16, "hidden_layers": 1_000_000}),
        ("ffn", {"features": 10**8}), ("wire", {"width": 10**6}), ("ngp", {"width": 10**5}),
    ],
)  # fmt: skip
def test_a_description_of_a_giant_is_refused_before_it_is_built(network: str, options: dict, tmp_path: Path) -> None:
    state = SignedDistanceField("siren", {"width": 16}).state_dict()
    torch.save({"description": {"network": network, "network_config": options}, "state": state}, tmp_path / "field.pt")
    with pytest.raises(ValueError, match=r"field.pt' is not a field .*(much larger than|does not take)") as caught:
        SignedDistanceField.load(tmp_path / "field.pt")
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 500


def test_large_fields_come_back_with_all_bits(tmp_path: Path) -> None:
    """Also where most of the weights are zero and deflate to almost nothing."""
    field = SignedDistanceField("siren", {"width": 1800, "hidden_layers": 2})
    with torch.no_grad():
        for parameter in field.parameters():
            parameter.zero_()
    for bits in (8, 16, 32):
        export_field(field, tmp_path / "field.pt", bits)
        loaded = SignedDistanceField.load(tmp_path / "field.pt")
        assert sum(p.numel() for p in loaded.parameters()) > 6_000_000


def test_gradients_of_an_exported_finer_are_the_function_s(tmp_path: Path) -> None:
    field = SignedDistanceField("finer", {"width": 16})
    export_field(field, tmp_path / "field.pt2")
    x = (torch.rand(9, 3) - 0.5).requires_grad_()
    (slopes,) = torch.autograd.grad(torch.export.load(tmp_path / "field.pt2").module()(x).sum(), x)
    torch.testing.assert_close(slopes, field.value_and_gradient(x)[1], rtol=1e-4, atol=1e-4)
    assert field.network.detach_scale
