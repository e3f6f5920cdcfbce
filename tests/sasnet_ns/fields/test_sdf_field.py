"""The signed distance field for the NeuS family: contracts, initialisation, derivatives, running start."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

pytest.importorskip("nerfstudio")

from nerfstudio.cameras.rays import RayBundle, RaySamples
from nerfstudio.data.scene_box import SceneBox
from nerfstudio.field_components.field_heads import FieldHeadNames
from nerfstudio.field_components.spatial_distortions import SceneContraction
from nerfstudio.model_components.ray_samplers import UniformSampler
from nerfstudio.models.neus import NeuSModelConfig
from nerfstudio.models.neus_facto import NeuSFactoModelConfig

from sasnet_ns.fields.sdf_field import SASNetSDFField, SASNetSDFFieldConfig
from sasnet_ns.fields.volume_rendering import neus_alpha, neus_ray_alpha, volsdf_density
from sasnet_ns.networks import SASNetConfig, SignedDistanceField

AABB = torch.tensor([[-1.0, -1.0, -1.0], [1.0, 1.0, 1.0]])
SMALL: dict[str, Any] = {"embedding_width": 32, "hidden_widths": (32, 32), "grid_interpolation": "smoothstep"}


def _config(**changes: Any) -> SASNetSDFFieldConfig:
    config = SASNetSDFFieldConfig(sasnet=SASNetConfig.sdf(**SMALL), geo_feat_dim=8, hidden_dim_color=16)
    for name, value in changes.items():
        setattr(config, name, value)
    if config.network != "sasnet" and not config.network_options:
        config.network_options = {"width": 32}
    return config


def _field(**changes: Any) -> SASNetSDFField:
    torch.manual_seed(0)
    return _config(**changes).setup(aabb=AABB, num_images=3, spatial_distortion=SceneContraction(order=float("inf")))


def _awake(field: SASNetSDFField) -> SASNetSDFField:
    """Give the network's distance something to say, as training would."""
    from sasnet_ns.fields.geometry import output_layer

    with torch.no_grad():
        output_layer(field.geometry.network).weight[0].normal_(0, 0.02)
    return field


def _bundle(rays: int) -> RayBundle:
    directions = torch.nn.functional.normalize(torch.randn(rays, 3), dim=-1)
    return RayBundle(
        origins=-2 * directions + 0.2 * torch.randn(rays, 3),
        directions=directions,
        pixel_area=torch.ones(rays, 1),
        camera_indices=torch.randint(0, 3, (rays, 1)),
        nears=torch.full((rays, 1), 1.0),
        fars=torch.full((rays, 1), 3.0),
        metadata={"directions_norm": torch.ones(rays, 1)},
    )


def _samples(rays: int = 5, count: int = 7) -> RaySamples:
    return UniformSampler(num_samples=count)(_bundle(rays))


@pytest.mark.parametrize("network", ["sasnet", "siren", "finer", "ngp"])
def test_every_network_starts_as_the_sphere(network: str) -> None:
    field = _field(network=network, bias=0.6)
    directions = torch.nn.functional.normalize(torch.randn(200, 3), dim=-1)
    assert field.sdf(0.6 * directions).abs().max() < 1e-5
    assert field.sdf(0.9 * directions).min() > 0.25 and field.sdf(0.2 * directions).max() < -0.25
    gradient = field.gradient(0.6 * directions)
    assert ((gradient - directions).norm(dim=-1)).max() < 0.02


def test_inside_out_is_the_same_sphere_with_the_free_space_inside() -> None:
    points = torch.rand(100, 3) * 3 - 1.5
    plain, room = _field(), _field(inside_outside=True)
    assert torch.allclose(plain.sdf(points), -room.sdf(points), atol=1e-6)


def test_bands_open_without_a_jump() -> None:
    field = _awake(_field())
    points = torch.rand(200, 3) * 2 - 1
    field.set_bands(0)
    before = field.forward_geonetwork(points)
    field.set_bands(None)
    assert torch.allclose(before, field.forward_geonetwork(points), atol=1e-6)
    hidden = field.geometry.network.hidden[0].weight
    field.sdf(points).sum().backward()
    assert hidden.grad[:, field.geometry.network.band_sizes[0] :].abs().max() > 0  # and they can learn


