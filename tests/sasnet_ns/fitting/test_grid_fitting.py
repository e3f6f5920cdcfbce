from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image

from sasnet_ns.analysis.contribution import group_contributions, neuron_contributions
from sasnet_ns.fitting.grid_field import GridField
from sasnet_ns.fitting.grid_fit import GridFit, fit_grid
from sasnet_ns.fitting.image import write_image_results
from sasnet_ns.fitting.image_metrics import psnr
from sasnet_ns.fitting.signal import (
    Signal,
    axis_coordinates,
    encode_tiff,
    read_image,
    shrink,
    signal_from_array,
)
from sasnet_ns.networks import build_network
from sasnet_ns.training.checkpoint import Checkpoint
from sasnet_ns.training.loop import seeded
from sasnet_ns.training.recipe import Recipe

SMALL = {
    "preset": "image", "embedding_width": 24, "hidden_widths": (16, 16), "groups": (4, 4), "band_limit": 8,
    "low_range": 2, "bands": 2, "grid_levels": 3, "grid_log2_entries": 6, "grid_max": 16, "decoder_width": 8,
}  # fmt: skip


def waves(rows: int = 32, columns: int = 24, channels: int = 3) -> np.ndarray:
    y, x = np.meshgrid(np.linspace(-1, 1, rows), np.linspace(-1, 1, columns), indexing="ij")
    parts = [0.5 + 0.4 * np.sin(4 * x + k) * np.cos(3 * y) for k in range(channels)]
    return np.rint(255 * np.stack(parts, -1)).astype(np.uint8)


def quick(network: str = "siren", steps: int = 60, **changes: object) -> GridFit:
    config = {"width": 32, "omega_0": 10.0} if network == "siren" else dict(SMALL)
    recipe = Recipe(steps=steps, optimizer="adam", learning_rate=3e-3, mask_learning_rate=1e-2, warmup_steps=1)
    return GridFit(network=network, network_config=config, recipe=recipe, **changes)  # type: ignore[arg-type]


def test_coordinates_of_finer_and_shifted_grids():
    assert axis_coordinates(4).tolist() == [-0.75, -0.25, 0.25, 0.75]
    assert axis_coordinates(3, "endpoints").tolist() == [-1, 0, 1]
    fine = axis_coordinates(4, scale=2)
    # The mean of the cells that share a pixel is the pixel's centre, and they are half as far apart.
    assert torch.allclose(fine.reshape(4, 2).mean(1), axis_coordinates(4))
    assert torch.allclose(fine.diff(), torch.full((7,), 0.25))
    assert torch.allclose(axis_coordinates(4, shift=0.125), axis_coordinates(4) + 0.0625)
    assert torch.allclose(axis_coordinates(3, "endpoints", shift=0.5), torch.tensor([-0.5, 0.5, 1.5]))


@pytest.mark.parametrize("network", ["siren", "sasnet"])
def test_a_fit_improves_and_comes_back_from_its_checkpoint(network, tmp_path):
    signal = signal_from_array(waves(), "waves")
    fitted = fit_grid(signal, quick(network), device="cpu", progress=False, evaluate_every=30, keep_before=True)
    assert fitted.before is not None
    after = psnr(fitted.field.render(), signal.values)
    assert after > 20 and after > psnr(fitted.before, signal.values) + 5
    assert fitted.history.psnr[-1] == pytest.approx(after, abs=1e-3) and fitted.history.step == [10, 20, 30, 40, 50, 60]
    fitted.field.save(tmp_path / "checkpoint.pt")
    torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    loaded = GridField.load(tmp_path / "checkpoint.pt")
    assert torch.equal(loaded.render(), fitted.field.render())
    zoomed = loaded.render(scale=2, window=[(4, 8), (0, 6)])
    assert zoomed.shape == (8, 12, 3) and torch.allclose(zoomed, loaded.render(scale=2)[8:16, :12], atol=1e-5)
    with pytest.raises(ValueError, match="does not lie"):
        loaded.render(window=[(0, 33), (0, 2)])


def test_batches_follow_the_seed_and_mask_sparsity_closes_masks():
    signal = signal_from_array(waves(), "waves")
    runs = [fit_grid(signal, quick(steps=12, points_per_batch=50), device="cpu", progress=False) for _ in "ab"]
    assert runs[0].history.loss == runs[1].history.loss
    other = fit_grid(signal, quick(steps=12, points_per_batch=50, seed=1), device="cpu", progress=False)
    assert other.history.loss != runs[0].history.loss
    means = []
    for weight in (0.0, 0.1):
        config = quick("sasnet", mask_sparsity_weight=weight)
        fitted = fit_grid(signal, config, device="cpu", progress=False)
        masks = fitted.field.network.masks(fitted.field.points())  # type: ignore[operator]
        means.append(float(torch.cat([m for m in masks if m is not None], 1).mean().detach()))
    assert means[1] < 0.5 * means[0]
    with pytest.raises(ValueError, match="mask_sparsity_weight"):
        fit_grid(signal, quick(mask_sparsity_weight=0.1), device="cpu", progress=False)


