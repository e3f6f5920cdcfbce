"""Two nodes of a Ray cluster on this machine, one of which is lost midway."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from dataset_stubs import StubOptions, stub_fit
from test_fields import small_options

from sasnet_ns.datasets import Limits, Result, fit_shapes, latest_rows, write_synthetic
from sasnet_ns.datasets.one import fit_together
from sasnet_ns.datasets.ray_cluster import ray_engine

pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parents[3]


class TwoNodes:
    """A cluster whose second node can be taken away."""

    def __init__(self, cluster: Any) -> None:
        self.address = cluster.address
        self._cluster, self._second = cluster, cluster.add_node(num_cpus=1)
        self.lost = 0

    def lose_one(self) -> None:
        """End the second node and what runs on it at once."""
        self._cluster.remove_node(self._second, allow_graceful=False)
        self.lost += 1


@pytest.fixture
def nodes(monkeypatch: pytest.MonkeyPatch) -> Iterator[TwoNodes]:
    monkeypatch.setenv("RAY_raylet_start_wait_time_s", "120")  # a busy machine
    monkeypatch.setenv("RAY_worker_niceness", "0")  # 15 is Ray's own: beside busy programs, a 28th of their time
    monkeypatch.setenv("RAY_enable_metrics_collection", "0")
    ray = pytest.importorskip("ray", reason="Ray is not installed: pip install 'sasnet-ns[ray]'")
    from ray.cluster_utils import Cluster

    # Nodes are processes that import this package and the stub by name.
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), str(Path(__file__).parent)]))
    head = {"num_cpus": 1, "include_dashboard": False, "object_store_memory": 100 << 20}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    try:
        found = TwoNodes(cluster)
        ray.init(address=cluster.address, log_to_driver=False)
        yield found
    finally:
        ray.shutdown()
        cluster.shutdown()


def fit_and_lose_a_node(source: Path, options: Any, nodes: TwoNodes, after: int, **engine: Any) -> Result:
    def report(counts, row) -> None:  # type: ignore[no-untyped-def]
        if counts.done >= after and not nodes.lost:
            nodes.lose_one()

    return fit_shapes(source, options, engine=ray_engine(nodes.address, Limits(300.0), **engine), report=report)


def test_a_lost_node_loses_nothing(tmp_path: Path, nodes: TwoNodes) -> None:
    names = [f"shape{index:02d}.ply" for index in range(24)]
    source, output = tmp_path / "in", tmp_path / "out"
    source.mkdir()
    for name in names:
        (source / name).write_text(name)
    result = fit_and_lose_a_node(source, StubOptions(output=output, pause=0.3), nodes, 6, fit=stub_fit)
    assert nodes.lost == 1
    rows = list(latest_rows(output))
    assert [row.path for row in rows] == names and {row.status for row in rows} == {"fitted"}
    assert result.counts.fresh == 24 == len((output / "rows.jsonl").read_text().splitlines())
    assert len(list((output / "fields").iterdir())) == 24


def test_fields_trained_together_survive_it_bit_for_bit(tmp_path: Path, nodes: TwoNodes) -> None:
    pytest.importorskip("numba")
    source = tmp_path / "in"
    write_synthetic(source, 10, resolution=24)
    # By themselves first: this also compiles the kernels, which workers of a fresh clone would do twice at once.
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    shapes = [(path, path.name) for path in sorted(source.iterdir())]
    here = small_options(tmp_path / "here", 40, resolution=0)
    alone = {row.path: row.field_hash for row in fit_together(shapes, here)}
    torch.set_num_threads(before)
    options = small_options(tmp_path / "out", 40, resolution=0)
    result = fit_and_lose_a_node(source, options, nodes, 2, batch=2)
    assert nodes.lost == 1 and result.counts.fresh == 10
    rows = list(latest_rows(tmp_path / "out"))
    assert {row.status for row in rows} == {"fitted"} and len(rows) == 10
    assert {row.path: row.field_hash for row in rows} == alone
