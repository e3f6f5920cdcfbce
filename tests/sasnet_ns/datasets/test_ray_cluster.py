"""Two nodes of a Ray cluster on this machine, one of which is lost midway."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from dataset_stubs import StubOptions, stub_fit

from sasnet_ns.datasets import Limits, fit_shapes, latest_rows
from sasnet_ns.datasets.ray_cluster import ray_engine

pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parents[3]


def test_a_lost_node_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_raylet_start_wait_time_s", "120")  # a busy machine
    monkeypatch.setenv("RAY_enable_metrics_collection", "0")
    ray = pytest.importorskip("ray", reason="Ray is not installed: pip install 'sasnet-ns[ray]'")
    from ray.cluster_utils import Cluster

    # Nodes are processes that import this package and the stub by name.
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), str(Path(__file__).parent)]))
    names = [f"shape{index:02d}.ply" for index in range(24)]
    source, output = tmp_path / "in", tmp_path / "out"
    source.mkdir()
    for name in names:
        (source / name).write_text(name)
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    second = cluster.add_node(num_cpus=1)
    lost = []
    try:
        ray.init(address=cluster.address, log_to_driver=False)

        def report(counts, row) -> None:  # type: ignore[no-untyped-def]
            if counts.done == 6:
                cluster.remove_node(second, allow_graceful=False)
                lost.append(counts.done)

        options = StubOptions(output=output, pause=0.3)
        engine = ray_engine(cluster.address, Limits(60.0), fit=stub_fit)  # type: ignore[arg-type]
        result = fit_shapes(source, options, engine=engine, report=report)  # type: ignore[arg-type]
    finally:
        ray.shutdown()
        cluster.shutdown()
    assert lost == [6]
    rows = list(latest_rows(output))
    assert [row.path for row in rows] == names and {row.status for row in rows} == {"fitted"}
    assert result.counts.fresh == 24
    assert len(list((output / "fields").iterdir())) == 24
