"""Real fits of small solids: rows with right values, the same bytes twice, and the set loaded again."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from torch.utils.data import DataLoader

from sasnet_ns.datasets import (
    Counts,
    FieldDataset,
    FitOptions,
    Limits,
    Row,
    fit_one,
    fit_shapes,
    latest_rows,
    synthetic_mesh,
)
from sasnet_ns.datasets.one import field_bytes, weights_hash
from sasnet_ns.datasets.rows import Journal, field_path
from sasnet_ns.datasets.synthetic import ball, box, capsule, smooth_difference, smooth_union, synthetic_field, torus
from sasnet_ns.fitting import Recipe, ShapeFit
from sasnet_ns.networks import SignedDistanceField
from sdf_tools.extraction import drop_specks, extract_mesh
from sdf_tools.geometry import NormalizedShape
from sdf_tools.io import load, save_mesh
from sdf_tools.io.writing import write_atomically
from sdf_tools.metrics import evaluate
from sdf_tools.topology import is_watertight

SMALL = {
    "preset": "sdf_compact",
    "embedding_width": 32,
    "hidden_widths": (32,),
    "groups": (2,),
    "grid_levels": 2,
    "grid_log2_entries": 8,
}


def small_options(output: Path, steps: int = 200, **more: object) -> FitOptions:
    recipe = Recipe(steps=steps, warmup_steps=5)
    fit = ShapeFit(network_config=dict(SMALL), pool_size=8_000, points_per_batch=500, recipe=recipe)
    return FitOptions(output, fit, **{"resolution": 32, "samples": 2_000, "device": "cpu", **more})  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("solids")
    for seed in range(4):
        save_mesh(synthetic_mesh(seed, resolution=24), folder / f"solid{seed}.ply")
    (folder / "empty.ply").write_text("")
    return folder


@pytest.fixture(scope="module")
def data_set(shapes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Made in this process, all from the same weights."""
    output = tmp_path_factory.mktemp("set")
    options = small_options(output, shared_init=True)
    fit_shapes(shapes, options, engine=lambda entries, o: (fit_one(e.file, o, e.path) for e in entries))
    return output


def test_a_row_says_what_was_fitted_and_how_well(shapes: Path, data_set: Path) -> None:
    rows = {row.path: row for row in latest_rows(data_set)}
    assert sorted(rows) == ["empty.ply", *(f"solid{seed}.ply" for seed in range(4))]
    assert rows["empty.ply"].status == "failed" and "is an empty file" in (rows["empty.ply"].error or "")
    row, mesh = rows["solid1.ply"], load(shapes / "solid1.ply")
    assert (row.status, row.kind, row.steps, row.faces) == ("fitted", "mesh", 200, mesh.faces.shape[0])  # type: ignore[union-attr]
    sdf = FieldDataset(data_set).load(1)
    surface = NormalizedShape(drop_specks(extract_mesh(sdf, 32))[0], sdf.center, float(sdf.scale))
    again = evaluate(surface.mesh_to_world(surface.shape), mesh, samples=2_000, iou_samples=10_000, paper=False)  # type: ignore[arg-type]
    assert (row.iou, row.accuracy, row.completeness, row.normal_error) == pytest.approx(
        (again.iou, again.accuracy_mean, again.completeness_mean, again.normal_error_mean), rel=1e-6
    )
    assert row.iou is not None and 0.5 < row.iou < 1 and row.watertight is True
    field = data_set / "fields" / f"{row.key}.pt"
    assert field.stat().st_size == row.field_bytes
    assert row.content_hash and row.configuration_hash
    assert row.key == f"{row.content_hash[:32]}-{row.configuration_hash[:8]}"


def test_the_same_shape_gives_the_same_bytes(shapes: Path, data_set: Path, tmp_path: Path) -> None:
    row = fit_one(shapes / "solid2.ply", small_options(tmp_path, shared_init=True), "solid2.ply")
    first = next(r for r in latest_rows(data_set) if r.path == "solid2.ply")
    varying = {"seconds": None, "fit_seconds": None}
    assert dataclasses.replace(row, **varying) == dataclasses.replace(first, **varying)  # type: ignore[arg-type]
    assert (tmp_path / "fields" / f"{row.key}.pt").read_bytes() == (data_set / "fields" / f"{row.key}.pt").read_bytes()


