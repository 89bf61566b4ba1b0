"""A Ray cluster of containers on separate hosts, and jobs submitted from another host."""

from __future__ import annotations

import json
import os
import re
import secrets
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from ray.dashboard.modules.metrics.dashboards import default_dashboard_panels

from tests.containers.conftest import ROOT, USER, Container, Host

pytestmark = pytest.mark.cluster

METRICS = 8080
# Metrics of a training that runs; tests/training/test_callbacks.py reads them.
OF_TRAINING = {"ray_adar_epoch", "ray_adar_loss", "ray_adar_valid", "ray_adar_interactions_per_second"}
# Metrics that appear with a GPU or with their first event.
LATER = {
    "ray_actors",
    "ray_tasks",
    "ray_node_gpus_utilization",
    "ray_node_gram_used",
    "ray_memory_manager_worker_eviction_total",
}


@dataclass(frozen=True)
class Cluster:
    head: Container
    workers: list[Container]
    client: Container
    stranger: Container
    """On the client's host, without the token."""

    @property
    def address(self) -> str:
        return f"http://{self.head.host.address}:8265"

    def ask(self, path: str, timeout: float = 60) -> Any:
        """Ask the dashboard from the client."""
        bearer = '--header="Authorization: Bearer $(cat /run/secrets/ray_token)"'
        command = f"wget --quiet --tries=1 -O- {bearer} '{self.address}{path}'"
        return json.loads(self.client.run("bash", "-c", command, timeout=timeout).stdout)

    def nodes(self) -> list[dict[str, Any]]:
        return self.ask("/api/v0/nodes")["data"]["result"]["result"]


def wait_for(what: str, is_there: Callable[[], bool], seconds: float = 180) -> None:
    deadline = time.monotonic() + seconds
    while not is_there():
        assert time.monotonic() < deadline, f"{what} was not there within {seconds:g} s"
        time.sleep(1)


@pytest.fixture(scope="module")
def cluster(
    container: Callable[..., Container], hosts: list[Host], tmp_path_factory: pytest.TempPathFactory
) -> Cluster:
    """A head that runs no work, two workers with three CPUs each, and a client on another host."""
    work = tmp_path_factory.mktemp("cluster")
    token = work / "ray_token"
    token.write_text(secrets.token_hex(32), encoding="utf-8")
    token.chmod(0o644)
    data = work / "data"
    data.mkdir()
    for folder in (data, *data.parents[:3]):
        folder.chmod(0o755)
    os.chown(data, USER, USER)
    member = {
        "volumes": {token: "/run/secrets/ray_token", data: "/data"},
        "environment": {"RAY_AUTH_TOKEN_PATH": "/run/secrets/ray_token"},
    }
    head, *workers, client = (container(host=host, **member) for host in hosts)
    made = Cluster(head, workers, client, container(host=client.host))
    start = ["ray", "start", "--block", "--object-store-memory=200000000", f"--metrics-export-port={METRICS}"]
    own = f"--node-ip-address={head.host.address}"
    head.start(work / "head.log", *start, own, "--head", "--num-cpus=0", "--dashboard-host=0.0.0.0")
    probe = ["wget", "--quiet", "--tries=1", "-O-", f"{made.address}/api/gcs_healthz"]
    wait_for("the head", lambda: subprocess.run(client.command(*probe), capture_output=True).returncode == 0)
    for n, worker in enumerate(workers):
        own = f"--node-ip-address={worker.host.address}"
        join = f"--address={head.host.address}:6379"
        worker.start(work / f"worker{n}.log", *start, own, join, "--num-cpus=3")
        # One by one, because Ray gives a node 30 s to start.
        wait_for(f"worker {n}", lambda n=n: sum(node["state"] == "ALIVE" for node in made.nodes()) == n + 2)
    return made


def test_a_job_from_another_host_runs_on_both_workers(cluster: Cluster) -> None:
    sizes = "--users 300 --items 400 --interactions 6000"
    cluster.client.run("adar-ray", *f"data synthetic {sizes} --out /data/datasets/ratings".split())
    # Two of the three CPUs of a node, so that each node holds one worker.
    settings = ["storage=/data", "workers.cpus=2", "train.epochs=2"]
    submit = ["adar-ray", "job", "submit", "jobs/train.yaml", "--address", cluster.address]
    submit += ["--name", "first", "--wait"]
    cluster.client.run(*submit, *(word for setting in settings for word in ("--set", setting)))
    result = json.loads(cluster.client.run("cat", "/data/runs/first/result.json").stdout)
    assert result["epochs"] == 2

    where = {node["node_id"]: node["node_ip"] for node in cluster.nodes()}
    actors = cluster.ask("/api/v0/actors?detail=1")["data"]["result"]["result"]
    trained_on = [where[actor["node_id"]] for actor in actors if actor["class_name"] == "RayTrainWorker"]
    assert sorted(trained_on) == sorted(worker.host.address for worker in cluster.workers)


def test_requests_without_the_token_are_rejected(cluster: Cluster) -> None:
    submit = ["ray", "job", "submit", "--address", cluster.address, "--", "true"]
    assert "AuthenticationError" in cluster.stranger.fails(*submit)
    post = ["--post-data={}", "--header=Content-Type: application/json"]
    for path, more in (("/api/jobs/", post), ("/api/jobs/", []), ("/api/version", []), ("/metrics", [])):
        command = ["wget", "--server-response", "--tries=1", "-O-", *more, f"{cluster.address}{path}"]
        assert "401 Unauthorized" in cluster.stranger.fails(*command)
    forged = "0" * 64
    post = ["--server-response", "--tries=1", "--post-data={}", f"--header=Authorization: Bearer {forged}"]
    assert "403 Forbidden" in cluster.stranger.fails("wget", *post, f"{cluster.address}/api/jobs/")
    own = f"--node-ip-address={cluster.client.host.address}"
    join = ["ray", "start", own, f"--address={cluster.head.host.address}:6379"]
    assert "AuthenticationError" in cluster.stranger.fails("env", f"RAY_AUTH_TOKEN={forged}", *join)
    assert len(cluster.nodes()) == 3
    assert {job["submission_id"] for job in cluster.ask("/api/jobs/")} == {"first"}


def test_every_node_reports_that_it_is_healthy(cluster: Cluster) -> None:
    for node in (cluster.head, *cluster.workers):
        node.run("healthy")


def test_alerts_and_dashboard_use_existing_metrics(cluster: Cluster) -> None:
    exported: set[str] = set()

    def are_there() -> bool:
        for node in (cluster.head, *cluster.workers):
            page = f"http://{node.host.address}:{METRICS}/metrics"
            # Metrics need no token, which is why there is a network policy.
            text = cluster.stranger.run("wget", "--quiet", "-O-", page).stdout
            exported.update(re.findall(r"^(ray_\w+)", text, re.MULTILINE))
        return names - exported <= LATER | OF_TRAINING

    alerts = yaml.safe_load((ROOT / "docker/monitoring/alerts.yaml").read_text(encoding="utf-8"))
    asked = [rule["expr"] for group in alerts["groups"] for rule in group["rules"]]
    for board in (ROOT / "docker/monitoring/dashboards").glob("*.json"):
        panels = json.loads(board.read_text(encoding="utf-8"))["panels"]
        asked += [target["expr"] for panel in panels for target in panel.get("targets", [])]
    names = {name for expression in asked for name in re.findall(r"\bray_\w+", expression)}
    wait_for("the metrics", are_there)
    known_to_ray = re.findall(r"\bray_\w+", Path(default_dashboard_panels.__file__).read_text())
    assert names & LATER <= set(known_to_ray)
