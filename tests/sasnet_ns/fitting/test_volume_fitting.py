from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from sasnet_ns.fitting.grid_fit import GridFit, fit_grid
from sasnet_ns.fitting.toy_image import toy_image
from sasnet_ns.fitting.volume import read_volume, render_volume, write_volume_results
from sasnet_ns.training.recipe import Recipe
from sdf_tools.errors import MissingLibraryError


def ramp() -> np.ndarray:
    """(4, 6, 5) with a different value everywhere."""
    return (np.arange(120, dtype=np.int16) * 7 - 300).reshape(4, 6, 5)


def test_every_format_gives_the_same_volume(tmp_path):
    import tifffile

    array = ramp()
    np.save(tmp_path / "a.npy", array)
    np.savez(tmp_path / "a.npz", volume=array, spacing=np.array([3.0, 1.0, 1.0]), other=np.zeros(3))
    tifffile.imwrite(tmp_path / "a.tif", array)
    array.astype(">i2").tofile(tmp_path / "a.raw")
    (tmp_path / "stack").mkdir()
    for k in (0, 1, 2, 3):
        tifffile.imwrite(tmp_path / "stack" / f"slice{8 + k}.tif", array[k])
    wanted = (array.astype(np.float32) + 300) / (119 * 7)
    for name in ("a.npy", "a.npz", "a.tif", "stack"):
        signal = read_volume(tmp_path / name)
        assert signal.grid == (4, 6, 5) and np.allclose(signal.values[..., 0].numpy(), wanted, atol=1e-6), name
    raw = read_volume(tmp_path / "a.raw", shape=(4, 6, 5), dtype=">i2")
    assert np.allclose(raw.values[..., 0].numpy(), wanted, atol=1e-6)
    assert read_volume(tmp_path / "a.npz").spacing == (3.0, 1.0, 1.0)
    assert read_volume(tmp_path / "a.npz", spacing=(1.0, 2.0, 3.0)).spacing == (1.0, 2.0, 3.0)
    assert (raw.low, raw.high) == (-300.0, 533.0)


def test_scalarflows_layout_and_a_window(tmp_path):
    density = np.linspace(0, 0.5, 60, dtype=np.float32).reshape(3, 5, 4, 1)
    np.savez_compressed(tmp_path / "density_000100.npz", data=density)
    signal = read_volume(tmp_path / "density_000100.npz")
    assert signal.grid == (3, 5, 4) and signal.channels == 1 and np.allclose(signal.values.numpy(), density)
    np.save(tmp_path / "ct.npy", ramp())
    signal = read_volume(tmp_path / "ct.npy", window=(0, 400))
    assert signal.values.min() == 0 and signal.values.max() == 1 and signal.high == 400


@pytest.mark.parametrize(("library", "suffix"), [("nibabel", "nii.gz"), ("nrrd", "nrrd")])
def test_medical_formats_or_a_sentence_that_names_the_library(tmp_path, library, suffix):
    path = tmp_path / f"a.{suffix}"
    try:
        module = __import__(library)
    except ImportError:
        path.write_bytes(b"anything")
        with pytest.raises(MissingLibraryError, match="pip install"):
            read_volume(path)
        return
    array = ramp()
    if library == "nibabel":
        module.save(module.Nifti1Image(array.T.copy(), np.diag([1.0, 1.0, 3.0, 1.0])), path)
    else:
        module.write(str(path), array, {"spacings": [1.0, 1.0, 3.0]}, index_order="C")
    signal = read_volume(path)
    assert signal.grid == (4, 6, 5) and signal.spacing[0] == 3.0
    assert np.allclose(signal.values[..., 0].numpy(), (array + 300.0) / 833, atol=1e-6)


def test_unusable_volumes_are_refused_in_one_sentence(tmp_path):
    np.save(tmp_path / "flat.npy", np.zeros((4, 4)))
    np.save(tmp_path / "same.npy", np.full((4, 4, 4), 2.5))
    np.savez(tmp_path / "names.npz", points=np.zeros((5, 3)))
    ramp().tofile(tmp_path / "a.raw")
    (tmp_path / "a.npy").write_bytes(b"damaged")
    (tmp_path / "a.vtk").write_bytes(b"x")
    cases = (("none.npy", {}, "no volume"), ("flat.npy", {}, "shape"), ("same.npy", {}, "no range"),
             ("names.npz", {}, "it has points"), ("a.raw", {}, "say its shape"), ("a.npy", {}, "cannot be read"),
             ("a.raw", {"shape": (2, 2, 2), "dtype": "<i2"}, "120 values"), ("a.vtk", {}, "suffix"))  # fmt: skip
    for name, options, words in cases:
        with pytest.raises(ValueError, match=words) as caught:
            read_volume(tmp_path / name, **options)  # type: ignore[arg-type]
        assert "\n" not in str(caught.value)


