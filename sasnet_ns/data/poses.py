"""Camera poses are checked where they are read: one that is no number makes numbers of none of the others."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any


def check_poses(data: Path) -> None:
    """Look through the poses of a data set's ``transforms*.json``; files of other kinds pass.

    Args:
        data: the folder, or one such file.

    Raises:
        ValueError: a pose with a number that is NaN or infinite; the sentence names file and frame.
    """
    files = [data] if data.is_file() else sorted(data.glob("transforms*.json"))
    for path in files:
        if path.suffix != ".json":
            continue
        try:
            content = json.loads(path.read_text())
        except (OSError, ValueError):  # whoever needs the file says what is wrong with it
            continue
        frames = content.get("frames") if isinstance(content, dict) else None
        for index, frame in enumerate(frames if isinstance(frames, list) else []):
            if isinstance(frame, dict) and not _finite(frame.get("transform_matrix")):
                name = frame.get("file_path", f"number {index}")
                raise ValueError(
                    f"'{path}': the pose of frame '{name}' has a number that is NaN or infinite; leave it out or "
                    "run the camera estimation again."
                )


def _finite(value: Any) -> bool:
    if isinstance(value, list):
        return all(_finite(item) for item in value)
    return not isinstance(value, float) or math.isfinite(value)
