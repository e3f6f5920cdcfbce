"""Shapes by name: the bundled Armadillo, and scans fetched from the Stanford repository into a user cache."""

from __future__ import annotations

import contextlib
import gzip
import os
import shutil
import sys
import tarfile
import zlib
from dataclasses import dataclass
from functools import partial
from importlib import resources
from pathlib import Path
from typing import IO

import torch
from filelock import FileLock

from sasnet_ns.shapes.download import DownloadError, download
from sdf_tools.errors import ShapeError
from sdf_tools.geometry import Mesh, Shape
from sdf_tools.io.writing import write_atomically

STANFORD_URL = "https://graphics.stanford.edu"
"""Where the scans come from. Environment variable ``SASNET_STANFORD_URL`` names a mirror."""


@dataclass(frozen=True)
class RemoteShape:
    """One mesh of the Stanford 3D Scanning Repository.

    Attributes:
        url_path: path of the archive on the server.
        member: file inside a ``.tar.gz``; empty for a plain ``.ply.gz``.
        megabytes: size of the download, for messages.
    """

    url_path: str
    member: str
    megabytes: int


BUNDLED = ("armadillo",)

REMOTE = {
    "bunny": RemoteShape("/pub/3Dscanrep/bunny.tar.gz", "bunny/reconstruction/bun_zipper.ply", 5),
    "dragon": RemoteShape("/pub/3Dscanrep/dragon/dragon_recon.tar.gz", "dragon_recon/dragon_vrip.ply", 11),
    "happy_buddha": RemoteShape("/pub/3Dscanrep/happy/happy_recon.tar.gz", "happy_recon/happy_vrip.ply", 15),
    "lucy": RemoteShape("/data/3Dscanrep/lucy.tar.gz", "lucy.ply", 322),
    "thai_statue": RemoteShape("/data/3Dscanrep/xyzrgb/xyzrgb_statuette.ply.gz", "", 128),
}

FRONTS = {"armadillo": (0.0, 0.0, -1.0)}
"""Where the named shapes look that do not look along +z, or along -y where z is up."""


def known_front(name_or_path: str | os.PathLike[str] | None) -> torch.Tensor | None:
    """(3,) unit vector in which a named shape looks, None if it is the usual one or not known."""
    name = None if name_or_path is None else canonical_name(name_or_path)
    return torch.tensor(FRONTS[name]) if name in FRONTS else None


def shape_names() -> tuple[str, ...]:
    """Every name that :func:`resolve_shape` knows, the bundled ones first."""
    return (*BUNDLED, *sorted(REMOTE))


def canonical_name(name_or_path: str | os.PathLike[str]) -> str | None:
    """The registered name that the argument means ("Thai-Statue" is "thai_statue"), or None if it is a file."""
    name = os.fspath(name_or_path).strip().lower().replace("-", "_").replace(" ", "_")
    return name if name in shape_names() else None


def resolve_shape(name_or_path: str | os.PathLike[str]) -> Shape:
    """Load a shape: a registered name first, else a mesh or point-cloud file.

    Args:
        name_or_path: one of :func:`shape_names`, or a file that ``sdf_tools.load`` reads.

    Returns:
        The shape in its own units.

    Raises:
        ShapeError: neither a name nor a file, a file that is no usable shape, or a scan that cannot be fetched.
    """
    name = canonical_name(name_or_path)
    if name in BUNDLED:
        from sasnet_ns.shapes.packing import unpack_mesh

        return unpack_mesh(shape_file(name), name)
    if name is not None:
        from sdf_tools.io.loading import load

        return load(fetch_shape(name), name=name)
    path = Path(name_or_path).expanduser()
    if not path.exists():
        raise ShapeError(
            f"'{os.fspath(name_or_path)}' is neither a file nor the name of a shape; "
            f"give a mesh or point-cloud file, or one of: {', '.join(shape_names())}."
        )
    if path.is_dir():
        raise ShapeError(f"'{path}' is a folder; give one mesh or point-cloud file in it.")
    from sdf_tools.io.loading import load

    return load(path)