def test_a_volume_is_fitted_and_written(tmp_path):
    axes = np.meshgrid(*[np.linspace(-1, 1, n) for n in (12, 11, 13)], indexing="ij")
    np.save(tmp_path / "ball.npy", np.exp(-3 * sum(a**2 for a in axes)))
    signal = read_volume(tmp_path / "ball.npy")
    recipe = Recipe(steps=60, optimizer="adam", learning_rate=5e-3, warmup_steps=1)
    config = GridFit(network="siren", network_config={"width": 24, "omega_0": 8.0}, recipe=recipe, points_per_batch=800)
    write_volume_results(fit_grid(signal, config, device="cpu", progress=False), tmp_path / "out")
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert metrics["psnr"] > 25 and 0.5 < metrics["ssim"] <= 1 and metrics["size"] == [12, 11, 13]
    with np.load(tmp_path / "out" / "reconstruction.npz") as content:
        own = content["volume"][..., 0]
    error = own - np.load(tmp_path / "ball.npy")
    assert -10 * np.log10((error**2).mean()) == pytest.approx(metrics["psnr"], abs=0.01)
    assert {"slices.png", "rendering.png", "curves.png"} <= {p.name for p in (tmp_path / "out").iterdir()}


def test_a_rendering_absorbs_along_the_ray():
    density = torch.zeros(16, 16, 16)
    density[:, 4:12, 4:12] = 1
    picture = render_volume(density, azimuth=0.0, size=33, steps=400, opacity=2.0, cmap="gray", shading=0.0)
    # Half the box's depth of value 1: what passes is exp(-2 * 0.5), in front of a background of 0.06.
    clear = float(np.exp(-1.0))
    # As wide as the diagonal of the box, as high as its side.
    assert picture.shape == (23, 33, 3)
    assert float(picture[11, 16, 0]) == pytest.approx(1 - clear + 0.06 * clear, abs=0.04)
    assert float(picture[11, 1, 0]) == pytest.approx(0.06, abs=1e-4)


def test_the_toy_image_has_flat_parts_hard_edges_and_fine_rings():
    signal = toy_image(96)
    values = signal.values
    assert signal.grid == (96, 96) and torch.equal(values, toy_image(96).values)
    assert torch.equal(values[:10, 40:56], values[0, 40].expand(10, 16, 3))
    middle = values[48, 48 - 20 : 48 + 21, 0]
    assert int((middle.diff().sign().diff() != 0).sum()) >= 8
    assert toy_image(64, channels=1).channels == 1
    with pytest.raises(ValueError, match="32 pixels"):
        toy_image(16)


def test_smoke_is_mostly_empty_and_the_same_each_time():
    from sasnet_ns.fitting.smoke_volume import smoke_volume

    smoke = smoke_volume(50)
    assert smoke.grid == (50, 28, 28) and smoke.channels == 1
    assert smoke.values.max() == 1 and smoke.values.min() == 0
    assert 0.75 < (smoke.values < 0.02).float().mean() < 0.99
    share = (smoke.values > 0.02).float().mean(dim=(1, 2, 3))
    assert share[35:45].mean() > 2 * share[:10].mean()  # a plume widens
    assert torch.equal(smoke.values, smoke_volume(50).values)
    assert not torch.equal(smoke.values, smoke_volume(50, seed=1).values)
    with pytest.raises(ValueError, match="16 voxels"):
        smoke_volume(8)


def test_light_does_not_depend_on_the_unit_of_the_cells() -> None:
    density = torch.rand(6, 6, 6, generator=torch.Generator().manual_seed(0))
    pictures = [render_volume(density, (unit, unit, 2 * unit), size=17, steps=20) for unit in (1.0, 1e6, 1e-9)]
    for other in pictures[1:]:
        torch.testing.assert_close(other, pictures[0], rtol=1e-3, atol=1e-3)
