"""A base model of one's own, named in a configuration as `module:callable`."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from torch import nn

from adar_ray.errors import AdarError, one_line
from adar_ray.models.protocol import BaseModel


def find_custom(name: str) -> Callable[[Any, Any], nn.Module]:
    """The callable that a name such as `my_models:two_tower` means.

    The module is imported from where Python finds modules, or from the working directory.

    Raises:
        AdarError: there is no such module or callable.
    """
    module, _, attribute = name.partition(":")
    look_in([str(Path.cwd())])
    try:
        return getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise AdarError(
            f"model.name {name}: cannot be imported ({one_line(error)}); "
            f"run it where {module} lies, or set PYTHONPATH, on every machine of a cluster"
        ) from error


def search_path() -> list[str]:
    """The folders where this process looks for a model of one's own, for others to `look_in`."""
    return [*sys.path, str(Path.cwd())]


def look_in(folders: Iterable[str]) -> None:
    """Adds folders to those where Python finds modules; what it found before, it finds there still."""
    sys.path.extend(folder for folder in folders if folder not in sys.path)


def build_custom(name: str, dataset: Any, config: Any) -> BaseModel:
    """The model that the callable makes of the dataset and the configuration.

    Raises:
        AdarError: it is no module with the three methods.
    """
    model = find_custom(name)(dataset, config)
    missing = [method for method in ("users", "items", "score") if not callable(getattr(model, method, None))]
    if missing or not isinstance(model, nn.Module):
        wanted = f"a method {missing[0]}" if missing else "torch.nn.Module as a base"
        raise AdarError(f"model.name {name}: {type(model).__name__} lacks {wanted}")
    return model
