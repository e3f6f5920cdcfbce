"""Density fields in nerfacto's places: contracts, normals, bands, contraction."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("nerfstudio")

from nerfstudio.cameras.rays import Frustums, RaySamples
from nerfstudio.field_components.field_heads import FieldHeadNames
from nerfstudio.field_components.spatial_distortions import SceneContraction

from sasnet_ns.fields.density_field import ProposalField, SASNetDensityField

BOX = torch.tensor([[-1.0, -1.0, -1.0], [1.0, 1.0, 1.0]])
SMALL = {
    "sasnet": {"embedding_width": 32, "hidden_widths": (24, 24), "groups": (4, 4), "bands": 2, "band_limit": 12,
               "low_range": 4, "grid_levels": 3, "grid_log2_entries": 8, "decoder_width": 8},
    "siren": {"width": 24},
    "ngp": {"levels": 3, "log2_entries": 8, "width": 16},
}  # fmt: skip


def samples_at(positions: torch.Tensor) -> RaySamples:
    """Samples whose middles are the (rays, samples, 3) positions."""
    shape = (*positions.shape[:-1], 1)
    directions = torch.nn.functional.normalize(torch.ones_like(positions), dim=-1)
    zero = torch.zeros(shape)
    frustums = Frustums(positions, directions, starts=zero, ends=zero, pixel_area=torch.ones(shape))
    return RaySamples(frustums=frustums, camera_indices=torch.zeros(shape, dtype=torch.long))


def build(network: str = "sasnet", **options) -> SASNetDensityField:
    torch.manual_seed(0)
    return SASNetDensityField(BOX, 4, network, SMALL[network], appearance_embedding_dim=4, **options)


@pytest.mark.parametrize("network", list(SMALL))
def test_it_answers_as_nerfactos_field_does(network):
    field = build(network, use_pred_normals=True)
    outputs = field(samples_at(torch.rand(5, 7, 3) * 1.6 - 0.8), compute_normals=True)
    shapes = {name: tuple(value.shape) for name, value in outputs.items()}
    assert shapes == {
        FieldHeadNames.DENSITY: (5, 7, 1),
        FieldHeadNames.RGB: (5, 7, 3),
        FieldHeadNames.NORMALS: (5, 7, 3),
        FieldHeadNames.PRED_NORMALS: (5, 7, 3),
    }
    assert (outputs[FieldHeadNames.DENSITY] > 0).all()
    assert (outputs[FieldHeadNames.RGB] > 0).all() and (outputs[FieldHeadNames.RGB] < 1).all()
    sum(value.sum() for value in outputs.values()).backward()
    silent = [name for name, p in field.named_parameters() if p.grad is None]
    assert not [name for name in silent if "embedding_appearance" not in name]


def test_normals_point_against_the_gradient_of_the_density():
    field = build().double()
    points = (torch.rand(20, 1, 3) - 0.5).double()
    normals = field(samples_at(points), compute_normals=True)[FieldHeadNames.NORMALS]
    step = 1e-5
    rows = [
        (field.density_fn(points + step * axis) - field.density_fn(points - step * axis)) / (2 * step)
        for axis in torch.eye(3, dtype=torch.float64)
    ]
    numeric = -torch.nn.functional.normalize(torch.cat(rows, -1), dim=-1)
    assert torch.allclose(normals, numeric, atol=1e-4)


def test_appearance_codes_count_in_training_only():
    field = build()
    samples = samples_at(torch.zeros(2, 3, 3))
    samples.camera_indices[1] = 2
    field.train()
    first, second = field(samples)[FieldHeadNames.RGB]
    assert not torch.allclose(first, second)
    field.eval()
    first, second = field(samples)[FieldHeadNames.RGB]
    assert torch.allclose(first, second)


@pytest.mark.parametrize("network", list(SMALL))
def test_it_serves_as_a_proposal_network(network):
    for field in (build(network), ProposalField(BOX, network=network, **SMALL[network])):
        inside, outside = torch.zeros(4, 2, 3), torch.full((4, 2, 3), 1.5)
        density = field.density_fn(inside)
        assert density.shape == (4, 2, 1) and (density > 0).all() and density.requires_grad
        assert (field.density_fn(outside) == 0).all()


def test_contraction_covers_all_of_space():
    field = build(spatial_distortion=SceneContraction(order=float("inf")), average_init_density=0.01)
    points = torch.tensor([[0.0, 0, 0], [5.0, 0, 0], [-5.0, 0, 0], [1e4, 1e4, 1e4]])
    density = field.density_fn(points)
    assert (density > 0).all() and (density < 0.1).all()
    assert field.trunk.coordinates(points).abs().max() <= 1
    assert torch.allclose(field.trunk.coordinates(points[1:2]), torch.tensor([[0.9, 0, 0]]))


def test_a_band_that_opens_changes_nothing_at_first():
    field = build()
    points = torch.rand(30, 3) - 0.5
    values = []
    for bands in (0, 1, 2, None):
        field.trunk.bands = bands
        values.append(field.density_fn(points))
    assert all(torch.allclose(value, values[0]) for value in values)
    field.trunk.bands = 1
    field.density_fn(points).sum().backward()
    sizes = field.trunk.network.band_sizes
    grad = field.trunk.network.hidden[0].weight.grad
    assert grad[:, sizes[0] : sizes[0] + sizes[1]].abs().max() > 0
    assert grad[:, sizes[0] + sizes[1] :].abs().max() == 0
    assert [mask.shape[1] for mask in field.trunk.masks(points)] == [1, 4, 4]


def test_unknown_networks_are_refused():
    with pytest.raises(ValueError, match="no network is called"):
        SASNetDensityField(BOX, 1, "mlp")
