"""The Ray cluster of a command: on loopback alone, gone afterwards, and refused where it is too small."""

from __future__ import annotations

import psutil
import pytest
import ray
from ray._private import ray_constants

from pipelines.ray_cluster.session import Demand, ray_session
from x2i_platform.errors import ClusterError


def test_a_cluster_started_here_listens_on_loopback_alone_and_ends_with_the_block(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # As in a user's process: the cluster that tests share needs this off, and sets it for all of them.
    monkeypatch.delenv(ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR, raising=False)
    monkeypatch.setattr(ray_constants, "ENABLE_RAY_CLUSTER", True)
    with ray_session(None, demand=Demand(cpus=1)):
        own = {process.pid for process in psutil.Process().children(recursive=True)} | {psutil.Process().pid}
        listening = [c for c in psutil.net_connections("tcp") if c.status == psutil.CONN_LISTEN and c.pid in own]
        assert len(listening) > 3
        assert all(connection.laddr and connection.laddr.ip.endswith("127.0.0.1") for connection in listening)
    assert not ray.is_initialized()


def test_a_cluster_started_here_has_room_for_more_stages_than_cores() -> None:
    with ray_session(None, demand=Demand(cpus=9.5)):
        assert ray.cluster_resources()["CPU"] >= 9.5


def test_a_cluster_too_small_for_the_plan_is_refused(ray_cluster: str) -> None:
    refusal = pytest.raises(ClusterError, match="needs 500 CPUs and 2 GPUs at once, the Ray cluster has 6 and 0")
    with refusal, ray_session(ray_cluster, demand=Demand(cpus=500, gpus=2)):
        pytest.fail("work started")
    assert not ray.is_initialized()


def test_waiting_for_nodes_ends(ray_cluster: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("X2I_WAIT_FOR_NODES_S", "1")
    with (
        pytest.raises(ClusterError, match="add nodes"),
        ray_session(ray_cluster, demand=Demand(cpus=500)),
    ):
        pytest.fail("work started")


def test_an_address_nobody_answers_at_is_named() -> None:
    with (
        pytest.raises(ClusterError, match=r"127\.0\.0\.1:9"),
        ray_session("127.0.0.1:9", demand=Demand(cpus=1)),
    ):
        pytest.fail("connected")
