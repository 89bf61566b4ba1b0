"""What is shipped with a job."""

from __future__ import annotations

import os
import shutil
import subprocess
import zipfile
from pathlib import Path

import pytest

from adar_ray.cluster.job import Job
from adar_ray.cluster.ship import files_to_ship, pack
from tests.cluster.jobs import message_of

ROOT = Path(__file__).parents[2]


def project(folder: Path) -> None:
    for name in (
        *("model.py", "package/data/reader.py", "spaces/a.yaml", "notes.md"),
        *(
            ".env",
            "prod.env.d/.env.local",
            "tls/server.pem",
            "tls/server.key",
            ".aws/config",
            "secrets/token",
        ),
        *("mine/credentials", ".venv/lib/x.py", "package/__pycache__/x.pyc", "ignored/big.bin"),
        *("set/dataset.json", "set/train/00000.parquet", "runs/one/config.yaml", "runs/one/metrics.jsonl"),
        *("runs/one/model/weights.safetensors", "found/search.yaml", "found/trials/00000/config.yaml"),
        *("begun/config.yaml", "begun/progress.json", "begun/initial.safetensors"),
        *("left/config.yaml", "left/checkpoints/00000-00000020/state.json"),
        *("top/_recommendations.json", "top/00000.parquet", "vectors/export.json", "vectors/items.parquet"),
        *("compared/plan.json", "compared/runs/mf/config.yaml", "compared/users/test/mf.parquet"),
    ):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)
    (folder / ".gitignore").write_text("/ignored/\n")


def test_code_is_shipped_without_data_runs_and_secrets(tmp_path: Path) -> None:
    here, elsewhere = tmp_path / "project", tmp_path / "elsewhere"
    project(here)
    elsewhere.write_text("not of this project")
    (here / "link").symlink_to(elsewhere)
    code = [".gitignore", "model.py", "notes.md", "package/data/reader.py", "spaces/a.yaml"]
    assert [str(path) for path in files_to_ship(here)] == sorted([*code, "ignored/big.bin"])
    subprocess.run(["git", "init", "--quiet", str(here)], check=True)
    subprocess.run(["git", "-C", str(here), "add", "--force", ".env", "model.py"], check=True)
    assert [str(path) for path in files_to_ship(here)] == code

    pack(here, tmp_path / "one.zip")
    os.utime(here / "model.py", (0, 0))
    pack(here, tmp_path / "two.zip")
    assert (tmp_path / "one.zip").read_bytes() == (tmp_path / "two.zip").read_bytes()
    with zipfile.ZipFile(tmp_path / "one.zip") as archive:
        assert archive.namelist() == code
        assert archive.read("package/data/reader.py") == b"package/data/reader.py"


@pytest.mark.parametrize(
    "name",
    [
        *(".env", ".env.local", "prod.env", ".envrc", ".netrc", "wandb.netrc", "server.pem", "id_ed25519"),
        *(".git-credentials", ".htpasswd", ".s3cfg", ".boto", ".databrickscfg", "rclone.conf", ".pgpass"),
        *("secrets", "secret.yaml", "client_secret.json", "aws_credentials", "my_credentials.json"),
        *("token", "token.txt", "auth_token", "hf-token.txt", "gcp-key.json", "api_key.txt", "apikeys.toml"),
        *("passwords.txt", "Password.TXT", "terraform.tfvars", "secrets.py", "service_account.json"),
    ],
)
def test_files_named_like_secrets_stay_behind_and_are_counted(
    name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "model.py").touch()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / name).touch()
    assert files_to_ship(tmp_path) == [Path("model.py")]
    said = f"ship {tmp_path}: leaves out 1 file that may be secret: mine/{name}"
    assert caplog.messages == [said]


@pytest.mark.parametrize(
    "name",
    [
        *("tokenizer.py", "tokenizer.json", "special_tokens_map.json", "secrets_test.py", "token.py"),
        *("token/__init__.py", "keys.json", "monkey.json", "environment.yaml", "password.md", "envs/env.py"),
        *("config.yaml", "plan.json", "export.json", "checkpoints/load.py", "foreign_key.json"),
    ],
)
def test_code_that_is_named_almost_like_a_secret_or_a_run_is_shipped(name: str, tmp_path: Path) -> None:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).touch()
    assert files_to_ship(tmp_path) == [Path(name)]


@pytest.mark.parametrize(
    "names",
    [
        ("plan.json", "runs/events.1", "model.py"),
        ("config.yaml", "checkpoints/step-1/state.json", "model.py"),
    ],
)
def test_folders_that_look_a_little_like_ours_are_shipped(names: tuple[str, ...], tmp_path: Path) -> None:
    """TensorBoard writes to runs/ by default."""
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert [str(path) for path in files_to_ship(tmp_path)] == sorted(names)


def test_folders_that_stay_behind_are_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    project(tmp_path)
    files_to_ship(tmp_path)
    said = "7 folders that adar-ray has written: begun, compared, found, left, runs/one, set, top, vectors"
    assert f"ship {tmp_path}: leaves out {said.replace('7', '8')}" in caplog.messages


def test_a_repository_that_git_does_not_read_is_not_shipped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project(tmp_path)
    subprocess.run(["git", "init", "--quiet", str(tmp_path)], check=True)
    package = tmp_path / "package"
    assert [str(path) for path in files_to_ship(package)] == ["data/reader.py"]
    with monkeypatch.context() as there:
        there.setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1")
        said = message_of(lambda: files_to_ship(package))
        assert f"ship {package}: is in a git repository" in said
        assert "dubious ownership" in said
        assert "make `git status` work there" in said
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "(git is not installed)" in message_of(lambda: files_to_ship(package))


def test_folders_that_cannot_be_shipped(tmp_path: Path) -> None:
    archive = tmp_path / "x.zip"
    assert "no such folder" in message_of(lambda: pack(tmp_path / "nowhere", archive))
    (tmp_path / "empty").mkdir()
    assert "contains nothing to ship" in message_of(lambda: pack(tmp_path / "empty", archive))
    for folder in (Path.home(), Path("/")):
        assert "a home folder or a whole disk" in message_of(lambda folder=folder: pack(folder, archive))
    (tmp_path / "large").mkdir()
    with (tmp_path / "large" / "clicks.csv").open("wb") as file:
        file.truncate(100_000_001)  # a hole, which takes no space
    assert "clicks.csv" in message_of(lambda: pack(tmp_path / "large", archive))
    assert not archive.exists()


def test_the_spaces_are_shipped_from_a_home_folder_as_in_the_image(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "home"
    monkeypatch.setenv("HOME", str(home))
    for name in ("jobs", "tune_spaces"):
        shutil.copytree(ROOT / name, home / name)
    job = Job.load(home / "jobs" / "tune.yaml")
    assert job.ship is not None
    pack(Path(job.ship), tmp_path / "shipped.zip")
    with zipfile.ZipFile(tmp_path / "shipped.zip") as archive:
        assert job.parameters["space"] in archive.namelist()


def test_a_name_that_is_not_utf_8_is_named(tmp_path: Path) -> None:
    try:
        Path(os.fsdecode(os.fsencode(tmp_path) + b"/a\xff.py")).write_text("")
    except OSError:
        pytest.skip("this file system takes only UTF-8")
    said = f"ship {tmp_path}: the name of 'a\\udcff.py' is not UTF-8; rename it"
    assert message_of(lambda: pack(tmp_path, tmp_path / "shipped.zip")) == said
