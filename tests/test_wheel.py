"""The wheel holds the package and nothing else, and works in an environment without the source tree."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from email import message_from_bytes
from importlib import metadata
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

pytestmark = pytest.mark.slow


def run(*command: str | Path, cwd: Path) -> str:
    finished = subprocess.run([*map(str, command)], cwd=cwd, capture_output=True, text=True, timeout=300)
    assert finished.returncode == 0, finished.stderr[-3000:]
    return finished.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("wheel")
    # Built from a copy, since setuptools writes build/ and *.egg-info beside the sources. The copy also has
    # folders that must stay out of the wheel.
    source = out / "source"
    for folder in ("adar_ray", "benchmarks", "examples"):
        shutil.copytree(ROOT / folder, source / folder, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(ROOT / "tests" / "golden", source / "tests", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", out, source, cwd=out)
    (built,) = out.glob("*.whl")
    return built


def test_the_wheel_holds_the_package_and_nothing_else(wheel: Path) -> None:
    names = [name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name]
    wanted = {
        str(path.relative_to(ROOT))
        for path in (ROOT / "adar_ray").rglob("*")
        if path.suffix in (".py", ".typed", ".css", ".js")
    }
    assert set(names) == wanted
    assert "adar_ray/py.typed" in names


def test_the_metadata_says_what_pyproject_says(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        content = message_from_bytes(archive.read(name))
        assert any(name.endswith(".dist-info/licenses/LICENSE") for name in archive.namelist())
    assert content["Name"] == "adar-ray"
    assert content["Requires-Python"] == "<3.14,>=3.10"
    assert content["License-Expression"] == "Apache-2.0"
    requirements = content.get_all("Requires-Dist")
    for package in ("ray[data,default,train,tune]==2.60.*", "torch<2.14,>=2.13"):
        assert package in requirements
    assert str(content.get_payload()).startswith((ROOT / "README.md").read_text(encoding="utf-8")[:100])


def test_the_wheel_works_in_a_clean_environment(wheel: Path, tmp_path: Path) -> None:
    """The dependencies come from this environment; adar_ray comes only from the wheel."""
    run(sys.executable, "-m", "venv", "--without-pip", tmp_path / "venv", cwd=tmp_path)
    python = tmp_path / "venv" / "bin" / "python"
    (site,) = (tmp_path / "venv" / "lib").glob("python*/site-packages")
    install = ("-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--disable-pip-version-check")
    run(sys.executable, *install, "--target", site, wheel, cwd=tmp_path)
    here = Path(metadata.distribution("torch").locate_file(""))
    # This adds the dependencies. Python reads no .pth files there, so the editable install stays out.
    (site / "dependencies.pth").write_text(f"{here}\n")
    program = (
        "import adar_ray, inspect; from adar_ray import train; import adar_ray.registry;"
        "print(adar_ray.__file__, adar_ray.__version__, inspect.getfile(train), sep='\\n')"
    )
    package, version, train = run(python, "-I", "-c", program, cwd=tmp_path).splitlines()
    assert Path(package).is_relative_to(site)
    assert Path(train).is_relative_to(site)
    assert version == metadata.version("adar-ray")
    assert "prepare" in run(python, "-I", site / "bin" / "adar-ray", "--help", cwd=tmp_path)
