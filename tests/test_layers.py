"""Which package may import which: nothing imports upward, and the torch-only packages never import Ray."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "adar_ray"

# From top to bottom. A package or a module at the top level imports only from the rows below its own.
LAYERS = [
    {"cli"},
    {"comparison"},
    {"tuning", "cluster", "serving"},
    {"inference"},
    {"reporting"},
    {"training", "adapters"},
    {"ranking"},
    {"config"},
    {"registry"},
    {"adar"},
    {"samplers", "data"},
    {"baselines"},
    {"losses", "models"},
    {"component", "ray_session"},
    {"outputs"},
    {"lease"},
    {
        "custom",
        "distributed",
        "durations",
        "interactions",
        "metrics",
        "rng",
        "significance",
        "storage",
        "workers",
    },
    {"documents", "kernels", "limits", "memory", "process", "ray_address", "shared_memory", "waiting"},
    {"errors"},
]
RANK = {name: rank for rank, names in enumerate(LAYERS) for name in names}
WITHOUT_RAY = set().union(*LAYERS[LAYERS.index({"ranking"}) :]) - {"data", "ray_session"}


def owner(path: Path) -> str:
    """Returns the package, or the module at the top level, that a file belongs to."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


FILES = sorted(PACKAGE.rglob("*.py"))


def imports(path: Path) -> Iterator[str]:
    """Yields the modules that a file imports at run time, also inside functions, as absolute names."""
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
        elif isinstance(node, ast.ImportFrom):
            assert node.module, f"{path}:{node.lineno}: write an absolute import"
            assert not node.level, f"{path}:{node.lineno}: write an absolute import"
            yield node.module
            yield from (f"{node.module}.{name.name}" for name in node.names)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_nothing_imports_upward(path: Path) -> None:
    name = owner(path)
    if name == "__init__":
        return  # names the public functions and imports each one on first use
    assert name in RANK, f"{name} has no place in LAYERS"
    for module in imports(path):
        if module.startswith("adar_ray."):
            other = module.split(".")[1]
            assert other in RANK, f"{other} has no place in LAYERS"
            assert other == name or RANK[other] > RANK[name], f"{path.name} imports {module}"


def test_no_modules_import_each_other_in_a_circle() -> None:
    names = {".".join(path.relative_to(ROOT).with_suffix("").parts): path for path in FILES}
    names = {name.removesuffix(".__init__"): path for name, path in names.items()}
    graph = {name: {*imports(path)} & names.keys() - {name, "adar_ray"} for name, path in names.items()}
    TopologicalSorter(graph).prepare()  # raises CycleError and names the circle


def test_torch_only_packages_never_import_ray() -> None:
    training = [path for path in FILES if owner(path) == "training" and not path.stem.startswith("ray_")]
    for path in [*(path for path in FILES if owner(path) in WITHOUT_RAY), *training]:
        assert not [module for module in imports(path) if module.split(".")[0] == "ray"], path


def test_data_imports_neither_torch_nor_the_configuration() -> None:
    for path in FILES:
        if owner(path) == "data":
            assert not [module for module in imports(path) if module.split(".")[0] == "torch"], path
            assert "adar_ray.config" not in imports(path), path


UNSAFE_CALLS = {"eval", "exec", "compile", "__import__", "os.system", "os.popen"}
UNSAFE_MODULES = {"builtins", "pickle", "marshal", "shelve", "dill", "cloudpickle"}
SAFE_ARGUMENTS = {"shell": False, "weights_only": True}


def unsafe(code: str) -> list[str]:
    """What runs text or bytes as code, lets a shell read a command, or hides where a name comes from."""
    found = []
    for node in ast.walk(ast.parse(code)):
        modules: list[str] = []
        if isinstance(node, ast.Call):
            found += [name for name in UNSAFE_CALLS if ast.unparse(node.func) == name]
            for argument in node.keywords:
                safe = SAFE_ARGUMENTS.get(argument.arg or "")
                if safe is not None and ast.unparse(argument.value) != str(safe):
                    found.append(ast.unparse(argument))
        elif isinstance(node, ast.Import):
            modules = [name.name for name in node.names]
        elif isinstance(node, ast.ImportFrom):
            modules = [node.module or ""]
            found += [name.name for name in node.names if name.name == "*"]
            found += [name.name for name in node.names if f"{node.module}.{name.name}" in UNSAFE_CALLS]
        found += [module for module in modules if module.partition(".")[0] in UNSAFE_MODULES]
    return found


def test_nothing_unsafe_is_called() -> None:
    for path in FILES:
        assert unsafe(path.read_text(encoding="utf-8")) == [], path


@pytest.mark.parametrize(
    "code",
    [
        "eval ('1')",
        "x = [exec(line) for line in lines]",
        "run(words, shell=flag)",
        "torch.load(file, weights_only=False)",
        "from os import *",
        "import pickle as p",
        "import builtins",
        "os.system('ls')",
        "from os import system as run",
    ],
)
def test_what_is_unsafe_is_found(code: str) -> None:
    assert len(unsafe(code)) == 1
    assert (
        unsafe("model.eval(); run(words, shell=False); load(file, weights_only=True); re.compile('a')") == []
    )


def test_parquet_is_read_without_the_scanner() -> None:
    """After `pq.read_table`, processes may abort at their end (apache/arrow issue 34314)."""
    for path in FILES:
        calls = [node for node in ast.walk(ast.parse(path.read_text("utf-8"))) if isinstance(node, ast.Call)]
        assert not [call for call in calls if ast.unparse(call.func) == "pq.read_table"], path


def test_only_custom_py_changes_the_search_path() -> None:
    for path in FILES:
        if path.name != "custom.py":
            assert not re.search(
                r"sys\.path\.(append|insert|extend)|sys\.path\[?:?\]? =", path.read_text(encoding="utf-8")
            )