def test_shared_init_means_the_same_first_weights(shapes: Path, tmp_path: Path) -> None:
    """Without learning, what is saved are the first weights."""
    for shared in (True, False):
        options = small_options(tmp_path / str(shared), steps=1, shared_init=shared, resolution=0)
        still = dataclasses.replace(
            options.fit.recipe, learning_rate=0.0, hidden_learning_rate=0.0, mask_learning_rate=0.0
        )
        options.fit = dataclasses.replace(options.fit, recipe=still)
        fit_shapes(shapes, options, engine=lambda entries, o: (fit_one(e.file, o, e.path) for e in entries))
        data = FieldDataset(tmp_path / str(shared))
        first, second = data[0]["weights"], data[1]["weights"]
        assert torch.equal(first, second) is shared
        if shared:
            initial = data.initial().network.parameters()
            assert torch.equal(first, torch.cat([p.detach().reshape(-1) for p in initial]))
        else:
            with pytest.raises(ValueError, match="--shared-init"):
                data.initial()


def test_a_budget_in_seconds_chooses_the_steps(shapes: Path, tmp_path: Path) -> None:
    short, long = (
        fit_one(shapes / "solid0.ply", small_options(tmp_path, seconds=seconds, resolution=0)) for seconds in (0.1, 1.0)
    )
    assert short.steps and long.steps and long.steps > 2 * short.steps


def test_options_of_a_row(tmp_path: Path) -> None:
    options = small_options(tmp_path)
    changed = options.with_overrides({"steps": "7", "objective.eikonal_weight": "0.1", "mend": "none"}, "row 1")
    assert (changed.fit.recipe.steps, changed.fit.objective.eikonal_weight, changed.mend) == (7, 0.1, "none")
    assert options.fit.recipe.steps == 200 and changed.configuration_hash() != options.configuration_hash()
    for wrong, sentence in (
        ({"step": 1}, "'step' is not a field"),
        ({"steps": "many"}, "row 1"),
        ({"seed.x": 1}, "no parts"),
    ):
        with pytest.raises(ValueError, match=sentence):
            options.with_overrides(wrong, "row 1")


def test_options_that_no_shape_can_be_fitted_with_are_refused(tmp_path: Path) -> None:
    options = small_options(tmp_path)
    for wrong, sentence in (
        ({"seconds": -1.0}, "seconds must be more than 0, not -1."),
        ({"resolution": -4}, "resolution must lie between 0 and 8192"),
        ({"samples": 0}, "samples must be at least 1"),
        ({"thumbnail": -1}, "thumbnail must be 0 or between 16"),
        ({"thumbnail": 64, "resolution": 0}, "needs a resolution above 0"),
        ({"device": "gpu"}, "device must be cpu or cuda, not 'gpu'"),
    ):
        with pytest.raises(ValueError, match=sentence):
            dataclasses.replace(options, **wrong)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"list\.csv, row 2: resolution must lie"):
        options.with_overrides({"resolution": "-4"}, "list.csv, row 2")
    with pytest.raises(ValueError, match="limits of time and memory"):
        Limits(seconds=-1.0)


def test_the_hash_is_of_what_matters(tmp_path: Path) -> None:
    options = small_options(tmp_path)
    same = dataclasses.replace(options, output=tmp_path / "elsewhere", mesh=True, thumbnail=64)
    assert same.configuration_hash() == options.configuration_hash()
    assert dataclasses.replace(options, mend="none").configuration_hash() != options.configuration_hash()


def test_mesh_and_thumbnail_beside_the_field(shapes: Path, tmp_path: Path) -> None:
    row = fit_one(shapes / "solid0.ply", small_options(tmp_path, mesh=True, thumbnail=32))
    mesh, shape = load(tmp_path / "meshes" / f"{row.key}.ply"), load(shapes / "solid0.ply")
    middles = [x.vertices.median(0).values for x in (mesh, shape)]  # type: ignore[union-attr]
    assert torch.allclose(*middles, atol=0.06)
    assert (tmp_path / "thumbnails" / f"{row.key}.png").stat().st_size > 200


