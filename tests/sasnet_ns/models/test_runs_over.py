"""Runs in a folder where another one lies: whose weights, descriptions and fields are there afterwards."""

from __future__ import annotations

import copy
import json
import os
import signal
import sys
from typing import Any

import pytest
import torch

pytest.importorskip("nerfstudio")

from test_faults import after

from sasnet_ns.commands._run_shape import shape_field
from sasnet_ns.models.loading import load_surface, newest_step


def test_a_run_that_never_began_leaves_the_former_one_as_it_was(make_trainer: Any) -> None:
    first = make_trainer(max_num_iterations=2)
    first.train()
    before = {name: (first.base_dir / name).read_bytes() for name in ("config.yml", "run.json", "field.pt")}
    again = make_trainer(max_num_iterations=3, machine__seed=5)
    assert (again.base_dir / "run.json").read_bytes() != before["run.json"]
    again._init_viewer_state = lambda: os.kill(os.getpid(), signal.SIGTERM)
    with pytest.raises(SystemExit, match="Stopped before the first step"):
        again.train()
    assert {name: (again.base_dir / name).read_bytes() for name in before} == before
    assert newest_step(again.checkpoint_dir) == 1


def test_the_field_of_a_run_that_is_trained_over_is_not_the_new_runs(make_trainer: Any) -> None:
    trainer = make_trainer(max_num_iterations=2)
    trainer.train()
    folder = trainer.base_dir
    load_surface(folder)
    description = json.loads((folder / "run.json").read_text())
    other_network, other_place = copy.deepcopy(description), copy.deepcopy(description)
    other_network["options"]["pipeline"]["model"]["network"] = "siren"
    other_place["frame"]["center"][0] += 1
    for content in (other_network, other_place):
        (folder / "run.json").write_text(json.dumps(content))
        for load in (load_surface, shape_field):
            with pytest.raises(ValueError, match=r"field\.pt' is not of the run that run\.json describes"):
                load(folder)
    for frame in (None, {}, {"center": ["a", 1, 2], "scale": 1}, {"center": 3, "scale": None}):
        (folder / "run.json").write_text(json.dumps({**description, "frame": frame}))
        load_surface(folder)


def test_a_run_over_another_takes_the_place_of_its_checkpoints(make_trainer: Any) -> None:
    """Also of later ones than its own, and only once there is one of its own."""
    options = {"save_only_latest_checkpoint": False, "steps_per_geometry_eval": 0, "steps_per_save": 3}
    first = make_trainer(max_num_iterations=9, **options)
    first.train()
    names = ["step-000000003.ckpt", "step-000000006.ckpt", "step-000000008.ckpt"]
    folder = first.checkpoint_dir
    assert sorted(path.name for path in folder.iterdir()) == names
    second = make_trainer(max_num_iterations=5, pipeline__datamanager__seed=1, **options)
    after(second, 2, lambda: names.extend(path.name for path in folder.iterdir()))
    second.train()
    assert sorted(names[3:]) == names[:3]
    assert sorted(path.name for path in folder.iterdir()) == ["step-000000003.ckpt", "step-000000004.ckpt"]
    loaded, trained = load_surface(second.base_dir).field, second.pipeline.model.field
    points = torch.rand(20, 3) - 0.5
    with torch.no_grad():
        assert torch.equal(loaded(points), trained(points))
    # Going on in the same folder keeps what it goes on from, and takes the place of what came after.
    third = make_trainer(max_num_iterations=6, load_dir=folder, load_step=3, **(options | {"steps_per_save": 50}))
    third.train()
    assert sorted(path.name for path in folder.iterdir()) == ["step-000000003.ckpt", "step-000000005.ckpt"]


def test_a_newer_checkpoint_wins_over_field_pt(make_trainer: Any) -> None:
    trainer = make_trainer(max_num_iterations=6)
    trainer.train()
    field = trainer.pipeline.model.field
    points = torch.rand(20, 3) - 0.5
    with torch.no_grad():
        expected = field(points)
        next(iter(field.network.parameters())).add_(1.0)
    field.save(trainer.base_dir / "field.pt", step=3)  # as if the process had died before the last one
    with torch.no_grad():
        assert torch.equal(load_surface(trainer.base_dir / "config.yml").field(points), expected)
        exported, step = shape_field(trainer.base_dir / "config.yml")
        assert torch.equal(exported(points), expected) and step == 6
        assert not torch.equal(shape_field(trainer.base_dir / "field.pt")[0](points), expected)
    field.save(trainer.base_dir / "field.pt", step=6)
    with torch.no_grad():
        assert not torch.equal(load_surface(trainer.base_dir).field(points), expected)


def test_a_run_from_the_file_of_another_leaves_that_one_as_it_is(
    make_trainer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = make_trainer(max_num_iterations=2)
    first.train()
    kept = [first.base_dir / name for name in ("config.yml", "run.json", "field.pt", "history.json")]
    kept.append(first.checkpoint_dir / "step-000000001.ckpt")
    before = [path.read_bytes() for path in kept]
    assert make_trainer(setup=False).base_dir == first.base_dir  # a name given twice is a folder to train over
    (first.base_dir / "config.yml").write_bytes(before[0])
    monkeypatch.setattr(sys, "argv", ["ns-train", "sasnet-sdf", "--load-config", str(kept[0])])
    second = make_trainer(max_num_iterations=2)
    assert second.base_dir != first.base_dir and second.base_dir.parent == first.base_dir.parent
    second.train()
    assert before == [path.read_bytes() for path in kept]


def test_a_start_that_fails_leaves_the_folder_as_it_was(make_trainer: Any) -> None:
    first = make_trainer(max_num_iterations=2)
    first.train()
    config = first.base_dir / "config.yml"
    before = config.read_bytes()
    here = {"load_dir": first.checkpoint_dir, "max_num_iterations": 4}
    again = make_trainer(setup=False, pipeline__model__sasnet__hidden_widths=(32, 32), **here)
    assert again.base_dir == first.base_dir and config.read_bytes() != before
    with pytest.raises(SystemExit):
        again.setup()
    assert config.read_bytes() == before and not (first.base_dir / ".lock").exists()
    broken = make_trainer(setup=False, timestamp="new")
    broken._describe_run = lambda: 1 / 0
    with pytest.raises(ZeroDivisionError):
        broken.setup()
    assert not (broken.base_dir / "config.yml").exists()
