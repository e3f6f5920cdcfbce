# ruff: noqa: E501
"""Every loader against mutated files: only our own errors leave it, and what loads is finite and in range.

``pytest -m slow tests/sdf_tools/io/test_fuzz_loaders.py`` tries 100,000 mutants.
"""

from __future__ import annotations

import functools
import io
import os
import struct
import subprocess
import sys
import time
import warnings
import zipfile
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from mutation import examples, mutate

from sdf_tools.errors import MissingLibraryError, ShapeError
from sdf_tools.geometry import Mesh, PointCloud, Shape, normalize
from sdf_tools.io import scans
from sdf_tools.io.loading import load, validate_for_fitting
from sdf_tools.io.writing import save_mesh, save_points
from sdf_tools.mesh.summary import summarize

hypothesis = pytest.importorskip("hypothesis")
st = hypothesis.strategies


def ball() -> Mesh:
    import trimesh

    sphere = trimesh.creation.icosphere(1)
    vertices = torch.from_numpy(sphere.vertices.copy())
    return Mesh(vertices, torch.from_numpy(sphere.faces.astype("int64")), vertices, vertices.abs())


@functools.cache
def seeds(suffix: str) -> list[bytes]:
    """A few small good files of each format."""
    import tempfile

    rng = np.random.default_rng(0)
    points = rng.normal(size=(64, 3))
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    torch_points = torch.from_numpy(points)
    found: list[bytes] = []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"s{suffix}"
        if suffix in (".ply", ".obj", ".stl", ".off", ".glb"):
            for mesh in (ball(), Mesh(ball().vertices + 1e6, ball().faces)):
                save_mesh(mesh, path)
                found.append(path.read_bytes())
        if suffix in (".ply", ".xyz", ".npy", ".npz"):
            for cloud in (PointCloud(torch_points), PointCloud(torch_points, torch_points, colors=torch_points.abs())):
                save_points(cloud, path)
                found.append(path.read_bytes())
    rows = [" ".join(f"{v:.5f}" for v in p) for p in points]
    if suffix == ".ply":
        head = "ply\nformat ascii 1.0\nelement vertex 64\nproperty float x\nproperty float y\nproperty float z\n"
        faces = "element face 3\nproperty list uchar int vertex_indices\nend_header\n"
        found.append((head + faces + "\n".join([*rows, "4 0 1 2 3", "3 4 5 6", "5 1 2 9 8 7"]) + "\n").encode())
        strips = (
            head.replace("ascii", "binary_big_endian") + "element tristrips 1\nproperty list int int vertex_indices\n"
        )
        body = points.astype(">f4").tobytes() + struct.pack(">8i", 7, 0, 1, 2, -1, 3, 4, 5)
        found.append((strips + "end_header\n").encode() + body)
    if suffix == ".obj":
        found.append(b"o a\n" + "".join(f"v {r}\n" for r in rows).encode() + b"vt 0 0\nvn 0 0 1\n"
                     b"f 1/1/1 2/1/1 3/1/1 4/1/1 5/1/1\nf 1//1 2//1 4//1\nf -1 -2 -3\nf 1/1 2/1 3/1\n")  # fmt: skip
    if suffix == ".off":
        found.append(
            ("COFF\n64 2 0\n" + "\n".join(r + " 255 0 0 255" for r in rows) + "\n5 0 1 2 3 4\n3 7 8 9\n").encode()
        )
    if suffix == ".stl":
        found.append(b"solid a\nfacet normal 0 0 1\nouter loop\nvertex 0 0 0\nvertex 1 0 0\nvertex 0 1 0\nendloop\nendfacet\n"
                     b"endsolid a\n")  # fmt: skip
    if suffix == ".xyz":
        found.append(("// X;Y;Z;R;G;B\n64\n" + "\n".join(r.replace(" ", ";") + ";255;0;9" for r in rows)).encode())
        found.append("\n".join(r.replace(".", ",") for r in rows).encode())
    if suffix == ".pcd":
        for form, count in (("ascii", 1), ("binary", 1), ("binary_compressed", 1), ("binary", 2)):
            head = f"# c\nVERSION .7\nFIELDS x y z rgb\nSIZE 4 4 4 4\nTYPE F F F U\nCOUNT 1 1 1 {count}\nWIDTH 32\nHEIGHT 2\n"
            head += f"POINTS 64\nDATA {form}\n"
            table = np.hstack([points.astype("<f4").view("<u4"), np.arange(64 * count, dtype="<u4").reshape(64, count)])
            body = table.tobytes()
            if form == "ascii":
                body = "\n".join(f"{r} {i}" for i, r in enumerate(rows)).encode()
            elif form == "binary_compressed":
                flat = table.T.tobytes()
                packed = b"".join(
                    bytes([len(flat[i : i + 32]) - 1]) + flat[i : i + 32] for i in range(0, len(flat), 32)
                )
                body = struct.pack("<II", len(packed), len(flat)) + packed
            found.append(head.encode() + body)
    if suffix in (".las", ".laz"):
        laspy = pytest.importorskip("laspy")
        for form, version in ((3, "1.2"), (0, "1.1"), (7, "1.4")):
            header = laspy.LasHeader(point_format=form, version=version)
            header.scales, header.offsets = [1e-3] * 3, [0.5, -3.0, 1e5]
            if form == 7:
                header.add_extra_dim(laspy.ExtraBytesParams("nx", "f8"))
            cloud = laspy.LasData(header)
            cloud.x, cloud.y, cloud.z = (points + header.offsets).T
            if form:
                cloud.red = np.arange(64)
            buffer = io.BytesIO()
            cloud.write(buffer, do_compress=suffix == ".laz")
            found.append(buffer.getvalue())
    return found