@pytest.mark.parametrize("network", ["sasnet", "siren", "finer"])
def test_analytic_gradients_agree_with_differences_and_can_be_differentiated_again(network: str) -> None:
    field = _awake(_field(network=network)).double()
    points = (torch.rand(60, 3, dtype=torch.float64) * 2.4 - 1.2).requires_grad_(True)  # some outside the cube
    analytic = field.gradient(points)
    assert (analytic.norm(dim=-1) - 1).abs().max() > 0.01  # not only the sphere
    assert torch.allclose(analytic, _differences(field, points, 1e-6), atol=1e-4)
    ((analytic.norm(dim=-1) - 1) ** 2).mean().backward()
    assert field.geometry.network.hidden[0].weight.grad.abs().max() > 0


def _differences(field: SASNetSDFField, points: Tensor, step: float) -> Tensor:
    shifts = torch.eye(3, dtype=points.dtype) * step
    columns = [(field.sdf(points + s) - field.sdf(points - s)) / (2 * step) for s in shifts]
    return torch.stack(columns, dim=-1).detach()


def test_numerical_gradients_use_their_step() -> None:
    field = _awake(_field(gradients="numerical")).double()
    points = torch.rand(50, 3, dtype=torch.float64) * 1.6 - 0.8
    for step in (0.05, 1e-3):
        field.set_numerical_gradients_delta(step)
        assert torch.allclose(field.gradient(points).detach(), _differences(field, points, step), atol=1e-9)
    field.gradient(points).sum().backward()
    assert field.geometry.network.hidden[0].weight.grad.abs().max() > 0


def test_outside_the_box_the_distance_goes_on_growing() -> None:
    field = _awake(_field(geometric_init=False))
    directions = torch.nn.functional.normalize(torch.randn(50, 3), dim=-1)
    assert torch.allclose(field.sdf(60 * directions) - field.sdf(50 * directions), torch.full((50,), 10.0), rtol=0.05)


@pytest.mark.parametrize("geometric_init", [True, False])
def test_a_band_begins_from_nothing_when_it_is_opened(geometric_init: bool) -> None:
    geometry = _field(geometric_init=geometric_init).geometry
    points, found, masks = torch.rand(20, 3) - 0.5, [], []
    for bands in (0, 2, None):
        geometry.bands = bands
        found.append(geometry(points))
        masks.append([mask.shape[-1] for mask in geometry.masks(points)])
    assert torch.allclose(found[0], found[1], atol=1e-6) and torch.allclose(found[0], found[2], atol=1e-6)
    assert [len(kinds) for kinds in masks] == [2, 3, 3] and masks[1][0] == 2 < masks[2][0], "open bands only"


def test_spatial_distortion_covers_all_of_space() -> None:
    field = _field(use_spatial_distortion=True)
    far = 1e4 * torch.nn.functional.normalize(torch.randn(20, 3), dim=-1)
    assert field.geometry.network_points(far).abs().max() <= 1
    with pytest.raises(ValueError, match="scene contraction"):
        _config(use_spatial_distortion=True).setup(aabb=AABB, num_images=3)


def test_outputs_are_those_of_nerfstudios_field() -> None:
    field, samples = _field(), _samples()
    outputs = field(samples, return_alphas=True)
    widths = {"RGB": 3, "SDF": 1, "NORMALS": 3, "GRADIENT": 3, "ALPHA": 1}
    assert {head.name: tuple(value.shape) for head, value in outputs.items()} == {
        name: (5, 7, width) for name, width in widths.items()
    }
    assert torch.allclose(outputs[FieldHeadNames.SDF], field.get_sdf(samples))
    assert torch.allclose(outputs[FieldHeadNames.ALPHA], field.get_alpha(samples), atol=1e-6)
    assert torch.allclose(outputs[FieldHeadNames.NORMALS].norm(dim=-1), torch.ones(5, 7), atol=1e-4)
    rgb = outputs[FieldHeadNames.RGB]
    assert rgb.min() >= 0 and rgb.max() <= 1
    density, features = field.get_density(samples)
    assert density.shape == (5, 7, 1) and features.shape == (5, 7, 8)
    with torch.no_grad():
        assert not any(value.requires_grad for value in field.eval()(samples, return_alphas=True).values())


