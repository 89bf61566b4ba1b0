"""What a search changes in its process while it runs, and restores."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterator

import optuna

# Ray Tune's own logs and state would be a second record beside the search folder. `tune.run` reads these.
_RAY_TUNE = {
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "RAY_AIR_NEW_OUTPUT": "0",  # the new output is never silent
    "TUNE_GLOBAL_CHECKPOINT_S": "86400",
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
}


@contextlib.contextmanager
def ray_tune_process() -> Iterator[None]:
    """What `tune.run` needs in the environment; afterwards the environment and SIGUSR1 are as before.

    A variable that is set already keeps its value.
    """
    environment, handler = dict(os.environ), signal.getsignal(signal.SIGUSR1)
    os.environ.update({name: value for name, value in _RAY_TUNE.items() if name not in environment})
    try:
        yield
    finally:
        for name in os.environ.keys() - environment.keys():
            del os.environ[name]
        os.environ.update(environment)
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGUSR1, handler)


@contextlib.contextmanager
def quiet_optuna() -> Iterator[None]:
    """Optuna without its messages about every study."""
    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        yield
    finally:
        optuna.logging.set_verbosity(verbosity)
