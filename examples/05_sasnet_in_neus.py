"""SASNet as the field of nerfstudio's own NeuS: one configuration exchanged, one picture rendered.

python examples/05_sasnet_in_neus.py --size 32
"""

from __future__ import annotations

from pathlib import Path

import torch
import tyro
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.data.scene_box import SceneBox
from nerfstudio.models.neus import NeuSModel, NeuSModelConfig

import sdf_tools
from sasnet_ns.fields import SASNetSDFFieldConfig
from sasnet_ns.models.lpips import lpips_without_download


def main(output_path: Path = Path("normals.png"), size: int = 48) -> None:
    """Build NeuS around a SASNet, say what it is, render the sphere that it starts as.

    Args:
        output_path: picture of the normals to write.
        size: its width and height in pixels.
    """
    torch.manual_seed(0)
    field = SASNetSDFFieldConfig(inside_outside=False, bias=0.5)  # instead of nerfstudio's SDFFieldConfig
    config = NeuSModelConfig(sdf_field=field, num_samples=16, num_samples_importance=16, background_model="none")
    box = SceneBox(torch.tensor([[-1.0] * 3, [1.0] * 3]))
    with lpips_without_download():  # nerfstudio's own models fetch 233 MB of LPIPS weights when they are built
        model: NeuSModel = config.setup(scene_box=box, num_train_data=1)
    network = model.field.geometry.network
    print(f"{type(network).__name__} in {type(model).__name__}: {network.parameter_count():,} parameters")

    pose = torch.eye(4)[:3]
    pose[2, 3] = 2.5  # looking along -z at the origin
    camera = Cameras(pose[None], fx=1.2 * size, fy=1.2 * size, cx=size / 2, cy=size / 2, width=size, height=size)
    model.eval()
    with torch.no_grad():
        outputs = model.get_outputs_for_camera(camera)
    covered = float((outputs["accumulation"] > 0.5).float().mean())
    sdf_tools.save_picture((outputs["normal"] + 1) / 2, output_path)
    print(f"{output_path}: normals; the surface covers {covered:.0%} of the picture")


if __name__ == "__main__":
    tyro.cli(main)
