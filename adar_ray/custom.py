"""Custom components, which a configuration names as `module:callable`."""

from __future__ import annotations

import contextlib
import importlib
import inspect
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

from adar_ray.errors import AdarError, ComponentError, error_line, one_line


def is_custom(name: str) -> bool:
    """Whether a component's name has the form `module:callable`."""
    return re.fullmatch(r"\w+(\.\w+)*:\w+", name) is not None


def refuse_foreign_code(names: Iterable[str], origin: str, trust: bool) -> None:
    """Refuses a file that was read, rather than given by the user, if it names custom components.

    Args:
        names: of the components that the file names.
        origin: the file, for the message.
        trust: whether the user has said that whoever wrote the file may run code here.
    """
    code = sorted(filter(is_custom, names))
    if code and not trust:
        raise AdarError(
            f"{origin}: names code that would run ({one_line(', '.join(code), 200)}); if you trust whoever "
            "wrote it, add --trust (in Python, trust=True)"
        )


def find_custom(
    key: str, name: str, takes: Sequence[str] = ("the dataset", "the configuration")
) -> Callable[..., Any]:
    """Imports the callable that a name such as `my_models:two_tower` refers to.

    The module may be anywhere Python looks for modules, or in the working directory. `sys.path` stays as it
    is.

    Args:
        key: the configuration key, for the message.
        takes: what it will be called with.

    Raises:
        AdarError: there is no such module or callable, or it takes other arguments.
    """
    where, _, attribute = name.partition(":")
    try:
        with _also_in(str(Path.cwd())):
            module = importlib.import_module(where)
    except Exception as error:
        remedy = f"correct {where}"
        if isinstance(error, ModuleNotFoundError) and error.name:
            remedy = f"install {error.name}, or {remedy}"
            if f"{where}.".startswith(f"{error.name}."):
                remedy = f"run from the folder of {where}, or set PYTHONPATH, on every machine of the cluster"
        raise AdarError(f"{key} {name}: cannot be imported ({error_line(error)}); {remedy}") from error
    if not callable(found := getattr(module, attribute, None)):
        own = [
            known
            for known, value in vars(module).items()
            if callable(value) and getattr(value, "__module__", None) == where and not known.startswith("_")
        ]
        raise AdarError(f"{key} {name}: cannot be imported; {where} has {', '.join(sorted(own)) or 'none'}")
    try:
        inspect.signature(found).bind(*takes)
    except TypeError as error:
        raise AdarError(
            f"{key} {name}: cannot be called with {' and '.join(takes)} ({one_line(error)}); name another"
        ) from None
    except ValueError:
        pass  # it does not say what it takes
    return found


def build_custom(key: str, name: str, dataset: Any, config: Any) -> Any:
    """Calls a custom component's callable with the dataset and the configuration; returns what it returns.

    Raises:
        ComponentError: it fails.
    """
    build = find_custom(key, name)
    try:
        return build(dataset, config)
    except Exception as error:
        if _is_of_something_else(error):
            raise
        raise ComponentError(f"{key} {name}: cannot be made ({error_line(error)})") from error


def build_custom_function(key: str, name: str, dataset: Any, config: Any) -> Callable[..., Any]:
    """A custom component that is a function, whose errors name it."""
    function = build_custom(key, name, dataset, config)
    if not callable(function):
        raise ComponentError(f"{key} {name}: returns a {type(function).__name__}, not a function")
    return blamed(f"{key} {name}: ", function)


def blamed(whom: str, function: Callable[..., Any], remedy: str = "") -> Callable[..., Any]:
    """The function, whose errors are one line that says whose they are.

    Args:
        whom: the beginning of the line.
        remedy: its end.
    """

    def call(*arguments: Any) -> Any:
        try:
            return function(*arguments)
        except Exception as error:
            if _is_of_something_else(error):
                raise
            raise AdarError(f"{whom}{error_line(error)}{remedy}") from error

    return call


class Blamed:
    """An object whose methods' errors say whose they are.

    Args:
        whom: the beginning of the line, before the name of the method.
    """

    def __init__(self, whom: str, target: Any) -> None:
        self.whom, self.target = whom, target

    def __getattr__(self, name: str) -> Any:
        value = getattr(self.target, name)
        return blamed(f"{self.whom}{name}(): ", value) if callable(value) else value


def _is_of_something_else(error: Exception) -> bool:
    """Whether memory has run out or another worker is lost: that may pass, and is no mistake in it."""
    kinds = {kind.__name__ for kind in type(error).__mro__}
    return bool(kinds & {"MemoryError", "OutOfMemoryError", "DistError", "TransientError"}) or (
        "gloo" in str(error)  # whose errors have no class of their own
    )


def code_of(names: Iterable[str]) -> str:
    """The SHA-256 of the modules that custom components are in, as far as they have files; empty for none."""
    modules = sorted({name.partition(":")[0] for name in names})
    files = [Path(getattr(sys.modules.get(name), "__file__", None) or "") for name in modules]
    code = b"".join(file.read_bytes() for file in files if file.is_file())
    return sha256(code).hexdigest() if modules else ""


def search_path() -> list[str]:
    """The folders where this process looks for modules; workers pass them to `look_in`."""
    return [*sys.path, str(Path.cwd())]


def look_in(folders: Iterable[str]) -> None:
    """Appends folders to `sys.path`, for good: for a worker process, which has no caller to protect."""
    sys.path.extend(folder for folder in folders if folder not in sys.path)


@contextlib.contextmanager
def _also_in(folder: str) -> Iterator[None]:
    before = sys.path[:]
    look_in([folder])
    try:
        yield
    finally:
        sys.path[:] = before
