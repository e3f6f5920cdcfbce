"""What all items share: where things lie, how much to do, and on what."""

from __future__ import annotations

import platform
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

from reproduction.runs import NOT_DONE, Job, Record, available_cores, keep_rows, read_record, run_jobs
from sdf_tools.io.writing import write_atomically

ROOT = Path(__file__).resolve().parents[2]
ROWS = ROOT / "docs" / "paper_rows"
"""Results of rows that took long, one JSON file each, by size."""

Size = Literal["quick", "medium", "full"]
T = TypeVar("T")

SOURCES = {
    "images/div2k512": "DIV2K photographs at 512 x 512 (the folder div2k/test_data of github.com/liuzhen0212/FINER, or "
    "centre crops of data.vision.ee.ethz.ch/cvl/DIV2K)",
    "images/kodak": "the Kodak True Color Image Suite, r0k.us/graphics/kodak",
    "images/ct": "the CT slices of kaggle.com/datasets/kmader/siim-medical-images (folder tiff_images)",
    "images/ffhq": "100 images of FFHQ at 1024 x 1024, github.com/NVlabs/ffhq-dataset",
    "volumes/scalarflow": "density volumes of ScalarFlow, ge.in.tum.de/publications/2019-scalarflow-eckert",
    "volumes": "any volume that fit_volume.py reads; the paper's are ScalarFlow's, "
    "ge.in.tum.de/publications/2019-scalarflow-eckert",
}
"""Folders of data under ``--data`` and where their content comes from."""

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff")


@dataclass
class Context:
    """How an item is reproduced.

    Attributes:
        output: tables, figures and, in ``runs``, results of runs.
        data: folder of data sets, see :data:`SOURCES`.
        size: ``quick`` for a small version, ``full`` for the paper's setting, ``medium`` in between.
        item: what is reproduced, for the rows' records.
        seeds: of weights and batches.
        rows: names of rows to keep; empty for all.
        limit: images, volumes or shapes to use; None for the item's own number.
        workers: runs at the same time.
        device: cpu or cuda.
        checkpoint_seconds: between savings of a run's middle.
        no_fit: show what is there and nothing else.
        keep: copy the record of every finished run to :data:`ROWS`.
        done: files that were written.
        failed: reasons of runs that could not be done.
    """

    output: Path
    data: Path
    size: Size = "full"
    item: str = ""
    seeds: tuple[int, ...] = (0,)
    rows: tuple[str, ...] = ()
    limit: int | None = None
    workers: int = 1
    device: str = "cpu"
    checkpoint_seconds: float = 60.0
    no_fit: bool = False
    keep: bool = False
    done: list[Path] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)

    @property
    def quick(self) -> bool:
        """Whether this is the small version."""
        return self.size == "quick"

    def choose(self, quick: T, medium: T, full: T) -> T:
        """One value for each size."""
        return {"quick": quick, "medium": medium, "full": full}[self.size]

    @property
    def variants(self) -> tuple[str, ...]:
        """Of the rows."""
        return self.choose(("quick",), ("medium",), ())

    @property
    def suffix(self) -> str:
        """Ending of file names that keeps the sizes apart."""
        return self.choose("_quick", "_medium", "")

    @property
    def mark(self) -> str:
        """Ending of titles."""
        return self.choose(" (quick version)", " (medium size)", "")

    @property
    def command(self) -> str:
        """What makes this item again, without the machine's paths."""
        words = ["python scripts/reproduce.py", self.item, *self.choose(["--quick"], ["--medium"], [])]
        words += ["--rows", *self.rows] if self.rows else []
        words += ["--limit", str(self.limit)] if self.limit else []
        words += ["--seeds", *map(str, self.seeds)] if self.seeds != (0,) else []
        return " ".join(words)

    def save(self, name: str, data: bytes) -> None:
        """Write ``name`` into the output folder, marked with its size, and list it."""
        stem, ending = name.rsplit(".", 1)
        path = self.output / f"{stem}{self.suffix}.{ending}"
        write_atomically(path, data)
        self.done.append(path)

    def run(self, jobs: list[Job], fields: bool = False) -> list[dict[str, Any]]:
        """Results of jobs, from the cache or :data:`ROWS` where they are there.

        Args:
            jobs: what to fit.
            fields: the networks are needed too, and :data:`ROWS` have numbers alone.
        """
        record = Record(self.command, self.hardware(), self.data)
        rows = None if fields else ROWS / self.size
        place = self.output / "runs"
        results = run_jobs(jobs, place, self.workers, self.device, self.checkpoint_seconds, record, rows, self.no_fit)
        self.failed += [result["error"] for result in results if result.get("error", NOT_DONE) != NOT_DONE]
        if self.keep:
            keep_rows(results, ROWS / self.size)
        return results

    def files(self, folder: str, count: int | None, suffixes: tuple[str, ...] = IMAGE_SUFFIXES) -> list[Path]:
        """The first files of a data set by name; with ``no_fit`` and no data, those that have kept rows.

        Raises:
            ValueError: there is none; the message says where they come from.
        """
        place = self.data / folder
        there = (path for path in place.glob("*") if not path.name.startswith("."))
        found = sorted(path for path in there if path.name.lower().endswith(suffixes)) if place.is_dir() else []
        found = found or self._kept_files(folder)
        if not found:
            raise ValueError(
                f"nothing to fit in '{place}': put {SOURCES[folder]} there, or name another --data folder."
            )
        count = self.limit or count
        return found[:count] if count else found

    def shape(self, name: str) -> str:
        """A named shape, or its file under ``meshes/`` of the data folder where that is there.

        With ``no_fit`` the file that kept rows are of, whatever lies in the folder.
        """
        from sasnet_ns.shapes.named import BUNDLED
        from sdf_tools.io.loading import CLOUD_SUFFIXES, MESH_SUFFIXES

        found = [path for path in self._kept_files("meshes") if path.stem == name]
        there = (self.data / "meshes").glob(f"{name}.*")
        found = found or sorted(p for p in there if p.is_file() and p.suffix.lower() in MESH_SUFFIXES + CLOUD_SUFFIXES)
        return str(found[0]) if found and name not in BUNDLED else name

    def _kept_files(self, folder: str) -> list[Path]:
        """Files of a data set that kept rows name, where nothing is to be fitted to them."""
        if not self.no_fit:
            return []
        places = [Path(read_record(row)["job"]["data"]) for row in (ROWS / self.size).glob("*.json")]
        return sorted({self.data / place for place in places if place.parent == Path(folder)})

    def pick(self, names: tuple[str, ...]) -> tuple[str, ...]:
        """The rows asked for.

        Raises:
            ValueError: a row that the item does not have.
        """
        for name in self.rows:
            if name not in names:
                raise ValueError(f"there is no row '{name}' here; rows are {', '.join(names)}.")
        return tuple(name for name in names if not self.rows or name in self.rows)

    def hardware(self) -> str:
        """One phrase."""
        import torch

        if self.device.startswith("cuda"):
            return torch.cuda.get_device_name(self.device)
        cores, runs = available_cores(), self.workers
        return f"{cores} core{'s' * (cores > 1)} of {_processor()}, {runs} run{'s' * (runs > 1)} at a time"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
