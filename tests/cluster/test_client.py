"""Jobs on a real head: submitted, followed and stopped as from a laptop, cron or CI."""

from __future__ import annotations

import contextlib
import getpass
import json
import os
import re
import secrets
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import requests
import yaml

from adar_ray.data.dataset import Dataset
from tests.calling import Adar, caller
from tests.training.checkpoints import last_epoch

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
COMMAND = [sys.executable, "-m", "adar_ray.cli.main"]
SECRET = "a-secret-that-jobs-must-not-show"
SMALL = ["model.embedding_dim=8", "adar.pool=16", "train.device=cpu", "train.epochs=2"]
RAY_VARIABLES = (
    "RAY_ADDRESS",
    "RAY_API_SERVER_ADDRESS",
    "RAY_AUTH_TOKEN",
    "RAY_AUTH_TOKEN_PATH",
    "RAY_AUTH_MODE",
)

pytestmark = pytest.mark.cluster


@dataclass(frozen=True)
class Head:
    address: str
    token: str
    s3: Any
    temp: str

    def jobs(self) -> str:
        """Everything that a client that can list jobs sees of them."""
        header = {"Authorization": f"Bearer {self.token}"}
        return requests.get(f"{self.address}/api/jobs/", headers=header, timeout=30).text

    def driver(self) -> Any:
        """The only driver that runs on this head, as psutil's process."""
        import psutil  # found once Ray, which brings it, is imported

        (found,) = [
            process
            for process in psutil.process_iter(["cmdline"])
            if process.info["cmdline"] == ["python", "-m", "adar_ray.cluster.driver"]
            and self.temp in json.dumps(process.environ())
        ]
        return found


def free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


@pytest.fixture(scope="module")
def head() -> Iterator[Head]:
    """A cluster with a token. Only its environment has the address and credentials of the object store."""
    moto_server = pytest.importorskip("moto.server", reason="moto[s3,server] is not installed")
    boto3 = pytest.importorskip("boto3")
    gcs, dashboard, agent, client, metrics, s3_port = free_ports(6)
    server = moto_server.ThreadedMotoServer(ip_address="127.0.0.1", port=s3_port, verbose=False)
    server.start()
    store = {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{s3_port}",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    s3 = boto3.client(
        "s3",
        endpoint_url=store["AWS_ENDPOINT_URL"],
        aws_access_key_id="test",
        aws_secret_access_key=SECRET,
        region_name="us-east-1",
    )
    s3.create_bucket(Bucket="jobs")
    token = secrets.token_hex(32)
    environment = {name: value for name, value in os.environ.items() if name not in RAY_VARIABLES}
    environment |= store | {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": token,
        "PATH": f"{BIN}:{os.environ['PATH']}",
    }
    with tempfile.TemporaryDirectory(prefix="ray-") as temp:  # short, because Ray puts sockets there
        command = ["ray", "start", "--head", "--block", "--num-cpus=2", "--node-ip-address=127.0.0.1"]
        command += [
            f"--port={gcs}",
            f"--dashboard-port={dashboard}",
            f"--dashboard-agent-listen-port={agent}",
        ]
        command += [f"--ray-client-server-port={client}", f"--metrics-export-port={metrics}"]
        command += [
            "--min-worker-port=0",
            "--max-worker-port=0",
            f"--temp-dir={temp}",
            "--disable-usage-stats",
        ]
        command += ["--object-store-memory=200000000"]
        with open(Path(temp, "out"), "w") as out:
            ray = subprocess.Popen(
                command,
                env=environment | {"MARK": temp},
                cwd=temp,
                stdout=out,
                stderr=out,
                start_new_session=True,
            )
        address = f"http://127.0.0.1:{dashboard}"
        try:
            wait_for(lambda: ray.poll() is not None or answers(address))
            assert ray.poll() is None, Path(temp, "out").read_text()
            yield Head(address, token, s3, temp)
        finally:
            import psutil  # found once Ray, which brings it, is imported

            for process in [*psutil.Process(ray.pid).children(recursive=True), ray]:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
            ray.wait()
            server.stop()


def answers(address: str) -> bool:
    with contextlib.suppress(requests.exceptions.RequestException):
        return requests.get(f"{address}/api/version", timeout=5).status_code == 401
    return False


def wait_for(condition: Callable[[], Any], seconds: float = 240) -> Any:
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, "timed out"
        time.sleep(0.2)
    return found


