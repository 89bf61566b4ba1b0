"""Who imports whom: nothing imports upward, and the rooms that anyone can lift out import no Ray."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "adar_ray"

# From the top down: a room may import what stands in a lower row, and nothing of its own row or above.
LAYERS = [
    {"cli"},
    {"tuning", "cluster"},
    {"inference"},
    {"reporting"},
    {"training", "adapters"},
    {"ranking"},
    {"config"},
    {"registry"},
    {"adar"},
    {"samplers", "data"},
    {"losses", "models"},
    {"component", "ray_session"},
    {"custom", "distributed", "durations", "interactions", "metrics", "rng", "storage"},
    {"errors", "memory", "process"},
]
RANK = {room: rank for rank, rooms in enumerate(LAYERS) for room in rooms}
WITHOUT_RAY = (
    "adar",
    "samplers",
    "models",
    "losses",
    "metrics",
    "interactions",
    "rng",
    "component",
    "registry",
)


def files(*rooms: str) -> list[Path]:
    return [
        path
        for path in sorted(PACKAGE.rglob("*.py"))
        if not rooms or path.relative_to(PACKAGE).parts[0].removesuffix(".py") in rooms
    ]


def imports(path: Path) -> Iterator[str]:
    """Modules that a file imports when it runs, not for type checkers alone."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    skipped: set[ast.AST] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            skipped.update(child for statement in node.body for child in ast.walk(statement))
    for node in ast.walk(tree):
        if node in skipped:
            continue
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            if node.module == "adar_ray":
                yield from (f"adar_ray.{name.name}" for name in node.names)


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


@pytest.mark.parametrize("path", files(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_nothing_imports_upward(path: Path) -> None:
    room = room_of(path)
    if room == "__init__":
        return  # it names what the package offers, and imports it when asked
    assert room in RANK, f"{room} has no place in LAYERS"
    for module in imports(path):
        if module.startswith("adar_ray."):
            other = module.split(".")[1]
            assert other == room or RANK[other] > RANK[room], f"{path.name} imports {module}"


def test_what_anyone_can_lift_out_imports_no_ray() -> None:
    for path in [*files(*WITHOUT_RAY), PACKAGE / "training" / "loop.py", PACKAGE / "training" / "step.py"]:
        assert not [module for module in imports(path) if module.split(".")[0] == "ray"], path


def test_data_imports_neither_torch_nor_the_configuration() -> None:
    for path in files("data"):
        assert not {"torch", "adar_ray.config"} & set(imports(path)), path


@pytest.mark.parametrize(
    "pattern", [r"(?<![.\w])(eval|exec)\(", r"import \*", r"weights_only=False", r"shell=True"]
)
def test_nothing_unsafe_is_called(pattern: str) -> None:
    for path in files():
        assert not re.search(pattern, path.read_text(encoding="utf-8")), path


def test_the_search_path_is_changed_in_one_place() -> None:
    for path in files():
        if path.name != "custom.py":
            assert not re.search(r"sys\.path\.(append|insert|extend)|sys\.path\[?:?\]? =", path.read_text())
