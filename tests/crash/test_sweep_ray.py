"""A sweep on a real Ray cluster of two nodes on this machine, one of which is killed on the way."""

import importlib.util
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support.sweeping import Deadly, Failing, Products, digest_of_files, environment, flat, sealed_folder

from assay.errors import NumericalError, SubjectError
from assay.sweep import run, verify

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="not installed: ray (pip install 'assay[ray]')"),
]
JOB = Products(count=24, pause=0.25)


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator:
    monkeypatch.setenv("PYTHONPATH", environment()["PYTHONPATH"])
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    import ray
    from ray.cluster_utils import Cluster

    handler = signal.getsignal(signal.SIGTERM)
    options = {"num_cpus": 1, "object_store_memory": 80 * 2**20, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args=options)
    cluster.second = cluster.add_node(num_cpus=1, object_store_memory=80 * 2**20)
    ray.init(address=cluster.address, log_to_driver=False)
    cluster.wait_for_nodes()
    yield cluster
    ray.shutdown()
    cluster.shutdown()
    signal.signal(signal.SIGTERM, handler)  # Ray leaves its own


def test_a_node_dies(cluster, tmp_path: Path):
    import ray

    run(JOB, directory=tmp_path / "expected")

    def kill() -> None:
        while len(list((tmp_path / "run").glob("sweeps/*/outcomes/*/*.safetensors"))) < 6:
            time.sleep(0.05)
        cluster.remove_node(cluster.second, allow_graceful=False)

    assert ray.cluster_resources()["CPU"] == 2
    killer = threading.Thread(target=kill)
    killer.start()
    found = run(JOB, directory=tmp_path / "run", executor="ray")
    killer.join()
    assert flat(found) == flat(run(JOB))
    assert digest_of_files(sealed_folder(tmp_path / "run")) == digest_of_files(sealed_folder(tmp_path / "expected"))
    assert verify(tmp_path / "run").intact
    begun = time.monotonic()  # the head learns of a death by missing heartbeats, which may take longer than the sweep
    while ray.cluster_resources()["CPU"] != 1 and time.monotonic() - begun < 60:
        time.sleep(0.2)
    assert ray.cluster_resources()["CPU"] == 1


def test_errors_and_deaths_on_a_cluster(cluster, tmp_path: Path):
    quick = {"count": 6}
    died = Deadly(**quick, once=str(tmp_path / "died"))
    assert flat(run(died, directory=tmp_path, executor="ray")) == flat(run(Products(**quick)))
    with pytest.raises(NumericalError, match="logits are NaN"):
        run(Failing(**quick), directory=tmp_path, executor="ray")
    with pytest.raises(SubjectError, match="'product 3' ended its worker 3 times"):
        run(Deadly(**quick), directory=tmp_path / "deadly", executor="ray")


def test_a_cluster_of_our_own_is_started_and_ended(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    import ray

    monkeypatch.setenv("PYTHONPATH", environment()["PYTHONPATH"])
    handler = signal.getsignal(signal.SIGTERM)
    found = run(Products(count=4), directory=tmp_path, executor="ray")
    assert flat(found) == flat(run(Products(count=4)))
    assert not ray.is_initialized()
    assert signal.getsignal(signal.SIGTERM) == handler
