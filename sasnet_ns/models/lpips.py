"""LPIPS where its weights are already on this machine, and models that build without downloading them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor


class OptionalLPIPS:
    """Learned perceptual similarity (Zhang et al., CVPR 2018) with AlexNet, or NaN where AlexNet's weights are missing.

    nerfstudio's models build the metric when they are constructed, which downloads 233 MB. This one looks for the file
    that torchvision would have kept and loads it when the metric is first asked for. It is no module: the weights stay
    out of checkpoints.

    Args:
        normalize: whether pictures are in [0, 1] instead of [-1, 1], as for torchmetrics' metric of that name.
    """

    def __init__(self, normalize: bool = False, **_: Any) -> None:
        self.normalize = normalize
        self._metric: Any = None

    @staticmethod
    def weights_are_here() -> bool:
        """Whether torchvision's file is in torch's cache (``TORCH_HOME``)."""
        from torchvision.models import AlexNet_Weights

        return (Path(torch.hub.get_dir()) / "checkpoints" / Path(AlexNet_Weights.DEFAULT.url).name).is_file()

    def __call__(self, prediction: Tensor, reference: Tensor) -> Tensor:
        """Distance of (1, 3, H, W) pictures, a scalar."""
        if not self.weights_are_here():
            return prediction.new_full((), torch.nan)
        if self._metric is None:
            from torchmetrics.image.lpip import LearnedPerceptualImagePatchSimilarity

            self._metric = LearnedPerceptualImagePatchSimilarity(normalize=self.normalize).to(prediction.device)
        return self._metric(prediction.clamp(0, 1), reference.clamp(0, 1))


@contextlib.contextmanager
def lpips_without_download() -> Iterator[None]:
    """nerfstudio's models that are built in here get :class:`OptionalLPIPS` as their ``lpips``.

    They import the metric's class in the middle of the function that builds everything else, so the only way in is the
    name that they import; it holds for the whole process while the block runs.
    """
    from torchmetrics.image import lpip

    name = "LearnedPerceptualImagePatchSimilarity"
    original = getattr(lpip, name)
    setattr(lpip, name, OptionalLPIPS)
    try:
        yield
    finally:
        setattr(lpip, name, original)


def without_missing(metrics: dict[str, float]) -> dict[str, float]:
    """The metrics without an LPIPS that could not be computed."""
    return {name: value for name, value in metrics.items() if name != "lpips" or value == value}