def test_appearance_codes_matter_in_training_and_average_in_evaluation() -> None:
    field = _field(use_appearance_embedding=True, appearance_embedding_dim=4)
    point, view = torch.zeros(3, 3), torch.tensor([[0.0, 0, 1]]).expand(3, 3)
    args = (point, view, view, torch.zeros(3, 8), torch.arange(3))
    trained = field.get_colors(*args)
    assert not torch.allclose(trained[0], trained[1])
    evaluated = field.eval().get_colors(*args)
    assert torch.equal(evaluated[0], evaluated[1])
    field.color.average_appearance = True
    assert not torch.equal(field.get_colors(*args), evaluated)


def test_neus_alpha_of_a_plane_is_the_ratio_of_its_cdfs() -> None:
    sdf, slope = torch.tensor([[0.1], [0.0], [-0.1]]), torch.full((3, 1), -1.0)
    s, length = torch.tensor([20.0]), torch.full((3, 1), 0.1)
    before, after = torch.sigmoid((sdf + 0.05) * s), torch.sigmoid((sdf - 0.05) * s)
    assert torch.allclose(neus_alpha(sdf, slope, length, s), (before - after) / before, atol=1e-4)
    assert neus_alpha(sdf, -slope, length, s).max() < 1e-3  # leaving the surface
    assert neus_alpha(sdf, -slope, length, s, cos_anneal=0.0).max() < 1e-3
    assert neus_alpha(sdf, 0 * slope, length, s, cos_anneal=0.0).max() > 0.1


def test_neus_alphas_of_a_ray_telescope() -> None:
    """Into a plane, however uneven the samples: the ray's opacity is the ratio of the CDFs at its two ends."""
    at = torch.tensor([0.0, 0.1, 0.15, 0.4, 0.8, 0.9])[:, None]
    length = torch.tensor([0.1, 0.05, 0.25, 0.4, 0.1, 0.1])[:, None]
    s, slope = torch.tensor([12.0]), torch.full((6, 1), -0.7)
    sdf = 0.3 + slope * at
    alpha = neus_ray_alpha(sdf, slope, length, s)
    ends = torch.sigmoid((0.3 - 0.7 * torch.tensor([-0.05, 0.95])) * s)
    assert 1 - (1 - alpha).prod() == pytest.approx(float(1 - ends[1] / ends[0]), abs=1e-4)
    assert neus_ray_alpha(-sdf, -slope, length, s).max() < 1e-2  # leaving
    even = torch.full((6, 1), 0.1)
    sdf = 0.3 - 0.07 * torch.arange(6)[:, None]
    assert torch.allclose(neus_ray_alpha(sdf, slope, even, s), neus_alpha(sdf, slope, even, s), atol=1e-5)


def test_a_ray_that_passes_by_stays_clear() -> None:
    """Three samples far apart beside a ball of radius 0.5, as proposal networks place them where nothing is."""
    t = torch.tensor([-1.2, -0.3, 0.6])
    points = torch.stack([t, torch.full((3,), 0.58), torch.zeros(3)], dim=1)
    radius = points.norm(dim=1, keepdim=True)
    sdf, slope, length, s = radius - 0.5, points[:, :1] / radius, torch.full((3, 1), 0.9), torch.tensor([100.0])
    assert neus_ray_alpha(sdf, slope, length, s).max() < 0.02
    assert neus_ray_alpha(sdf.expand(4, 3, 1), slope.expand(4, 3, 1), length.expand(4, 3, 1), s).shape == (4, 3, 1)
    assert neus_alpha(sdf, slope, length, s).max() > 0.9  # floats in the air
    first = neus_ray_alpha(sdf[:1], slope[:1], length[:1], s)  # a single sample: nothing to share
    assert torch.allclose(first, neus_alpha(sdf[:1], slope[:1], length[:1], s), atol=1e-6)


def test_volsdf_density_is_the_laplace_cdf() -> None:
    beta = torch.tensor([0.1])
    density = volsdf_density(torch.tensor([[-5.0], [0.0], [0.1], [5.0]]), beta)
    expected = torch.tensor([[1.0], [0.5], [0.5 * torch.e**-1], [0.0]]) / beta
    assert torch.allclose(density, expected, atol=1e-5)
    field, samples = _field(rendering="volsdf"), _samples()
    density, _ = field.get_density(samples)
    assert torch.allclose(field.get_alpha(samples), 1 - torch.exp(-density * samples.deltas))