def test_an_interruption_keeps_what_was_learned():
    def stop(step: int, loss: float) -> None:
        if step == 20:
            raise KeyboardInterrupt

    fitted = fit_grid(signal_from_array(waves(), "waves"), quick(), device="cpu", progress=stop)
    assert fitted.interrupted and fitted.history.step == [10, 20]


def test_results_hold_numbers_pictures_and_strict_json(tmp_path):
    # Without edges and with 8 rows, edge PSNR and SSIM do not exist.
    signal = signal_from_array(np.full((8, 12, 1), 128, np.uint8), "flat")
    fitted = fit_grid(signal, quick("sasnet", steps=10), device="cpu", progress=False, keep_before=True)
    write_image_results(fitted, tmp_path)
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert metrics["psnr_edge"] is None and metrics["ssim"] is None and metrics["psnr"] > 0
    assert metrics["parameters"] == fitted.field.network.parameter_count() and metrics["target_values"] == 96
    wanted = {"checkpoint.pt", "reconstruction.png", "error.png", "edges.png", "curves.png", "spectrum.png"}
    assert wanted | {"gradient.png", "masks.png", "contributions.png", "history.json"} <= {
        p.name for p in tmp_path.iterdir()
    }


def test_contributions_add_up_to_the_next_layers_input():
    torch.manual_seed(0)
    x = torch.rand(50, 2) * 2 - 1
    for name, config in (("siren", {"width": 16}), ("sasnet", SMALL), ("wire", {"width": 8})):
        network = build_network(name, 2, 3, **config)  # type: ignore[arg-type]
        maps = neuron_contributions(network, x)
        last = list(maps)[-1]
        assert len(maps) == 3 and last.startswith("output")
        bias = network.output.bias  # type: ignore[union-attr]
        bias = bias[:, 0] if name == "wire" else bias  # type: ignore[index]
        wanted = (network(x) - bias).sum(1)  # type: ignore[operator]
        assert torch.allclose(maps[last].sum(1), wanted, atol=1e-4)
    groups = group_contributions(torch.tensor([[1.0, -3.0, 2.0, 2.0]]), 2)
    assert groups.tolist() == [[2.0, 2.0]]
    with pytest.raises(ValueError, match="do not divide"):
        group_contributions(torch.zeros(1, 4), 3)


def test_images_of_8_and_16_bits_grey_alpha_palette_and_float(tmp_path):
    from PIL import Image

    colours = waves()
    Image.fromarray(colours).save(tmp_path / "rgb.png")
    signal = read_image(tmp_path / "rgb.png")
    assert signal.bits == 8 and np.array_equal(np.rint(signal.values.numpy() * 255), colours)
    Image.fromarray(colours[..., 0]).save(tmp_path / "gray.png")
    assert read_image(tmp_path / "gray.png").channels == 1
    Image.fromarray(np.concatenate([colours, colours[..., :1]], -1)).save(tmp_path / "rgba.png")
    assert read_image(tmp_path / "rgba.png").channels == 4
    Image.fromarray(colours).quantize(16).save(tmp_path / "palette.png")
    assert read_image(tmp_path / "palette.png").channels == 3
    deep = (colours[..., 0].astype(np.uint16) * 251) + 7
    Image.fromarray(deep).save(tmp_path / "deep.png")
    signal = read_image(tmp_path / "deep.png")
    assert signal.bits == 16 and np.array_equal(np.rint(signal.values[..., 0].numpy() * 65535), deep)
    (tmp_path / "deep.tif").write_bytes(encode_tiff(signal, signal.values))
    again = read_image(tmp_path / "deep.tif")
    assert again.bits == 16 and torch.equal(again.values, signal.values)
    np.save(tmp_path / "float.npy", np.linspace(-3, 5, 12).reshape(3, 4))
    signal = read_image(tmp_path / "float.npy")
    assert (signal.low, signal.high) == (-3, 5) and signal.values.max() == 1


def test_sixteen_bit_colour_pngs_keep_their_bits(tmp_path):
    cv2 = pytest.importorskip("cv2")
    deep = waves().astype(np.uint16) * 251 + 7
    cv2.imwrite(str(tmp_path / "deep.png"), deep[..., ::-1])
    signal = read_image(tmp_path / "deep.png")
    assert signal.bits == 16 and np.array_equal(np.rint(signal.values.numpy() * 65535), deep)


