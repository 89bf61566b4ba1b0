"""What `import adar_ray` offers, and what it costs."""

from __future__ import annotations

import subprocess
import sys
from importlib import metadata

import pytest

import adar_ray


def test_dir_names_the_public_api() -> None:
    assert set(adar_ray.__all__) <= set(dir(adar_ray))
    assert {"prepare", "train", "evaluate", "recommend", "tune", "publish"} <= set(adar_ray.__all__)


@pytest.mark.parametrize("name", sorted(set(adar_ray.__all__) - {"__version__"}))
def test_every_public_name_is_a_function_of_that_name(name: str) -> None:
    assert getattr(adar_ray, name).__name__ == name


def test_version_is_that_of_the_installed_package() -> None:
    assert adar_ray.__version__ == metadata.version("adar-ray")


def test_unknown_names_are_refused() -> None:
    with pytest.raises(AttributeError, match="fly"):
        adar_ray.fly  # noqa: B018


def test_importing_the_package_loads_neither_torch_nor_ray() -> None:
    program = "import sys, adar_ray; print({'torch', 'ray', 'pyarrow'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_showing_help_loads_neither_torch_nor_ray() -> None:
    program = (
        "import sys, adar_ray.cli.main; print({'torch', 'ray', 'pyarrow', 'pydantic'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