def test_meshes_and_thumbnails_asked_for_later_are_those_of_the_fields(shapes: Path, tmp_path: Path) -> None:
    later, with_fit = tmp_path / "later", tmp_path / "with_fit"

    def run(output: Path, **more: object) -> Counts:
        options = small_options(output, steps=100, **more)
        fits = fit_shapes(shapes, options, engine=lambda rows, o: (fit_one(e.file, o, e.path) for e in rows))
        return fits.counts

    run(with_fit, mesh=True, thumbnail=32)
    assert run(later).drawn == 0
    rows = (later / "rows.jsonl").read_bytes()
    assert run(later, mesh=True, thumbnail=16).drawn == 4
    assert run(later, mesh=True, thumbnail=32).drawn == 4  # another size
    assert run(later, mesh=True, thumbnail=32).drawn == 0
    assert (later / "rows.jsonl").read_bytes() == rows
    for name in ("meshes", "thumbnails"):
        files = {path.name: path.read_bytes() for path in (later / name).iterdir()}
        assert files == {path.name: path.read_bytes() for path in (with_fit / name).iterdir()} and len(files) == 4


def test_every_kind_of_failure_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "text.ply").write_text("not a mesh")
    for name, part in (("missing.ply", "cannot be read"), ("text.ply", "PLY"), (".", "is not a file")):
        row = fit_one(tmp_path / name, small_options(tmp_path / "out"))
        assert row.status == "failed" and part in (row.error or "") and "\n" not in (row.error or "")
        assert isinstance(row, Row) and row.seconds is not None


def test_weights_flat_and_by_layer_are_the_same(data_set: Path) -> None:
    flat, layers = FieldDataset(data_set), FieldDataset(data_set, weights="layers")
    assert len(flat) == 4 and flat.layers[-1].stop == flat.field.network.parameter_count()
    one, other = flat[1], layers[1]
    for layer in flat.layers:
        piece = one["weights"][layer.start : layer.stop].reshape(layer.shape)
        assert torch.equal(piece, other["weights"][layer.name])
    batch = next(iter(DataLoader(flat, batch_size=3)))
    assert batch["weights"].shape == (3, flat.layers[-1].stop) and batch["path"][2] == "solid2.ply"
    assert next(iter(DataLoader(layers, batch_size=2)))["weights"]["output.weight"].shape[0] == 2


def test_many_fields_at_once_are_the_fields_one_by_one(data_set: Path) -> None:
    data = FieldDataset(data_set)
    points = torch.rand(3, 50, 3, generator=torch.Generator().manual_seed(0)) - 0.5
    indices = [2, 0, 3]
    with torch.no_grad():
        alone = torch.stack([data.load(i)(p) for i, p in zip(indices, points, strict=True)])
        fields = data.fields(indices)
        torch.testing.assert_close(fields(points), alone, atol=2e-5, rtol=1e-4)
        same = torch.stack([data.load(i)(points[0]) for i in indices])
        torch.testing.assert_close(fields(points[0]), same, atol=2e-5, rtol=1e-4)
    weights = torch.stack([data[i]["weights"] for i in indices]).requires_grad_()
    values = data.fields_of(weights)(points)
    torch.testing.assert_close(values.detach(), alone, atol=2e-5, rtol=1e-4)
    values[1].sum().backward()
    assert weights.grad is not None and weights.grad[1].norm() > 0 and weights.grad[[0, 2]].norm() == 0
    for wrong in (torch.zeros(2, 5, 3), torch.zeros(3, 5, 2)):
        with pytest.raises(ValueError, match="points must be"):
            fields(wrong)
    with pytest.raises(ValueError, match="weights must be"):
        data.fields_of(weights[:, 1:])


def test_points_of_any_precision_are_taken_as_by_a_single_field(data_set: Path) -> None:
    data = FieldDataset(data_set)
    points = torch.rand(20, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) - 0.5
    weights = torch.stack([data[index]["weights"] for index in (0, 1)])
    with torch.no_grad():
        for fields in (data.fields([0, 1]), data.fields_of(weights)):
            alone = torch.stack([data.load(index)(points) for index in (0, 1)])
            torch.testing.assert_close(fields(points), alone, atol=2e-5, rtol=1e-4)
        double = data.fields_of(weights.double())
        alone = torch.stack([data.load(index).double()(points) for index in (0, 1)])
        torch.testing.assert_close(double(points), alone, atol=1e-12, rtol=1e-9)
        assert double(points.float()).dtype == torch.float64


