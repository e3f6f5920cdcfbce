"""Seeds that photographs are drawn with, and poses that are no numbers."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("nerfstudio")

from sasnet_ns.data.photos import mix_seed
from sasnet_ns.data.poses import check_poses


def test_mixed_seeds_fill_32_bits_and_differ() -> None:
    seeds = {mix_seed(seed, step) for seed in range(10) for step in range(2000)}
    assert len(seeds) > 19_990
    assert 0.45 < np.mean([value / 2**32 for value in seeds]) < 0.55
    assert max(seeds) < 2**32


@pytest.mark.parametrize("bad", ["NaN", "-Infinity"])
def test_a_pose_that_is_no_number_is_named(tmp_path: Path, bad: str) -> None:
    frames = [{"file_path": f"images/{i}.png", "transform_matrix": np.eye(4).tolist()} for i in range(3)]
    path = tmp_path / "transforms_train.json"
    path.write_text(json.dumps({"frames": frames}))
    check_poses(tmp_path)
    frames[1]["transform_matrix"][0][3] = float(bad.replace("Infinity", "inf"))  # type: ignore[index]
    path.write_text(json.dumps({"frames": frames}))
    for given in (tmp_path, path):
        with pytest.raises(ValueError, match=r"transforms_train\.json': the pose of frame 'images/1\.png'"):
            check_poses(given)
    path.write_text("{")  # another one's sentence
    check_poses(tmp_path)
