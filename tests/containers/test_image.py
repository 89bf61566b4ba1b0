"""The image: what it contains and what it does not."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from adar_ray.data.fetch import cache_folder, fetch
from tests.containers.conftest import ROOT, USER, Container, Image, need, run

pytestmark = pytest.mark.cluster

MAX_BYTES = 2.1e9  # all layers, unpacked; docs/operating.md states the size


def test_the_demo_runs(container: Callable[..., Container], tmp_path: Path) -> None:
    need("make")
    fetch("ml-100k")
    tmp_path.chmod(0o755)
    work = tmp_path / "work"
    work.mkdir()
    os.chown(work, USER, USER)
    # What `make demo` runs, with the programs of the image.
    recipe = [
        "make",
        "--dry-run",
        "--no-print-directory",  # otherwise make prints it if make runs these tests
        "--old-file=.venv/.installed",
        "BIN=/opt/venv/bin",
        "DEMO=/home/adar/mounted/demo",
        "demo",
    ]
    script = run(*recipe, cwd=ROOT).stdout
    assert script.count("/opt/venv/bin/adar-ray train") == 2
    one = container(
        volumes={work: "/home/adar/mounted", cache_folder(): "/cache"},
        environment={"ADAR_RAY_CACHE": "/cache"},
    )
    told = one.run("bash", "-euc", script, timeout=1800).stdout
    for name in ("uniform", "adar"):
        figures = json.loads((work / "demo" / name / "evaluation" / "test.json").read_text(encoding="utf-8"))
        # A random order of 1,682 items reaches 0.012.
        assert figures["metrics"]["recall@20"] > 0.3
        assert f"{figures['metrics']['recall@20']:.4f}" in told
    assert (work / "demo" / "recommendations").stat().st_uid == USER


def test_the_image_has_what_starts_and_checks_it_and_no_compiler(container: Callable[..., Container]) -> None:
    one = container()
    one.run("which", "bash", "wget", "python", "ray", "adar-ray", "healthy")
    for compiler in ("cc", "gcc", "g++", "c++", "clang", "tcc", "make"):
        one.fails("which", compiler)
    assert one.run("id", "--user").stdout.strip() == str(USER)
    one.fails("touch", "/opt/venv/written")
    one.run("touch", "/data/written")


def test_a_container_without_a_ray_node_is_healthy(container: Callable[..., Container]) -> None:
    container().run("healthy")


def test_the_image_has_labels_and_a_health_check(image: Image) -> None:
    described = json.loads(run("podman", "image", "inspect", image.name).stdout)[0]
    assert described["User"] == "1000:1000"
    assert described["Healthcheck"]["Test"] == ["CMD", "healthy"]
    assert {
        f"org.opencontainers.image.{label}"
        for label in ("title", "description", "licenses", "version", "revision")
    } <= set(described["Labels"])
    assert described["Size"] < MAX_BYTES


def test_the_build_secret_is_not_in_the_image(image: Image, container: Callable[..., Container]) -> None:
    if image.build_secret is None:
        pytest.skip("the image was not built here")
    described = run("podman", "image", "inspect", image.name).stdout
    described += run("podman", "history", "--no-trunc", image.name).stdout
    assert image.build_secret not in described
    folder = run("buildah", "mount", container().name).stdout.strip()
    search = ["grep", "--recursive", "--devices=skip", "--files-with-matches", image.build_secret, folder]
    found = subprocess.run(search, capture_output=True, text=True, check=False)
    assert (found.returncode, found.stdout) == (1, "")
