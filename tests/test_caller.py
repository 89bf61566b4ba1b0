"""The library leaves the process that calls it as it was.

A process of its own, without a Ray session, calls every public function and compares its state before and
after each call: threads, random states, environment, `sys.path`, signal handlers, log levels.
"""

from __future__ import annotations

import importlib
import json
import logging
import os
import pkgutil
import random
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

ROOT = Path(__file__).parents[1]
SMALL = ["model.embedding_dim=8", "adar.pool=8", "train.device=cpu", "train.epochs=2", "train.batch_size=128"]
SPACE = {
    "base": {
        "model": {"embedding_dim": 8},
        "adar": {"pool": 8},
        "train": {"epochs": 2, "batch_size": 128, "device": "cpu"},
    },
    "parameters": {"adar.beta": {"choice": [0.7, 0.9]}},
    "scheduler": {"name": "none"},
    "budget": {"trials": 2},
}
THIRD_PARTIES = (
    *("fsspec", "optuna", "plotly.offline", "ray.dashboard.modules.job.sdk", "ray.data", "ray.train.torch"),
    *("ray.tune", "torch"),
)


def state() -> dict[str, Any]:
    """Everything that a caller may rely on, as values that can be compared."""
    import optuna

    loggers = {
        name: logger.level
        for name, logger in logging.root.manager.loggerDict.items()
        if isinstance(logger, logging.Logger)
    }
    numpy_state = np.random.get_state(legacy=True)
    return {
        "torch threads": torch.get_num_threads(),
        "random state of torch": torch.get_rng_state().tolist(),
        "random state of numpy": [numpy_state[1].tolist(), *numpy_state[2:]],
        "random state of Python": random.getstate(),
        "environment": dict(os.environ),
        "sys.path": list(sys.path),
        "signal handlers": {number: signal.getsignal(number) for number in signal.valid_signals()},
        "log levels": {"root": logging.root.level, **loggers},
        "optuna's verbosity": optuna.logging.get_verbosity(),
    }


def changes(call: Callable[[], object]) -> list[str]:
    """What a call changed, in words. A logger that did not exist before does not count."""
    before = state()
    call()
    after = state()
    after["log levels"] = {name: after["log levels"].get(name) for name in before["log levels"]}
    found = []
    for what, value in before.items():
        if value == after[what]:
            continue
        if isinstance(value, dict):
            keys = sorted(
                map(str, {k for k in value.keys() | after[what].keys() if value.get(k) != after[what].get(k)})
            )
            what = f"{what}: {', '.join(keys)}"
        found.append(what)
    return found


def calls() -> dict[str, Callable[[], object]]:
    """Every public function, in an order in which each finds what it needs in the working directory."""
    import adar_ray
    from adar_ray.config import load_config
    from adar_ray.data.fetch import fetch_dataset
    from adar_ray.data.synthetic import synthesize
    from adar_ray.reporting.tables import side_by_side
    from tests.data.test_fetch import Server, one_file

    config = load_config(settings=SMALL)
    custom = load_config(settings=[*SMALL, "model.name=custom_model:build"])

    def fetch() -> None:
        with Server() as server:
            thread = threading.Thread(target=server.serve_forever)
            thread.start()
            try:
                fetch_dataset(one_file(server), Path("cache"))
            finally:
                server.shutdown()
                thread.join()

    def stop(record: object) -> None:
        raise KeyboardInterrupt

    def interrupt(call: Callable[..., object], *arguments: Any, **options: Any) -> None:
        with pytest.raises(KeyboardInterrupt):
            call(*arguments, **options)

    return {
        "synthesize": lambda: synthesize(60, 80, 1500, 1, "data"),
        "fetch": fetch,
        "prepare": lambda: adar_ray.prepare("pairs.csv", "prepared"),
        "train": lambda: adar_ray.train("data", "run", config, workers=0),
        "train, interrupted": lambda: interrupt(
            adar_ray.train, "data", "stopped", config, workers=0, on_epoch=stop
        ),
        "resume": lambda: adar_ray.resume("stopped"),
        "train on a worker": lambda: adar_ray.train("data", "on_worker", config, workers=1),
        "train a custom model": lambda: adar_ray.train("data", "custom", custom, workers=0),
        "evaluate": lambda: adar_ray.evaluate("run"),
        "evaluate a custom model": lambda: adar_ray.evaluate("custom", trust=True),
        "recommend": lambda: adar_ray.recommend("custom", "top", trust=True),
        "load": lambda: adar_ray.load("run").recommend(history=["0", "1"]),
        "export": lambda: adar_ray.export("run", "vectors"),
        "publish": lambda: adar_ray.publish("run", "published"),
        "rollback": lambda: (
            adar_ray.publish("on_worker", "published", force=True),
            adar_ray.rollback("published"),
        ),
        "report": lambda: side_by_side(["run", "stopped"]),
        "compare": lambda: adar_ray.compare("data", "comparison", settings=SMALL, seeds=1, test=True),
        "tune": lambda: adar_ray.tune("data", SPACE, "search"),
        "resume_search": lambda: adar_ray.resume_search("search"),
    }


NAMES = [
    *("synthesize", "fetch", "prepare", "train", "train, interrupted", "resume", "train on a worker"),
    *("train a custom model", "evaluate", "evaluate a custom model", "recommend", "load", "export"),
    *("publish", "rollback", "report", "compare", "tune", "resume_search"),
]


def make_calls() -> None:
    """Prints a JSON object: the name of each call -> what it changed."""
    torch.set_num_threads(3)
    torch.manual_seed(5)
    np.random.seed(6)
    random.seed(7)
    signal.signal(signal.SIGTERM, lambda number, frame: None)
    Path("pairs.csv").write_text("user,item\n" + "".join(f"{n % 7},{n % 11}\n" for n in range(77)))
    for name in THIRD_PARTIES:
        importlib.import_module(name)
    print(json.dumps({name: changes(call) for name, call in calls().items()}))


def import_everything() -> None:
    """Prints what importing every module of the library changes, beyond what its libraries change."""
    for name in THIRD_PARTIES:
        importlib.import_module(name)

    def load() -> None:
        import adar_ray

        for module in pkgutil.walk_packages(adar_ray.__path__, "adar_ray."):
            if ".adapters." not in module.name:  # RecBole is optional
                importlib.import_module(module.name)

    print(json.dumps(changes(load)))


def ask(function: Callable[[], None], folder: Path) -> Any:
    """The last line that a function of this module prints in a process of its own, read as JSON."""
    done = subprocess.run(
        [sys.executable, "-c", f"from tests.test_caller import {function.__name__}; {function.__name__}()"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": f"{ROOT}:{folder}", "no_proxy": "127.0.0.1"},
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def changed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    folder = tmp_path_factory.mktemp("caller")
    shutil.copy(ROOT / "examples" / "custom_model.py", folder)
    return ask(make_calls, folder)


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_a_call_leaves_the_process_as_it_was(changed: dict[str, list[str]], name: str) -> None:
    assert changed[name] == []


@pytest.mark.ray
@pytest.mark.slow
def test_every_call_is_checked(changed: dict[str, list[str]]) -> None:
    assert list(changed) == NAMES


def test_imports_leave_the_process_as_it_was(tmp_path: Path) -> None:
    assert ask(import_everything, tmp_path) == []
