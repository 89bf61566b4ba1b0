"""The wheel: it holds the package and nothing else, and works where only it is installed."""

from __future__ import annotations

import subprocess
import sys
import zipfile
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
    source = out / "source"
    files = run("git", "ls-files", "-z", "adar_ray", "pyproject.toml", "README.md", "LICENSE", cwd=ROOT)
    for name in filter(None, files.split("\0")):
        if (ROOT / name).exists():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes((ROOT / name).read_bytes())
    run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", out, source, cwd=out)
    (built,) = out.glob("*.whl")
    return built


def test_the_wheel_holds_the_package_and_nothing_else(wheel: Path) -> None:
    names = [name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name]
    wanted = {
        str(path.relative_to(ROOT))
        for path in (ROOT / "adar_ray").rglob("*")
        if path.suffix in (".py", ".typed")
    }
    assert set(names) == wanted
    assert "adar_ray/py.typed" in names


def test_the_wheel_works_in_a_clean_environment(wheel: Path, tmp_path: Path) -> None:
    """Dependencies come from this environment, adar_ray from the wheel alone."""
    run(sys.executable, "-m", "venv", "--without-pip", tmp_path / "venv", cwd=tmp_path)
    python = tmp_path / "venv" / "bin" / "python"
    (site,) = (tmp_path / "venv" / "lib").glob("python*/site-packages")
    install = ("-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--disable-pip-version-check")
    run(sys.executable, *install, "--target", site, wheel, cwd=tmp_path)
    here = Path(metadata.distribution("torch").locate_file(""))
    # A plain path: it brings the dependencies, but no .pth file of the editable install is read from it.
    (site / "dependencies.pth").write_text(f"{here}\n")
    program = (
        "import adar_ray, inspect; from adar_ray import train; import adar_ray.registry;"
        "print(adar_ray.__file__, adar_ray.__version__, inspect.getfile(train), sep='\\n')"
    )
    package, version, train = run(python, "-c", program, cwd=tmp_path).splitlines()
    assert Path(package).is_relative_to(site)
    assert Path(train).is_relative_to(site)
    assert version == metadata.version("adar-ray")
    assert "prepare" in run(python, site / "bin" / "adar-ray", "--help", cwd=tmp_path)