@pytest.fixture
def adar(head: Head, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Adar:
    """Run a command as on a laptop, which has address and token but no access to the object store."""
    for name in (*RAY_VARIABLES, *(name for name in os.environ if name.startswith("AWS_"))):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", head.address)
    monkeypatch.setenv("RAY_AUTH_TOKEN", head.token)
    return caller(capfd)


@pytest.fixture(scope="module")
def store(dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Storage that laptop and cluster share, with a dataset."""
    store = tmp_path_factory.mktemp("store")
    shutil.copytree(dataset.folder.path, store / "data")
    return store


def write(file: Path, store: object, *steps: str, **keys: Any) -> Path:
    file.write_text(yaml.safe_dump({"storage": str(store), "steps": list(steps), "settings": SMALL, **keys}))
    return file


# Whole jobs.


def test_the_nightly_job_on_an_object_store(adar: Adar, head: Head, hand_made: Path, tmp_path: Path) -> None:
    head.s3.upload_file(str(hand_made), "jobs", "adar/sources/ratings.csv")
    job = yaml.safe_load((ROOT / "jobs" / "nightly.yaml").read_text())
    job["steps"][0] = job["steps"][0].replace("--core 5", "")
    file = tmp_path / "nightly.yaml"
    file.write_text(yaml.safe_dump(job))
    more = [word for setting in [*SMALL, "workers.number=0"] for word in ("--set", setting)]
    words = [
        "job",
        "submit",
        file,
        "--name",
        "night",
        "--set",
        "storage=s3://jobs/adar",
        *more,
        "--wait",
        "--json",
    ]
    ended = adar(*words)
    assert ended.status == 0, ended.err
    row = ended.json()
    assert row["owner"] == getpass.getuser()
    assert (row["job"], row["status"], row["attempts"], row["submitted"]) == ("night", "SUCCEEDED", 1, True)
    assert ended.err.count("  loss ") == 1  # over the epochs
    assert " 2/2 " in ended.err
    assert "night is done" in ended.err

    def read(key: str) -> bytes:
        return head.s3.get_object(Bucket="jobs", Key=f"adar/{key}")["Body"].read()

    published = json.loads(read("published/published.json"))
    assert published["run"] == "s3://jobs/adar/nightly/night/run"
    result = json.loads(read("nightly/night/run/result.json"))
    assert (result["epochs"], result["valid"]["ndcg@20"]) == (2, published["new"])
    assert read("published/versions/000001/weights.safetensors")
    assert json.loads(read("nightly/night/run/evaluation/test.json"))["users"] == 3
    assert read("nightly/night/recommendations/00000.parquet")
    assert len(json.loads(read("jobs/night.json"))["done"]) == 5
    assert SECRET not in head.jobs()
    assert SECRET not in ended.err

    again = adar(*words)
    assert again.status == 0
    assert again.json()["submitted"] is False
    assert again.err.startswith("job night already exists (SUCCEEDED); nothing was submitted\n")
    assert "another job has the name night" in adar(*words[:-2], "--set", "adar.beta=0.6").line()
    assert [row["job"] for row in adar("job", "list", "--json").json()].count("night") == 1
    status = adar("job", "status", "night", "--json").json()
    assert (status["exit status"], status["step"], status["epoch"]) == (0, "5 of 5: publish", "2 of 2")
    metric, value = status["metric"].split()
    assert metric == "ndcg@20"
    assert value in adar("job", "logs", "night").out
    assert adar("job", "logs", "-f", "night").status == 0
    assert "did you mean night?" in adar("job", "status", "nihgt").line()


def test_a_failed_job_exits_with_its_own_status(adar: Adar, store: Path, tmp_path: Path) -> None:
    file = write(tmp_path / "fails.yaml", store, "evaluate $storage/nowhere --kk 10", settings=[])
    assert "fails.yaml: evaluate: No such option '--kk'" in adar("job", "submit", file).line()
    labels = {"team": "search", "cost-center": 42}
    owned = {"owner": "ana", "labels": labels, "settings": []}
    file = write(tmp_path / "fails.yaml", store, "evaluate $storage/nowhere", **owned)
    ended = adar("job", "submit", file, "--wait", "--json")
    assert ended.status == 1
    assert json.loads(ended.out)["status"] == "FAILED"
    assert adar("job", "logs", "-f", "fails").status == 1
    assert f"{store}/nowhere: is not a run folder" in ended.err
    listed = adar("job", "list", "--owner", "ana", "--label", "team=search", "--json").json()
    assert [(row["job"], row["owner"]) for row in listed] == [("fails", "ana")]
    assert listed[0]["labels"] == {"team": "search", "cost-center": "42"}
    assert adar("job", "list", "--owner", "ana", "--label", "team=ads", "--json").json() == []
    assert "team=search" in adar("job", "status", "fails").out


def test_a_job_survives_its_follower_resumes_after_its_driver_and_stops(
    adar: Adar, head: Head, store: Path, tmp_path: Path
) -> None:
    (tmp_path / "project").mkdir()
    shutil.copy(ROOT / "examples" / "custom_model.py", tmp_path / "project" / "shipped_model.py")
    train = "train --data $storage/data --out $storage/runs/$name --set model.name=shipped_model:build"
    long = ["train.epochs=50000", "train.patience=100000"]
    file = write(tmp_path / "long.yaml", store, train, workers={"number": 0}, ship="project")
    file.write_text(file.read_text().replace("train.epochs=2", long[0]))
    run = store / "runs" / "long"

    # Ctrl-C while following.
    words = [*COMMAND, "job", "submit", file, "--wait", "--json", "--set", long[1]]
    follower = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    wait_for(lambda: follower.poll() is not None or last_epoch(run))
    time.sleep(2)  # the log is read once a second
    follower.send_signal(signal.SIGINT)
    out, err = follower.communicate(timeout=120)
    assert follower.returncode == 130, err
    assert out == ""
    assert err.splitlines()[-1].startswith(
        "adar-ray: interrupted; job long keeps running: follow it again with"
    )
    assert "epoch " in err
    assert adar("job", "status", "long", "--json").json()["status"] == "RUNNING"
    twice = adar("job", "submit", file, "--set", long[1])
    assert twice.err == "job long already exists (RUNNING); nothing was submitted\n"

    # Kill the driver; its step ends as well.
    driver = head.driver()
    (step,) = driver.children()
    driver.kill()
    step.wait(60)
    row = wait_for(
        lambda: (row := adar("job", "status", "long", "--json").json())["status"] == "FAILED" and row
    )
    assert row["exit status"] == 137
    lines = (store / "runs" / "long" / "metrics.jsonl").read_text().splitlines()

    # Submitting the same name resumes.
    resumed = adar("job", "submit", file, "--set", long[1], "--json")
    assert resumed.json()["attempts"] == 2
    assert resumed.err.startswith("job long resumes: attempt 2\n")
    first = wait_for(lambda: re.search(r"^ *(\d+)/50000 ", adar("job", "logs", "long").out, re.MULTILINE))
    assert f"train --resume {store}/runs/long" in adar("job", "logs", "long").out
    assert len(lines) - 1 <= int(first[1]) <= len(lines) + 1

    stopped = adar("job", "stop", "long", "--json")
    assert stopped.json()["status"] == "STOPPED"
    log = adar("job", "logs", "-f", "long")
    assert "stopped; submit long again to continue" in log.out
    assert log.status == 130
    assert "has already ended (STOPPED)" in adar("job", "stop", "long").err


def test_a_job_that_has_not_started_is_stopped_without_waiting(
    adar: Adar, store: Path, tmp_path: Path
) -> None:
    room = {"entry_point": {"cpus": 100}, "settings": []}  # more than the head has
    file = write(tmp_path / "waits.yaml", store, "evaluate $storage/run", **room)
    follower = subprocess.Popen(
        [*COMMAND, "job", "submit", file, "--wait"], stderr=subprocess.PIPE, text=True
    )
    said = follower.stderr.readline()
    follower.kill()
    assert "waiting for job waits to start" in said
    assert "until the head gives up on it" in said
    began = time.monotonic()
    stopped = adar("job", "stop", "waits", "--json")
    assert time.monotonic() - began < 60
    assert stopped.json()["status"] == "PENDING"
    assert "job waits has not started: it will be stopped as soon as it starts" in stopped.err


# The connection: every failure is one line.


def test_tokens(adar: Adar, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, head: Head) -> None:
    (tmp_path / "token").write_text(f"{head.token}\n")
    monkeypatch.delenv("RAY_AUTH_TOKEN")
    monkeypatch.setenv("HOME", str(tmp_path))  # Ray looks for a token there, and caches it per process
    listed = subprocess.run([*COMMAND, "job", "list"], capture_output=True, text=True, check=False)
    assert listed.returncode == 1
    assert listed.stderr.startswith(f"adar-ray: {head.address}: requires a token; set RAY_AUTH_TOKEN")
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "token"))
    assert adar("job", "list").status == 0
    wrong = secrets.token_hex(32)
    monkeypatch.setenv("RAY_AUTH_TOKEN", wrong)
    line = adar("job", "list").line()
    assert "rejects this token" in line
    assert wrong not in line
    monkeypatch.setenv("RAY_AUTH_TOKEN", f"{wrong}\n{wrong}")
    assert wrong not in adar("job", "list").line()
    monkeypatch.delenv("RAY_AUTH_TOKEN")
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "nowhere"))
    assert "RAY_AUTH_TOKEN_PATH" in adar("job", "list").line()


def test_doctor_finds_the_head(adar: Adar, head: Head, monkeypatch: pytest.MonkeyPatch) -> None:
    found = {row["check"]: row for row in adar("doctor", "--json").json()}
    assert found["dashboard"]["status"] == "ok"
    assert head.address in found["dashboard"]["message"]
    monkeypatch.setenv("RAY_AUTH_TOKEN", "wrong" * 8)
    ended = adar("doctor")
    assert ended.status == 1
    assert f"{head.address}: rejects this token" in ended.out
    assert "wrong" not in ended.out


def test_addresses_without_a_head(adar: Adar) -> None:
    (port,) = free_ports(1)
    line = adar("job", "list", "--address", f"http://127.0.0.1:{port}").line()
    assert f"http://127.0.0.1:{port}: no Ray head answers (connection refused)" in line
    for address in ("head:8265", "ray://head:10001", "http://"):
        assert f"--address {address}" in adar("job", "list", "--address", address).line()


def test_tls(adar: Adar, head: Head, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    if shutil.which("openssl") is None:
        pytest.skip("needs openssl")
    certificate, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=head"]
    command += ["-keyout", key, "-out", certificate, "-addext", "subjectAltName=IP:127.0.0.1"]
    subprocess.run(command, check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    with tls_proxy(head.address, context) as address:
        line = adar("job", "list", "--address", address).line()
        assert "its certificate is not trusted (self-signed certificate)" in line
        assert "REQUESTS_CA_BUNDLE" in line
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificate))
        (job, *_) = adar("job", "list", "--address", address, "--json").json()
        assert (
            adar("job", "logs", "-f", job["job"], "--address", address).out
            == adar("job", "logs", job["job"]).out
        )
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(tmp_path / "nowhere"))
    assert "REQUESTS_CA_BUNDLE" in adar("job", "list").line()
    monkeypatch.delenv("REQUESTS_CA_BUNDLE")
    plain = head.address.replace("http://", "https://")
    assert "does not use TLS" in adar("job", "list", "--address", plain).line()


@contextlib.contextmanager
def tls_proxy(address: str, context: ssl.SSLContext) -> Iterator[str]:
    """A proxy that speaks TLS and forwards to the address, like an ingress."""
    port = int(address.rpartition(":")[2])
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            while True:
                try:
                    plain, _ = listener.accept()
                except OSError:
                    return
                threading.Thread(target=join, args=(plain,), daemon=True).start()

        def join(plain: socket.socket) -> None:
            with (
                contextlib.suppress(OSError),
                context.wrap_socket(plain, server_side=True) as outside,
                socket.create_connection(("127.0.0.1", port)) as inside,
            ):
                back = threading.Thread(target=copy, args=(inside, outside), daemon=True)
                back.start()
                copy(outside, inside)
                back.join()

        def copy(source: socket.socket, target: socket.socket) -> None:
            with contextlib.suppress(OSError):
                while data := source.recv(65536):
                    target.sendall(data)
                target.shutdown(socket.SHUT_WR)

        threading.Thread(target=serve, daemon=True).start()
        yield f"https://127.0.0.1:{listener.getsockname()[1]}"


@pytest.mark.parametrize(
    ("status", "answer", "words"),
    [
        (200, {"version": "4", "ray_version": "2.9.3"}, ["runs Ray 2.9.3", "ray==2.9.3"]),
        (200, {"something": "else"}, ["is not a Ray head"]),
        (200, "<html>", ["is not a Ray head", "JSON"]),
        (404, {}, ["is not a Ray head", "404"]),
    ],
)
def test_other_versions_of_ray_and_other_servers(
    adar: Adar, status: int, answer: dict[str, str] | str, words: list[str]
) -> None:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.end_headers()
            self.wfile.write((answer if isinstance(answer, str) else json.dumps(answer)).encode())

        def log_message(self, *arguments: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        line = adar("job", "list", "--address", f"http://127.0.0.1:{server.server_port}").line()
        server.shutdown()
    assert all(word in line for word in words), line