@st.composite
def mutants(draw: Any, suffix: str) -> bytes:
    """A good file with one to six things done to it."""
    data = bytearray(draw(st.sampled_from(seeds(suffix))))
    if suffix == ".npz" and draw(st.booleans()):  # inside of the archive, with right checksums
        with zipfile.ZipFile(io.BytesIO(bytes(data))) as file:
            members = {name: bytearray(file.read(name)) for name in file.namelist()}
        name = draw(st.sampled_from(sorted(members)))
        mutate(draw, members[name])
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", draw(st.sampled_from([0, 8]))) as file:
            for key, content in members.items():
                file.writestr(key, bytes(content))
        return buffer.getvalue()
    if suffix == ".glb" and draw(st.booleans()):  # inside of the tree, with right lengths
        length = struct.unpack_from("<I", data, 12)[0]
        tree = data[20 : 20 + length]
        mutate(draw, tree)
        tree += b" " * (-len(tree) % 4)
        rest = data[20 + length :]
        return bytes(data[:8] + struct.pack("<II", 20 + len(tree) + len(rest), len(tree)) + b"JSON" + tree + rest)
    mutate(draw, data)
    return bytes(data)


SERVER = """
import os, runpy, sys
import laspy, numpy
main = runpy.run_path(sys.argv[1])["main"]
for line in sys.stdin:
    *given, said = line.rstrip("\\n").split("\\t")
    process = os.fork()
    if process == 0:
        sys.argv[1:] = given
        os.dup2(os.open(said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 2)
        try:
            main()
        except SystemExit as stop:
            sys.stderr.flush()
            os._exit(stop.code)
        os._exit(0)
    print(os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]), flush=True)
"""
"""Does what ``_scan_child.py`` does as a script, forked from a process that has its imports behind it."""


@pytest.fixture
def forked_children(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """Native readers run in children as ever, which are forked: to start Python anew takes a hundred times as long."""
    server: Any = None
    said = tmp_path / "said"

    def run(command: list[str], **options: Any) -> subprocess.CompletedProcess[str]:
        nonlocal server
        script, *given = command[3:]
        if server is None:
            server = subprocess.Popen(
                [sys.executable, "-c", SERVER, script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
            )
        server.stdin.write("\t".join([*given, str(said)]) + "\n")
        server.stdin.flush()
        code = int(server.stdout.readline())
        return subprocess.CompletedProcess(command, code, "", said.read_text(errors="replace"))

    monkeypatch.setattr(scans, "subprocess", SimpleNamespace(run=run, DEVNULL=subprocess.DEVNULL))
    yield
    if server is not None:
        server.stdin.close()
        server.wait()


def check(shape: Shape) -> None:
    points = shape.vertices if isinstance(shape, Mesh) else shape.points
    assert points.ndim == 2 and points.shape[1] == 3 and points.dtype == torch.float64 and len(points) > 0
    assert torch.isfinite(points).all() and float(points.abs().max()) <= 1e30
    if isinstance(shape, Mesh):
        assert shape.faces.dtype == torch.int64 and shape.faces.ndim == 2 and shape.faces.shape[1] == 3
        assert int(shape.faces.min()) >= 0 and int(shape.faces.max()) < len(points)
        more = [shape.vertex_normals, shape.vertex_colors]
    else:
        more = [shape.normals, shape.colors]
        assert shape.scan_ids is None or shape.scan_ids.shape == (len(points),)
    normals, colors = more
    assert normals is None or (normals.shape == points.shape and bool(torch.isfinite(normals).all()))
    assert colors is None or (colors.shape == points.shape and float(colors.min()) >= 0 and float(colors.max()) <= 1)
    str(summarize(shape))
    try:
        validate_for_fitting(shape)
        frame = normalize(shape)
    except ShapeError as error:
        assert "\n" not in str(error)
        return
    inner = frame.shape.vertices if isinstance(frame.shape, Mesh) else frame.shape.points
    slack = 1e-9 + 3e-16 * float(points.abs().max()) * frame.scale  # what float64 resolves that far from the origin
    assert torch.isfinite(inner).all() and float(inner.abs().max()) <= 0.45 + slack and frame.scale > 0


def run(suffix: str, count: int, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SDF_TOOLS_MAX_MEMORY", "256M")
    path = folder / f"mutant{suffix}"

    @examples(count)
    @hypothesis.given(mutants(suffix))
    def attack(data: bytes) -> None:
        path.write_bytes(data)
        start = time.process_time()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                shape = load(path)
            except (ShapeError, MissingLibraryError) as error:
                assert "\n" not in str(error) and len(str(error)) < 500
                assert "unforeseen" not in str(error), error.__cause__
            else:
                check(shape)
        assert time.process_time() - start < 30

    attack()


SUFFIXES = [".ply", ".obj", ".stl", ".off", ".glb", ".npz", ".npy", ".xyz", ".pcd", ".las", ".laz"]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_seeds_are_good_files(tmp_path: Path, suffix: str) -> None:
    for data in seeds(suffix):
        (tmp_path / f"seed{suffix}").write_bytes(data)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            check(load(tmp_path / f"seed{suffix}"))


@pytest.mark.usefixtures("forked_children")
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_few_mutants(tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    run(suffix, 60, tmp_path, monkeypatch)


@pytest.mark.slow
@pytest.mark.usefixtures("forked_children")
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_hundred_thousand_mutants(tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    run(suffix, int(os.environ.get("SDF_TOOLS_MUTANTS", 9_100)), tmp_path, monkeypatch)