def _fitted(tmp_path: Path, **changes: Any) -> tuple[SignedDistanceField, Path]:
    """A field as sasnet-sdf writes them, in a frame of its own."""
    field = SignedDistanceField("sasnet", {**SMALL, **changes}, torch.tensor([3.0, -1.0, 2.0]), scale=0.25)
    path = tmp_path / "field.pt"
    field.save(path)
    return field, path


def test_a_running_start_is_the_fitted_field_in_scene_units(tmp_path: Path) -> None:
    fitted, _ = _fitted(tmp_path)
    turn = torch.tensor([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]])
    world_to_scene = torch.cat([0.2 * turn, torch.tensor([[0.1], [0.2], [-0.3]])], dim=1)
    box = torch.rand(100, 3) * 0.98 - 0.49
    scene = (box / 0.25 + fitted.center.float()) @ world_to_scene[:, :3].T + world_to_scene[:, 3]
    expected = fitted(box) / 0.25 * 0.2  # box units to world units to scene units
    for sign, inside_out in ((1, False), (-1, True)):
        field = _field(inside_outside=inside_out)
        field.geometry.start_from(fitted, world_to_scene)
        assert torch.allclose(field.sdf(scene), sign * expected, atol=1e-5)
    again = _field()
    again.load_state_dict(_copied(field))
    assert torch.allclose(again.sdf(scene).abs(), expected.abs(), atol=1e-5)  # a checkpoint needs no field.pt


def _copied(field: SASNetSDFField) -> dict[str, Tensor]:
    return copy.deepcopy(field.state_dict())


def test_a_running_start_from_a_file_or_a_clear_error(tmp_path: Path) -> None:
    fitted, path = _fitted(tmp_path)
    field = _field(init_field=path)
    points = fitted.center.float() + torch.rand(20, 3) * 2 - 1
    assert torch.allclose(field.sdf(points), fitted((points - fitted.center.float()) * 0.25) / 0.25, atol=1e-4)
    with pytest.raises(ValueError, match="no field at"):
        _field(init_field=tmp_path / "nothing.pt")
    _, other = _fitted(tmp_path, hidden_widths=(64, 32))
    with pytest.raises(ValueError, match="same network options"):
        _field(init_field=other)


@pytest.mark.parametrize("config_class", [NeuSModelConfig, NeuSFactoModelConfig])
def test_it_drops_into_nerfstudios_own_models(config_class: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing else changes; only the download of LPIPS weights is kept away."""
    import torchmetrics.image.lpip

    monkeypatch.setattr(torchmetrics.image.lpip, "LearnedPerceptualImagePatchSimilarity", torch.nn.Identity)
    torch.manual_seed(0)
    model = config_class(sdf_field=_config()).setup(scene_box=SceneBox(AABB), num_train_data=3, metadata={})
    model.train()
    outputs = model(_bundle(32))
    batch = {"image": torch.rand(32, 3), "fg_mask": torch.ones(32, 1)}
    losses = model.get_loss_dict(outputs, batch, model.get_metrics_dict(outputs, batch))
    assert {"rgb_loss", "eikonal_loss", "fg_mask_loss"} <= set(losses)
    sum(losses.values()).backward()
    for parameter in (
        model.field.geometry.network.output.weight,
        model.field.color.layers[0].bias,
        model.field.deviation_network.variance,
    ):
        assert parameter.grad is not None and parameter.grad.abs().max() > 0
    model.eval()
    with torch.no_grad():
        assert model(_bundle(4))["rgb"].shape == (4, 3)


def test_outside_the_box_the_initial_sphere_is_that_of_the_nearest_point() -> None:
    field = _field()
    points = 3 * torch.rand(200, 3) - 1.5
    points[0] = torch.tensor([0.0, 0.0, 3.0])
    nearest = points.clamp(-1, 1)
    away = (points - nearest).norm(dim=-1)
    assert torch.allclose(field.sdf(points), field.sdf(nearest) + away, atol=1e-5)
    slope = field.gradient(points[:1]).detach().norm(dim=-1)
    assert torch.allclose(slope, torch.ones_like(slope), atol=1e-3)
