"""Opaque pictures: a plain background is found and rendered before, anything else is spoken of."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

pytest.importorskip("nerfstudio")

from sasnet_ns.methods import sasnet_neus_facto  # isort: skip  (nerfstudio's writer cannot come first)
from sasnet_ns.data.background import plain_background

Make = Callable[..., Path]


def pipeline(folder: Path, **model: Any) -> Any:
    """The pipeline of a method on a folder, with a small network."""
    config = copy.deepcopy(sasnet_neus_facto.config.pipeline)
    config.datamanager.data = folder
    config.datamanager.train_num_rays_per_batch = config.datamanager.eval_num_rays_per_batch = 64
    config.model.sdf_field.sasnet.embedding_width, config.model.sdf_field.sasnet.hidden_widths = 32, (32, 32)
    for name, value in model.items():
        setattr(config.model, name, value)
    return config.setup(device="cpu")


def noise(folder: Path) -> None:
    rng = np.random.default_rng(1)
    for path in (folder / "images").iterdir():
        Image.fromarray(rng.integers(0, 255, (16, 16, 3), dtype=np.uint8)).save(path)


def test_a_plain_border_is_found_under_noise_and_where_the_object_reaches_it(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    paths = []
    for i in range(20):
        picture = np.full((100, 120, 3), (180, 200, 30)) + rng.integers(-8, 9, (100, 120, 3))
        picture[40:60, 20:100] = rng.integers(0, 255, (20, 80, 3))
        if i == 3:
            picture[:, 60:] = 0  # close up
        paths.append(tmp_path / f"{i}.jpg")
        Image.fromarray(picture.clip(0, 255).astype(np.uint8)).save(paths[-1], quality=90)
    found = plain_background(paths)
    assert found is not None
    assert np.abs(found * 255 - [180, 200, 30]).max() <= 2
    half = [tmp_path / f"half{i}.png" for i in range(4)]
    for path in half:  # a floor and a wall
        picture = np.full((50, 50, 3), 30, np.uint8)
        picture[25:] = 200
        Image.fromarray(picture).save(path)
    assert plain_background(half) is None
    assert plain_background([*paths[:12], *half]) is None


def test_the_pipeline_renders_before_it(tmp_path: Path, make_folder: Make, capsys: pytest.CaptureFixture[str]) -> None:
    folder = make_folder(tmp_path / "data", mode="RGB", background=(10, 200, 60))
    built = pipeline(folder)
    assert "#0ac83c is taken as what lies behind the object" in " ".join(capsys.readouterr().out.split())
    color = torch.tensor([10, 200, 60]) / 255
    assert torch.allclose(built.model.renderer_rgb.background_color, color)
    # Where nothing is hit, the rendered colour is the background's, and a step of training runs.
    rgb = built.model.renderer_rgb(torch.rand(5, 4, 3), torch.zeros(5, 4, 1))
    assert torch.allclose(rgb, color.expand(5, 3))
    _, losses, _ = built.get_train_loss_dict(0)[:3]
    assert all(torch.isfinite(torch.as_tensor(value)).all() for value in losses.values())


@pytest.mark.parametrize(
    ("mode", "model"), [("RGBA", {}), ("RGB", {"background_color": "black"}), ("RGB", {"background_model": "mlp"})]
)
def test_transparency_and_what_was_asked_for_go_first(
    mode: str, model: dict[str, Any], tmp_path: Path, make_folder: Make, capsys: pytest.CaptureFixture[str]
) -> None:
    built = pipeline(make_folder(tmp_path / "data", mode=mode), **model)
    out = capsys.readouterr().out
    assert "opaque" not in out
    assert built.model.renderer_rgb.background_color is not None
    if mode == "RGBA":
        assert built.model.renderer_rgb.background_color == "random"


def test_surroundings_are_spoken_of(tmp_path: Path, make_folder: Make, capsys: pytest.CaptureFixture[str]) -> None:
    folder = make_folder(tmp_path / "data", mode="RGB")
    noise(folder)
    built = pipeline(folder)
    out = " ".join(capsys.readouterr().out.split())
    assert "not plain at their borders" in out and "--pipeline.model.background-model mlp" in out
    assert built.model.renderer_rgb.background_color == "random"


def test_the_colour_is_kept_with_the_weights(tmp_path: Path, make_folder: Make) -> None:
    folder = make_folder(tmp_path / "data", mode="RGB", background=(10, 200, 60))
    built, color = pipeline(folder), torch.tensor([10, 200, 60]) / 255
    config = copy.deepcopy(built.config)
    for path in (folder / "images").iterdir():  # exchanged after training
        Image.open(path).point(lambda value: value // 2).save(path)
    for mode in ("inference", "test"):
        other = config.setup(device="cpu", test_mode=mode)
        other.load_state_dict(built.state_dict())
        assert torch.allclose(other.model.renderer_rgb.background_color, color)
    older = {name: value for name, value in built.state_dict().items() if not name.endswith("plain_background")}
    other = config.setup(device="cpu", test_mode="inference")
    other.load_state_dict(older)
    assert other.model.renderer_rgb.background_color == "random"


def test_a_cut_out_has_its_own_colours_before_any_background(tmp_path: Path, make_folder: Make) -> None:
    model = pipeline(make_folder(tmp_path / "data", mode="RGB")).model  # before white
    coverage = torch.full((2, 2, 1), 0.6)
    rgba = model.get_rgba_image({"rgb": 0.3 * coverage.expand(2, 2, 3) + (1 - coverage), "accumulation": coverage})
    assert torch.allclose(rgba, torch.tensor([0.3, 0.3, 0.3, 0.6]).expand(2, 2, 4), atol=1e-6)


def test_an_alpha_channel_of_opaque_pictures_is_none(tmp_path: Path, make_folder: Make) -> None:
    folder = make_folder(tmp_path / "data", mode="RGB", background=(10, 200, 60))
    for number, path in enumerate(sorted((folder / "images").iterdir())):
        Image.open(path).convert(("RGBA", "P")[number % 2]).save(path)
    built = pipeline(folder)
    assert built.datamanager.train_dataset[0]["image"].shape[-1] == 3
    assert torch.allclose(built.model.renderer_rgb.background_color, torch.tensor([10, 200, 60]) / 255, atol=0.02)
