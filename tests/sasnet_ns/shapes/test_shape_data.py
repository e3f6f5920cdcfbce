"""Shapes by name: the bundled mesh, and the downloads against a web server on this machine."""

from __future__ import annotations

import gzip
import http.server
import io
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from sasnet_ns.shapes import named as shapes
from sasnet_ns.shapes.download import DownloadError, download
from sasnet_ns.shapes.packing import pack_mesh, unpack_mesh
from sdf_tools.errors import ShapeError
from sdf_tools.geometry import Mesh

TETRAHEDRON_PLY = b"""ply
format ascii 1.0
element vertex 4
property float x
property float y
property float z
element face 4
property list uchar int vertex_indices
end_header
0 0 0
2 0 0
0 2 0
0 0 2
3 0 2 1
3 0 1 3
3 0 3 2
3 1 2 3
"""


def test_armadillo_is_bundled_and_watertight() -> None:
    mesh = shapes.resolve_shape("armadillo")
    assert isinstance(mesh, Mesh)
    assert mesh.vertices.shape == (49_990, 3)
    assert mesh.faces.shape == (99_976, 3)
    # Watertight and consistently oriented: every directed edge once, and its reverse once.
    edges = torch.cat([mesh.faces[:, [0, 1]], mesh.faces[:, [1, 2]], mesh.faces[:, [2, 0]]])
    keys = edges[:, 0] * 49_990 + edges[:, 1]
    reverse = edges[:, 1] * 49_990 + edges[:, 0]
    assert keys.unique().numel() == keys.numel()
    assert torch.equal(keys.sort().values, reverse.sort().values)
    corners = mesh.vertices[mesh.faces]
    volume = torch.linalg.det(corners).sum() / 6
    assert volume == pytest.approx(237_926.4, rel=1e-6)  # positive: outward faces


def test_names_are_forgiving_and_come_before_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert shapes.canonical_name("Thai-Statue") == "thai_statue"
    assert shapes.canonical_name(Path("armadillo")) == "armadillo"
    assert shapes.canonical_name("armadillo.obj") is None
    monkeypatch.chdir(tmp_path)
    (tmp_path / "armadillo").write_text("not a mesh")
    assert isinstance(shapes.resolve_shape("armadillo"), Mesh)


def test_packing_rounds_within_the_stated_bound_and_keeps_orientation(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    vertices = torch.rand(500, 3, generator=generator, dtype=torch.float64) * torch.tensor([9.0, 1.0, 3.0]) + 100
    faces = torch.stack([torch.randperm(500, generator=generator)[:3] for _ in range(800)])
    path = tmp_path / "random.mesh.xz"
    pack_mesh(Mesh(vertices, faces), path, bits=20)
    back = unpack_mesh(path)
    step = float((vertices.amax(0) - vertices.amin(0)).max()) / (2**20 - 1)
    nearest = torch.cdist(vertices, back.vertices).argmin(1)
    assert (vertices - back.vertices[nearest]).abs().max() <= step / 2 * 1.001

    def oriented(corners: np.ndarray) -> set[tuple[int, ...]]:
        start = corners.argmin(1)
        return {tuple(np.roll(row, -first)) for row, first in zip(corners, start, strict=True)}

    assert oriented(nearest[faces].numpy()) == oriented(back.faces.numpy())
    assert not list(tmp_path.glob(".partial-*"))


def test_a_damaged_pack_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "bad.mesh.xz").write_bytes(b"nothing")
    with pytest.raises(ShapeError, match="damaged"):
        unpack_mesh(tmp_path / "bad.mesh.xz")


