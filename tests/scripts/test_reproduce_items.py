"""Every item of scripts/reproduce.py from end to end: a few steps on pictures of a few pixels."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))
sys.path.insert(0, str(ROOT / "scripts"))

import reproduce  # noqa: E402
from reproduction import rows as rows_module  # noqa: E402
from reproduction.context import Context  # noqa: E402
from reproduction.runs import Job  # noqa: E402

WANTED = {
    "table1": {"table1_quick.md", "table1_quick.csv", "table1_fits_quick.png", "table1_fits_error_quick.png"},
    "table2": {"table2_quick.md", "fig7_quick.png", "fig7_rendering_quick.png"},
    "table3": {"table3_quick.md", "fig9_quick.png"},
    "table4": {"table4_quick.md", "supp_fig8_quick.png"},
    "fig1_volume": {"fig1_volume_quick.png", "fig1_volume_rendering_quick.png"},
    "fig3": {"fig3_siren_quick.png", "fig3_sasnet_quick.png", "supp_fig9_masks_quick.png"},
    "fig4": {"fig4_quick.md", "fig4_fits_error_quick.png", "fig4_masks_quick.png"},
    "fig5": {"fig5_quick.png"},
    "fig6": {"fig6_quick.md", "fig6_quick.png"},
    "fig8": {"fig8_quick.md", "fig8_quick.png"},
    "fig10": {"fig10_quick.png"},
    "noise": {"noise_quick.md"},
    "row_costs": {"row_costs_quick.md"},
    "supp_table1": {"supp_table1.md"},
    "supp_table2": {"supp_table2_quick.md"},
    "supp_table3": {"supp_table3_quick.md"},
    "supp_table4": {"supp_table4_quick.md"},
    "supp_table5": {"supp_table5_quick.md"},
    "theorem1": {"theorem1.md", "theorem1.png"},
    "supp_fig1": {"supp_fig1_quick.png", "supp_fig1_trained_quick.png"},
    "supp_fig2": {"supp_fig2_quick.md", "supp_fig2_quick.png"},
    "supp_fig3": {"supp_fig3_quick.md", "supp_fig3_quick.png", "fig1_quick.png"},
    "supp_fig4": {"supp_fig4_quick.md"},
    "supp_fig5": {"supp_fig5_quick.png"},
    "supp_sec4": {"supp_sec4_quick.md"},
    "time_to_accuracy": {"time_to_accuracy_quick.png"},
    "tiger": {"tiger_quick.md"},
}
_ALL_ROWS = ("table4", "fig10", "noise", "supp_fig4", "supp_fig5", "supp_sec4", "supp_table1", "theorem1", "tiger")


@pytest.fixture
def data(tmp_path):
    """One small picture in each folder of images, and one small volume."""
    from PIL import Image

    generator = np.random.default_rng(0)
    picture = np.asarray(
        Image.fromarray(generator.integers(0, 255, (6, 6, 3), dtype=np.uint8)).resize(
            (32, 24), Image.Resampling.BICUBIC
        )
    )
    for name in ("div2k512", "kodak", "ct", "ffhq"):
        (tmp_path / "images" / name).mkdir(parents=True)
        Image.fromarray(picture).save(tmp_path / "images" / name / "a.png")
    (tmp_path / "volumes").mkdir()
    np.save(tmp_path / "volumes" / "a.npy", picture[:12, :12].astype(np.float32))
    return tmp_path


def test_every_item_has_its_files_listed():
    assert set(WANTED) == set(reproduce.ITEMS)


@pytest.mark.slow
@pytest.mark.parametrize("item", list(reproduce.ITEMS))
def test_item(item, data, tmp_path, monkeypatch):
    original = rows_module.Row.fit

    def short(self: rows_module.Row, *variants: str) -> dict:
        fit = original(self, *variants)
        fit["recipe"]["steps"] = 12
        return {**fit, "pool_size": 20_000} if "pool_size" in fit else fit

    monkeypatch.setattr(rows_module.Row, "fit", short)
    small = Job.__init__

    def fewer(self: Job, *values: object, **named: object) -> None:
        small(self, *values, **named)  # type: ignore[arg-type]
        if self.kind == "shape":
            self.resolution, self.samples = 48, 5_000
        self.fit["recipe"]["steps"] = 12

    monkeypatch.setattr(Job, "__init__", fewer)
    output = tmp_path / "out"
    context = Context(output, data, size="quick", rows=() if item in _ALL_ROWS else ("siren", "sasnet"))
    reproduce._function(item)(context)
    names = {p.name for p in output.iterdir()}
    assert WANTED[item] <= names, WANTED[item] - names
    for path in context.done:
        assert path.stat().st_size > 100
