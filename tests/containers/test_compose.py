"""The compose file: valid, closed to other machines, and without secrets."""

from __future__ import annotations

import importlib.metadata
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from tests.containers.conftest import ROOT, run

pytestmark = pytest.mark.cluster

FILE = ROOT / "docker" / "compose.yaml"
LOOPBACK = "127.0.0.1"


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    """The file with the defaults of its variables."""
    text = re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", FILE.read_text(encoding="utf-8"))
    content = yaml.safe_load(text)
    return {key: value for key, value in content.items() if not key.startswith("x-")}


def test_the_file_follows_the_compose_specification(compose: dict[str, Any]) -> None:
    try:
        package = importlib.metadata.distribution("docker-compose")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("needs the schema of the specification: make test-cluster")
    schema = package.locate_file("compose/config/compose_spec.json").read_text(encoding="utf-8")
    validator = jsonschema.Draft7Validator(json.loads(schema))
    validator.validate(compose)
    head = compose["services"]["head"]
    misspelled = compose | {"services": {"head": head | {"restarts": "always"}}}
    with pytest.raises(jsonschema.ValidationError, match="restarts"):
        validator.validate(misspelled)


@pytest.mark.parametrize("profile", [[], ["--profile", "monitoring"]])
def test_docker_compose_reads_the_file(profile: list[str]) -> None:
    plugin = (
        shutil.which("docker")
        and not subprocess.run(["docker", "compose", "version"], capture_output=True, check=False).returncode
    )
    # The package that brings the schema has a program, too, which lacks what it needs.
    folders = [folder for folder in os.get_exec_path() if Path(folder) != Path(sys.executable).parent]
    program = ["docker", "compose"] if plugin else [shutil.which("docker-compose", path=":".join(folders))]
    if program == [None]:
        pytest.skip("needs docker compose or docker-compose")
    read = yaml.safe_load(run(*program, "--file", FILE, *profile, "config").stdout)
    services = {"head", "worker", *(["published", "prometheus", "grafana"] if profile else [])}
    # docker-compose also lists the services of other profiles.
    assert services <= set(read["services"])


def test_what_it_names_is_there(compose: dict[str, Any]) -> None:
    for name, service in compose["services"].items():
        assert set(service.get("secrets", [])) <= set(compose["secrets"]), name
        assert set(service.get("depends_on", {})) <= set(compose["services"]), name
        for volume in service["volumes"]:
            source = volume.partition(":")[0]
            assert (FILE.parent / source).exists() if source.startswith(".") else source in compose["volumes"]
    build = compose["services"]["head"]["build"]
    assert (FILE.parent / build["context"] / build["dockerfile"]).is_file()


def test_ports_are_local_and_the_file_has_no_secrets(compose: dict[str, Any]) -> None:
    for name, service in compose["services"].items():
        assert all(str(port).startswith(f"{LOOPBACK}:") for port in service.get("ports", [])), name
        assert service["cap_drop"] == ["ALL"], name
        assert "network_mode" not in service, name
        assert "privileged" not in service, name
        for variable, value in service.get("environment", {}).items():
            if re.search("TOKEN|PASSWORD|SECRET|KEY", variable):
                assert value.startswith("/run/secrets/"), variable
    assert all(set(secret) == {"file"} for secret in compose["secrets"].values())
    ignored = [
        "git",
        "-C",
        str(ROOT),
        "check-ignore",
        *(str(FILE.parent / secret["file"]) for secret in compose["secrets"].values()),
    ]
    assert len(run(*ignored).stdout.split()) == len(compose["secrets"])


def test_monitoring_is_a_profile_and_its_files_are_valid(compose: dict[str, Any]) -> None:
    extra = {
        name for name, service in compose["services"].items() if service.get("profiles") == ["monitoring"]
    }
    assert extra == {"published", "prometheus", "grafana"}
    if shutil.which("promtool"):
        run("promtool", "check", "config", FILE.parent / "monitoring" / "prometheus.yaml")
    rules = yaml.safe_load((FILE.parent / "monitoring" / "alerts.yaml").read_text(encoding="utf-8"))
    meanings = re.findall(
        r"^\| `(\w+)` \|", (ROOT / "docs" / "operating.md").read_text(encoding="utf-8"), re.MULTILINE
    )
    assert {rule["alert"] for group in rules["groups"] for rule in group["rules"]} <= set(meanings)