def shape_file(name_or_path: str | os.PathLike[str]) -> Path:
    """The file that :func:`resolve_shape` reads; a scan that has not been fetched yet has none at that path."""
    name = canonical_name(name_or_path)
    if name in BUNDLED:
        return Path(str(resources.files("sasnet_ns.shapes") / "assets" / f"{name}.mesh.xz"))
    return Path(name_or_path).expanduser() if name is None else cache_dir() / f"{name}.ply"


def named_shape(name: str) -> Shape | None:
    """A registered shape, or None for other names: how ``sdf-tools`` finds them (entry point ``sdf_tools.shapes``)."""
    return None if canonical_name(name) is None else resolve_shape(name)


def resolve_mesh(name_or_path: str | os.PathLike[str]) -> Mesh:
    """As :func:`resolve_shape`, for what needs faces.

    Raises:
        ShapeError: neither a file nor a name, a file that cannot be used, or points without faces.
    """
    shape = resolve_shape(name_or_path)
    if not isinstance(shape, Mesh):
        raise ShapeError(f"'{os.fspath(name_or_path)}' holds points without faces; a mesh is needed.")
    return shape


def cache_dir() -> Path:
    """Where fetched shapes live: ``SASNET_CACHE``, else the platform's cache folder for this user."""
    override = os.environ.get("SASNET_CACHE")
    if override:
        return Path(override).expanduser()
    if sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA", Path.home() / "AppData" / "Local"))
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Caches"
    else:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return base / "sasnet"


def fetch_shape(name: str) -> Path:
    """The ``.ply`` of a remote shape in the cache, downloaded and unpacked if it is not there yet.

    An archive that the user put into the cache by hand is used as it is.

    Raises:
        ShapeError: the download or the archive failed; the sentence says what to put where.
    """
    shape = REMOTE[name]
    folder = cache_dir()
    mesh_path = folder / f"{name}.ply"
    if mesh_path.exists():
        return mesh_path
    folder.mkdir(parents=True, exist_ok=True)
    lock = folder / f"{name}.lock"
    with FileLock(lock):  # another process may be fetching it
        try:
            return mesh_path if mesh_path.exists() else _fetch(name, shape, folder, mesh_path)
        finally:
            with contextlib.suppress(OSError):  # Windows removes no file that is open
                lock.unlink()


def _fetch(name: str, shape: RemoteShape, folder: Path, mesh_path: Path) -> Path:
    url = os.environ.get("SASNET_STANFORD_URL", STANFORD_URL).rstrip("/") + shape.url_path
    archive = folder / Path(shape.url_path).name
    if not archive.exists():
        try:
            download(url, archive, f"{name} ({shape.megabytes} MB)")
        except (DownloadError, OSError) as error:
            raise ShapeError(
                f"Could not fetch '{name}': {error}; download {url} on another machine and put the file as it is into "
                f"{folder} (environment variable SASNET_CACHE moves that folder)."
            ) from error
    try:
        _unpack(archive, shape.member, mesh_path)
    except (OSError, EOFError, KeyError, tarfile.TarError, zlib.error) as error:
        archive.unlink(missing_ok=True)
        raise ShapeError(f"The archive of '{name}' was damaged and has been removed; run the command again.") from error
    archive.unlink()
    return mesh_path


def _unpack(archive: Path, member: str, target: Path) -> None:
    """Write one file of a .tar.gz, or the content of a .gz (``member`` empty)."""
    with gzip.open(archive, "rb") as stream:
        if not member:
            write_atomically(target, partial(_copy, stream, stream))
            return
        with tarfile.open(fileobj=stream, mode="r|") as tar:
            entry = next((entry for entry in tar if entry.name.removeprefix("./") == member), None)
            source = None if entry is None else tar.extractfile(entry)
            if source is None:
                raise KeyError(member)
            write_atomically(target, partial(_copy, source, stream))


def _copy(source: IO[bytes] | gzip.GzipFile, stream: gzip.GzipFile, path: Path) -> None:
    with open(path, "wb") as out:
        shutil.copyfileobj(source, out, 1 << 20)
    while stream.read(1 << 20):  # its checksum stands at the end
        pass
