"""What is most likely wrong in a folder of photographs although it can be trained on."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from nerfstudio.data.dataparsers.base_dataparser import DataparserOutputs

from sasnet_ns.data.picture_files import mask_in_alpha

FAR_CAMERA = 20.0
"""Distance from the middle of all cameras that is odd, in the usual ones."""


def oddities(splits: Sequence[DataparserOutputs], masks: Sequence[Path] = ()) -> list[str]:
    """Sentences to print before training.

    About odd principal points, a camera far from all others, pictures listed twice, masks in alpha channels.

    Args:
        splits: for training and for evaluation.
        masks: foreground masks of the pictures for training.

    Raises:
        ShapeError: a mask is missing or damaged.
    """
    alpha = _alpha_masks([*masks, *(splits[0].mask_filenames or ())])
    return [*_far_centers(splits), *_far_cameras(splits), *_repeated(splits), *alpha]


def _far_centers(splits: Sequence[DataparserOutputs]) -> list[str]:
    odd: dict[Path, None] = {}
    for outputs in splits:
        cameras = outputs.cameras
        inside = (cameras.cx >= 0) & (cameras.cx <= cameras.width) & (cameras.cy >= 0) & (cameras.cy <= cameras.height)
        flags = zip(outputs.image_filenames, inside.flatten().tolist(), strict=True)
        odd |= dict.fromkeys(path for path, good in flags if not good)
    if not odd:
        return []
    return [
        f"The principal point (cx, cy) of {_named([*odd])} lies outside the picture, as only a picture cut out "
        "of a larger one has it."
    ]


def _far_cameras(splits: Sequence[DataparserOutputs]) -> list[str]:
    paths = [path for outputs in splits for path in outputs.image_filenames]
    places = np.concatenate([outputs.cameras.camera_to_worlds[:, :, 3].double().numpy() for outputs in splits])
    away = np.linalg.norm(places - np.median(places, axis=0), axis=1)
    usual = float(np.median(away))
    far = np.flatnonzero(away > FAR_CAMERA * usual)
    if usual == 0 or not len(far):
        return []
    return [
        f"The camera of {_named([paths[i] for i in far])} stands {away[far[0]] / usual:.0f} times as far from the "
        "middle of all as they usually do, and the scene is scaled to hold it; leave it out if its pose is wrong."
    ]


def _repeated(splits: Sequence[DataparserOutputs]) -> list[str]:
    """About pictures listed twice; one that trains and evaluates with the same pose is ``--eval-mode all``."""
    poses: dict[Path, np.ndarray] = {}
    moved: dict[Path, None] = {}
    twice: dict[Path, None] = {}
    for outputs in splits:
        here: set[Path] = set()
        for path, pose in zip(outputs.image_filenames, outputs.cameras.camera_to_worlds.numpy(), strict=True):
            if not np.array_equal(poses.setdefault(path, pose), pose):
                moved[path] = None
            elif path in here:
                twice[path] = None
            here.add(path)
    sentences = []
    if moved:
        sentences.append(f"The picture {_named([*moved])} is listed twice with different poses, of which one is wrong.")
    if twice:
        sentences.append(f"The picture {_named([*twice])} is listed twice and counts twice.")
    return sentences


def _alpha_masks(masks: Sequence[Path]) -> list[str]:
    found = next((path for path in masks if mask_in_alpha(Path(path))), None)
    if found is None:
        return []
    return [f"The mask '{found}' has one colour and an alpha channel; of such masks, the alpha channel is taken."]


def _named(paths: Sequence[Path]) -> str:
    return f"'{paths[0]}'" + (f" (and {len(paths) - 1} more)" if len(paths) > 1 else "")