def test_what_cannot_be_loaded_is_said(data_set: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="holds no fitted fields"):
        FieldDataset(tmp_path)
    with pytest.raises(ValueError, match="holds no fitted fields"):
        FieldDataset(data_set, min_iou=1.1)
    with pytest.raises(ValueError, match="weights must be flat or layers, not 'nope'"):
        FieldDataset(data_set, weights="nope")  # type: ignore[arg-type]
    data = FieldDataset(data_set)
    with pytest.raises(ValueError, match="no fields without indices"):
        data.fields([])
    with pytest.raises(ValueError, match="K at least 1, not"):
        data.fields_of(torch.zeros(0, data.layers[-1].stop))
    with pytest.raises(TypeError, match=r"take torch\.utils\.data\.Subset"):
        data[0:2]  # type: ignore[index]


def test_primitives_have_the_right_distance() -> None:
    point = torch.tensor([[0.3, 0.0, 0.0], [0.0, 0.4, 0.0], [0.0, 0.0, 0.0]])
    torch.testing.assert_close(ball(point, 0.2), torch.tensor([0.1, 0.2, -0.2]))
    torch.testing.assert_close(box(point, torch.tensor([0.1, 0.2, 0.3]), 0.02), torch.tensor([0.2, 0.2, -0.1]))
    torch.testing.assert_close(torus(point, 0.2, 0.05), torch.tensor([0.05, 0.2**0.5 - 0.05, 0.15]))
    torch.testing.assert_close(capsule(point, 0.1, 0.05), torch.tensor([0.25, 0.25, -0.05]))
    a, b = torch.tensor([0.0, 0.5]), torch.tensor([0.0, 0.1])
    torch.testing.assert_close(smooth_union(a, b, 0.2), torch.tensor([-0.05, 0.1]))  # k / 4 where both are equal
    torch.testing.assert_close(smooth_difference(a, b, 0.2), torch.tensor([0.05, 0.5]))


def test_random_solids_are_closed_and_always_the_same() -> None:
    first, again, other = (synthetic_mesh(seed, resolution=24) for seed in (5, 5, 6))
    assert torch.equal(first.vertices, again.vertices) and first.vertices.shape != other.vertices.shape
    assert is_watertight(first.faces.numpy()) and is_watertight(other.faces.numpy())
    # Seed 177 removes nearly all of its first solid: what is drawn instead is another one, always the same.
    redrawn, once_more = synthetic_mesh(177, resolution=24), synthetic_mesh(177, resolution=24)
    assert redrawn.faces.shape[0] > 2 * extract_mesh(synthetic_field(177), 24).faces.shape[0]
    assert is_watertight(redrawn.faces.numpy()) and torch.equal(redrawn.vertices, once_more.vertices)
    outside = synthetic_field(5)(torch.tensor([[0.5, 0.5, 0.5]]))
    assert outside.dtype == torch.float32 and float(outside) > 0


def set_of(output: Path, *fields: SignedDistanceField) -> FieldDataset:
    """Fields as if they had been fitted with one configuration."""
    journal = Journal(output / "rows.jsonl")
    for index, field in enumerate(fields):
        key = f"{index:032x}-00000000"
        write_atomically(field_path(output, key), field_bytes(field))
        journal.append(Row(f"{index}.ply", "fitted", key=key, configuration_hash="0" * 64))
    journal.close()
    return FieldDataset(output)


def seeded_field(network: str, options: dict[str, object], seed: int) -> SignedDistanceField:
    torch.manual_seed(seed)
    return SignedDistanceField(network, options)


def test_flat_weights_are_no_fields_where_frozen_buffers_differ(tmp_path: Path) -> None:
    options = {"width": 8, "frequencies": 4}
    ffn = [seeded_field("ffn", options, seed) for seed in (0, 1)]
    data = set_of(tmp_path / "seeds", *ffn)
    weights = torch.stack([data[index]["weights"] for index in (0, 1)])
    with pytest.raises(ValueError, match=r"the frozen frequencies differ from field to field; take fields\(indices\)"):
        data.fields_of(weights)
    points = torch.rand(20, 3, generator=torch.Generator().manual_seed(0)) - 0.5
    alone = torch.stack([field(points) for field in ffn])
    torch.testing.assert_close(data.fields([0, 1])(points), alone)
    ffn[1].network.frequencies.copy_(ffn[0].network.frequencies)  # type: ignore[union-attr,operator]
    alone = torch.stack([field(points) for field in ffn])
    torch.testing.assert_close(set_of(tmp_path / "shared", *ffn).fields_of(weights)(points), alone)
    masked = [seeded_field("sape", {**options, "resolution": 4}, 0) for _ in range(3)]
    masked[2].network.open_blocks.fill_(1.0)  # type: ignore[union-attr,operator]
    data = set_of(tmp_path / "by_shape", *masked)
    with pytest.raises(ValueError, match="the frozen open_blocks differ"):
        data.fields_of(data[0]["weights"][None])


