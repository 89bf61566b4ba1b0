"""A Ray cluster of containers on hosts of their own, and jobs that are sent to it from another host."""

from __future__ import annotations

import json
import os
import re
import secrets
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import yaml
from conftest import ROOT, USER, Container, Host

pytestmark = pytest.mark.cluster

METRICS = 8080


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
        """What the dashboard answers the client."""
        bearer = '--header="Authorization: Bearer $(cat /run/secrets/ray_token)"'
        command = f"wget --quiet --tries=1 -O- {bearer} '{self.address}{path}'"
        return json.loads(self.client.run("bash", "-c", command, timeout=timeout).stdout)

    def nodes(self) -> list[dict[str, Any]]:
        return self.ask("/api/v0/nodes")["data"]["result"]["result"]


def wait_for(what: str, is_there: Callable[[], bool], seconds: float = 180) -> None:
    deadline = time.monotonic() + seconds
    while not is_there():
        assert time.monotonic() < deadline, f"{what} did not come in {seconds:g} s"
        time.sleep(1)


@pytest.fixture(scope="module")
def cluster(
    container: Callable[..., Container], hosts: list[Host], tmp_path_factory: pytest.TempPathFactory
) -> Cluster:
    """A head that runs no work, two workers with three CPUs each, and a client elsewhere."""
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
    wait_for("the workers", lambda: sum(node["state"] == "ALIVE" for node in made.nodes()) == 3)
    return made


def submit(cluster: Cluster, name: str, *entrypoint: str) -> list[str]:
    return ["ray", "job", "submit", "--address", cluster.address, "--submission-id", name, "--", *entrypoint]


def test_a_job_from_elsewhere_runs_to_the_end_on_both_workers(cluster: Cluster) -> None:
    made_up = "--users 300 --items 400 --interactions 6000"
    cluster.client.run("adar-ray", *f"data synthetic {made_up} --out /data/dataset".split())
    # Two CPUs a worker, of the three that a node has.
    train = (
        "train --data /data/dataset --out /data/run --workers 2 --set train.threads=2 --set train.epochs=2"
    )
    told = cluster.client.run(*submit(cluster, "train-1", "adar-ray", *train.split())).stdout
    assert "succeeded" in told
    result = json.loads(cluster.client.run("cat", "/data/run/result.json").stdout)
    assert result["epochs"] == 2

    where = {node["node_id"]: node["node_ip"] for node in cluster.nodes()}
    actors = cluster.ask("/api/v0/actors?detail=1")["data"]["result"]["result"]
    trained_on = [where[actor["node_id"]] for actor in actors if actor["class_name"] == "RayTrainWorker"]
    assert sorted(trained_on) == sorted(worker.host.address for worker in cluster.workers)


def test_without_the_token_nothing_is_taken(cluster: Cluster) -> None:
    job = submit(cluster, "stranger", "true")
    assert "AuthenticationError" in cluster.stranger.fails(*job)
    wrong = cluster.stranger.command("env", f"RAY_AUTH_TOKEN={'0' * 64}", *submit(cluster, "wrong", "true"))
    refused = subprocess.run(wrong, capture_output=True, text=True, check=False)
    assert refused.returncode != 0
    assert re.search("403|401|nvalid", refused.stdout + refused.stderr)

    post = ["--post-data={}", "--header=Content-Type: application/json"]
    for path, more in (("/api/jobs/", post), ("/api/jobs/", []), ("/api/version", []), ("/metrics", [])):
        command = ["wget", "--server-response", "--tries=1", "-O-", *more, f"{cluster.address}{path}"]
        assert "401 Unauthorized" in cluster.stranger.fails(*command)
    own = f"--node-ip-address={cluster.client.host.address}"
    join = ["ray", "start", own, f"--address={cluster.head.host.address}:6379"]
    assert "AuthenticationError" in cluster.stranger.fails(*join)
    assert {job["submission_id"] for job in cluster.ask("/api/jobs/")} <= {"train-1", None}


def test_every_node_tells_whether_it_is_healthy(cluster: Cluster) -> None:
    for node in (cluster.head, *cluster.workers):
        node.run("healthy")


def test_alerts_and_board_ask_for_metrics_that_there_are(cluster: Cluster) -> None:
    exported = set()
    for node in (cluster.head, *cluster.workers):
        page = f"http://{node.host.address}:{METRICS}/metrics"
        # Whoever reaches this port reads it, token or not: the reason for the network policy.
        text = cluster.stranger.run("wget", "--quiet", "-O-", page).stdout
        exported |= set(re.findall(r"^(ray_\w+)", text, re.MULTILINE))
    alerts = yaml.safe_load((ROOT / "docker/monitoring/alerts.yaml").read_text(encoding="utf-8"))
    asked = [rule["expr"] for group in alerts["groups"] for rule in group["rules"]]
    for board in (ROOT / "docker/monitoring/dashboards").glob("*.json"):
        panels = json.loads(board.read_text(encoding="utf-8"))["panels"]
        asked += [target["expr"] for panel in panels for target in panel.get("targets", [])]
    names = {name for expression in asked for name in re.findall(r"\bray_\w+", expression)}
    of_gpus = {name for name in names if name.startswith(("ray_node_gpu", "ray_node_gram"))}
    assert names
    assert names - of_gpus <= exported
