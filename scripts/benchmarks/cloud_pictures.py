"""Four noisy clouds beside what Open3D's screened Poisson and ``reconstruct`` make of them, and the truth: a picture.

Open3D at the k and depth that come closest to the truth, which its user could not know; ours as it is.
"""

from __future__ import annotations

import warnings
from pathlib import Path

from benchmarks import cloud_cases, cloud_methods
from benchmarks.clouds import judge

from sdf_tools.pictures.plots import picture_sheet
from sdf_tools.pictures.render import Camera, render_mesh, save_picture
from sdf_tools.pictures.splats import cloud_as_mesh

SHOWN = (
    ("armadillo", "noise 1 %", 200.0),
    ("lucy", "strays 20 %", 20.0),
    ("spot", "noise 0.5 %", 200.0),
    ("fandisk", "noise 0.05 to 1 %", 20.0),
)
METHODS = {"Open3D": cloud_methods.open3d_poisson, "ours": cloud_methods.ours}
PICTURE = Path(__file__).resolve().parents[2] / "docs" / "images" / "clouds_noisy.png"


def run(json_path: Path | None, quick: bool) -> None:
    """Write docs/images/clouds_noisy.png; ``--json`` and ``--quick`` change nothing."""
    pictures, titles = [], []
    for shape, name, azimuth in SHOWN:
        mesh = cloud_cases.truth(shape)
        if mesh is None:
            raise SystemExit(f"cloud_pictures: {shape} is not in {cloud_cases.folder()}; set SASNET_CLOUD_MESHES.")
        case = cloud_cases.make(shape, name, mesh, 30_000)
        row, words = [cloud_as_mesh(case.cloud)[0]], [f"{shape}, {name}"]
        for method, way in METHODS.items():
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                tried = [(judge(case, method, attempt), attempt.mesh) for attempt in way(case.cloud, quick)]
            found, surface = max(tried, key=lambda pair: pair[0].iou)
            row.append(surface)
            words.append(f"{method} {found.settings}\nIoU {found.iou:.3f}, {found.pieces} pieces")
            print(f"{words[0]}: {words[-1]}", flush=True)
        pictures.append([render_mesh(each, Camera(azimuth=azimuth), (420, 420)) for each in (*row, mesh)])
        titles.append([*words, "the truth"])
    save_picture(picture_sheet(pictures, titles), PICTURE)