def test_unusable_images_are_refused_in_one_sentence(tmp_path):
    (tmp_path / "text.png").write_text("no picture")
    np.save(tmp_path / "line.npy", np.zeros(4))
    np.save(tmp_path / "nan.npy", np.full((4, 4), np.nan))
    for name, words in (
        ("none.png", "no image"),
        ("text.png", "cannot be read"),
        ("line.npy", "shape"),
        ("nan.npy", "finite"),
    ):
        with pytest.raises(ValueError, match=words) as caught:
            read_image(tmp_path / name)
        assert "\n" not in str(caught.value)


def test_shrinking_keeps_means_and_the_longest_side():
    signal = signal_from_array(waves(64, 48), "waves")
    small = shrink(signal, 16)
    assert small.grid == (16, 12) and shrink(signal, 100) is signal
    assert torch.allclose(small.values.mean((0, 1)), signal.values.mean((0, 1)), atol=2e-2)
    volume = signal_from_array(np.arange(8 * 8 * 4, dtype=np.float64).reshape(8, 8, 4, 1), "ramp")
    assert shrink(volume, 4).grid == (4, 4, 2)


def test_both_ends_of_an_axis_are_two_places() -> None:
    ramp = np.linspace(0, 1, 24, dtype=np.float32)[:, None, None].repeat(24, 1)
    signal = Signal(torch.from_numpy(ramp), "ramp")
    options = {"preset": "toy", "embedding_width": 32, "hidden_widths": (32,), "groups": (2,), "masks": False}
    for period, network_config in ((2 / 0.95, options), (3.0, {**options, "period": 3.0})):
        fitted = fit_grid(
            signal, GridFit("sasnet", network_config, Recipe(steps=10), coordinates="endpoints"), progress=False
        )
        assert fitted.field.network.config.period == pytest.approx(period)
        ends = torch.sin(torch.tensor([[-1.0, 0.0], [1.0, 0.0]]) @ fitted.field.network.frequencies.T)
        assert (ends[0] - ends[1]).abs().max() > 0.05
    centers = fit_grid(signal, GridFit("sasnet", options, Recipe(steps=1)), progress=False)
    assert centers.field.network.config.period == 2.0


@pytest.mark.parametrize("network", ["msiren", "incode"])
def test_networks_with_modulators_have_pictures_too(network: str, tmp_path: Path) -> None:
    image = np.random.default_rng(0).integers(0, 255, (12, 12, 3), dtype=np.uint8)
    Image.fromarray(image).save(tmp_path / "i.png")
    fitted = fit_grid(read_image(tmp_path / "i.png"), GridFit(network, {"width": 8}, Recipe(steps=2)), progress=False)
    write_image_results(fitted, tmp_path / "out")
    assert (tmp_path / "out" / "reconstruction.png").is_file()


def test_rates_of_numpy_are_kept_in_checkpoints_that_can_be_read(tmp_path: Path) -> None:
    signal = Signal(torch.rand(8, 8, 1), "noise")
    recipe = Recipe(steps=20, learning_rate=np.float64(1e-3), mask_learning_rate=np.float64(5e-3))
    config = GridFit("siren", {"width": np.int64(16)}, recipe)
    for expected in (20, 20):
        found = fit_grid(signal, config, progress=False, checkpoint=Checkpoint(tmp_path / "training.pt", 0))
        assert found.history.step[-1] == expected
    found.field.save(tmp_path / "field.pt")
    assert GridField.load(tmp_path / "field.pt").description["network_config"]["width"] == 16


def test_threads_do_not_share_random_numbers() -> None:
    from concurrent.futures import ThreadPoolExecutor

    def first_weights(_: int) -> torch.Tensor:
        with seeded(3):
            return torch.cat([torch.rand(1000) for _ in range(50)])

    before = torch.get_rng_state()
    alone = first_weights(0)
    with ThreadPoolExecutor(4) as threads:
        assert all(torch.equal(found, alone) for found in threads.map(first_weights, range(16)))
    assert torch.equal(torch.get_rng_state(), before)


def test_evaluating_at_no_interval_is_at_the_end():
    signal = signal_from_array(waves(), "waves")
    fitted = fit_grid(signal, quick(steps=20), device="cpu", progress=False, evaluate_every=0)
    first, last = fitted.history.psnr
    assert first != first and last == pytest.approx(psnr(fitted.field.render(), signal.values), abs=1e-3)