def test_fields_of_several_networks_are_not_put_together(tmp_path: Path) -> None:
    """As spectrum: auto makes them, under one configuration."""
    data = set_of(tmp_path, *(seeded_field("sasnet", {**SMALL, "omega_0": omega}, 0) for omega in (30.0, 24.0)))
    words = r"the network of '1\.ply' has other options \(omega_0\) than that of '0\.ply'"
    for call in (lambda: data.fields([0, 1]), lambda: data[1]):
        with pytest.raises(ValueError, match=words):
            call()
    assert data.load(1).network.config.omega_0 == 24.0 and len(data[0]["weights"])  # type: ignore[union-attr]
    listed = {**SMALL, "hidden_widths": [32], "groups": [2]}
    alike = set_of(tmp_path / "lists", *(seeded_field("sasnet", own, 0) for own in (SMALL, listed)))
    assert len(alike.fields([0, 1])) == 2


def test_gradients_of_several_finers_are_those_of_each(tmp_path: Path) -> None:
    finers = [seeded_field("finer", {"width": 8}, seed) for seed in (0, 1)]
    points = (torch.rand(20, 3, generator=torch.Generator().manual_seed(0)) - 0.5).requires_grad_()
    batch = set_of(tmp_path, *finers).fields([0, 1])
    for index, finer in enumerate(finers):
        (slopes,) = torch.autograd.grad(batch(points)[index].sum(), points)
        torch.testing.assert_close(slopes, finer.value_and_gradient(points)[1], rtol=1e-4, atol=1e-4)


def test_first_weights_are_kept_for_each_configuration(shapes: Path, tmp_path: Path) -> None:
    for seed in (0, 1):
        options = small_options(tmp_path, 1, resolution=0, shared_init=True)
        options.fit.seed = seed
        fit_shapes(shapes, options, engine=lambda rows, o: (fit_one(e.file, o, e.path) for e in list(rows)[1:2]))
    found = {row.configuration_hash: row.initial_hash for row in latest_rows(tmp_path)}
    assert len(set(found.values())) == 2
    for configuration, initial in found.items():
        assert weights_hash(FieldDataset(tmp_path, configuration=configuration).initial()) == initial
    first, second = (tmp_path / f"initial-{(name or '')[:8]}.pt" for name in found)
    first.rename(tmp_path / "initial.pt")  # as it was called once, for the last run alone
    second.unlink()
    old, lost = (FieldDataset(tmp_path, configuration=name) for name in found)
    assert weights_hash(old.initial()) == old.rows[0].initial_hash
    with pytest.raises(ValueError, match=r"initial\.pt' holds the first weights of another configuration"):
        lost.initial()


def test_one_budget_of_time_and_the_steps_that_were_made(shapes: Path, tmp_path: Path) -> None:
    fit = dataclasses.replace(small_options(tmp_path).fit, seconds=0.3, recipe=Recipe(steps=100_000))
    options = FitOptions(tmp_path, fit, resolution=0, device="cpu")
    assert (options.seconds, options.fit.seconds) == (0.3, None)
    assert FitOptions(tmp_path, fit, seconds=1.0).seconds == 1.0
    for name in ("steps", "recipe.steps"):
        changed = options.with_overrides({name: "7"}, "row 1")
        assert (changed.seconds, changed.fit.seconds, changed.fit.recipe.steps) == (None, None, 7)
    assert options.with_overrides({"seconds": "2"}, "row 1").seconds == 2.0
    assert options.with_overrides({"seed": "2"}, "row 1").seconds == 0.3
    row = fit_one(shapes / "solid0.ply", options)
    assert row.status == "fitted" and row.steps and row.steps < 100_000