class _Server(http.server.ThreadingHTTPServer):
    """Serves bytes by path, with Range; ``break_after`` closes the first connection early."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.ranges: list[str | None] = []
        self.break_after: int | None = None
        self.honour_range = True
        super().__init__(("127.0.0.1", 0), _Handler)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class _Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        server = self.server
        assert isinstance(server, _Server)
        wanted = self.headers.get("Range")
        server.ranges.append(wanted)
        body = server.files.get(self.path)
        if body is None:
            self.send_error(404)
            return
        start = int(wanted.removeprefix("bytes=").removesuffix("-")) if wanted and server.honour_range else 0
        if start >= len(body):
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(body)}")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(body) - start))
        self.end_headers()
        cut = server.break_after
        server.break_after = None
        self.wfile.write(body[start:] if cut is None else body[start : start + cut])

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[_Server]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("SASNET_CACHE", str(tmp_path / "cache"))
    with _Server() as running:
        monkeypatch.setenv("SASNET_STANFORD_URL", running.url)
        thread = threading.Thread(target=running.serve_forever, daemon=True)
        thread.start()
        yield running
        running.shutdown()


def _tar(member: str, content: bytes) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        info = tarfile.TarInfo(member)
        info.size = len(content)
        tar.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def test_download_resumes_where_it_broke_off(server: _Server, tmp_path: Path) -> None:
    body = np.random.default_rng(0).bytes(300_000)
    server.files["/file"] = body
    server.break_after = 120_000
    target = tmp_path / "file"
    with pytest.raises(DownloadError):
        download(server.url + "/file", target)
    assert not target.exists()
    arrived = (tmp_path / "file.part").stat().st_size
    assert 0 < arrived <= 120_000
    download(server.url + "/file", target)
    assert server.ranges == [None, f"bytes={arrived}-"]
    assert target.read_bytes() == body
    assert not (tmp_path / "file.part").exists()


def test_download_starts_over_if_the_server_knows_no_range(server: _Server, tmp_path: Path) -> None:
    server.files["/file"] = b"0123456789"
    server.honour_range = False
    (tmp_path / "file.part").write_bytes(b"0123")
    assert download(server.url + "/file", tmp_path / "file").read_bytes() == b"0123456789"


def test_a_complete_part_is_finished_without_a_second_transfer(server: _Server, tmp_path: Path) -> None:
    server.files["/file"] = b"0123456789"
    (tmp_path / "file.part").write_bytes(b"0123456789")
    assert download(server.url + "/file", tmp_path / "file").read_bytes() == b"0123456789"


def test_a_tar_archive_becomes_a_mesh_in_the_cache_once(server: _Server) -> None:
    remote = shapes.REMOTE["bunny"]
    server.files[remote.url_path] = _tar(remote.member, TETRAHEDRON_PLY)
    path = shapes.fetch_shape("bunny")
    assert path == shapes.cache_dir() / "bunny.ply"
    assert path.read_bytes() == TETRAHEDRON_PLY
    assert shapes.fetch_shape("bunny") == path
    assert len(server.ranges) == 1
    assert [entry.name for entry in shapes.cache_dir().iterdir()] == ["bunny.ply"]


def test_a_gzipped_ply_loads_by_name(server: _Server) -> None:
    server.files[shapes.REMOTE["thai_statue"].url_path] = gzip.compress(TETRAHEDRON_PLY)
    mesh = shapes.resolve_shape("thai-statue")
    assert isinstance(mesh, Mesh)
    assert mesh.vertices.shape == (4, 3)
    assert mesh.name == "thai_statue"


def test_offline_says_what_to_put_where_and_takes_it(server: _Server) -> None:
    remote = shapes.REMOTE["dragon"]
    with pytest.raises(ShapeError) as caught:  # the server has no such file
        shapes.resolve_shape("dragon")
    message = str(caught.value)
    assert remote.url_path in message and str(shapes.cache_dir()) in message and "404" in message
    assert "\n" not in message
    shapes.cache_dir().mkdir(parents=True, exist_ok=True)
    (shapes.cache_dir() / "dragon_recon.tar.gz").write_bytes(_tar(remote.member, TETRAHEDRON_PLY))
    assert shapes.fetch_shape("dragon").read_bytes() == TETRAHEDRON_PLY


def test_no_server_at_all(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setenv("SASNET_CACHE", str(tmp_path))
    monkeypatch.setenv("SASNET_STANFORD_URL", "http://127.0.0.1:9")
    with pytest.raises(ShapeError, match="no connection"):
        shapes.resolve_shape("lucy")


def test_a_damaged_archive_is_removed(server: _Server) -> None:
    server.files[shapes.REMOTE["bunny"].url_path] = b"not an archive"
    with pytest.raises(ShapeError, match="damaged"):
        shapes.fetch_shape("bunny")
    assert not list(shapes.cache_dir().iterdir())


def test_neither_name_nor_file(tmp_path: Path) -> None:
    with pytest.raises(ShapeError, match=r"'nope' is neither a file nor the name of a shape.*armadillo"):
        shapes.resolve_shape("nope")
    with pytest.raises(ShapeError, match="is a folder"):
        shapes.resolve_shape(tmp_path)


def test_a_flipped_bit_is_not_taken_for_a_shape(server: _Server) -> None:
    remote = shapes.REMOTE["bunny"]
    whole = bytearray(_tar(remote.member, TETRAHEDRON_PLY))
    unpacked = 0
    for place in range(12, len(whole) - 8, 7):
        damaged = bytearray(whole)
        damaged[place] ^= 4
        server.files[remote.url_path] = bytes(damaged)
        try:
            path = shapes.fetch_shape("bunny")
        except ShapeError as error:
            assert "damaged and has been removed" in str(error)
        else:  # a bit that no checksum covers and nothing depends on
            unpacked += 1
            assert path.read_bytes() == TETRAHEDRON_PLY
            path.unlink()
        assert not list(shapes.cache_dir().iterdir())
    assert unpacked < 3


def test_two_processes_fetch_a_shape_once(server: _Server) -> None:
    from concurrent.futures import ThreadPoolExecutor

    server.files[shapes.REMOTE["thai_statue"].url_path] = gzip.compress(TETRAHEDRON_PLY)
    with ThreadPoolExecutor(4) as threads:  # the lock is by the file, among threads too
        paths = list(threads.map(lambda _: shapes.fetch_shape("thai_statue"), range(4)))
    assert len(set(paths)) == 1 and paths[0].read_bytes() == TETRAHEDRON_PLY and len(server.ranges) == 1
