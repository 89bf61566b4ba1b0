"""What a search changes in its process while it runs, and restores."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import optuna

from adar_ray.process import environment_kept, random_states_kept, signal_handlers_kept

# Ray Tune's own logs and state would be a second record beside the search folder. `tune.run` reads these.
_RAY_TUNE = {
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "RAY_AIR_NEW_OUTPUT": "0",  # the new output is never silent
    "TUNE_GLOBAL_CHECKPOINT_S": "86400",
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
}


@contextlib.contextmanager
def ray_tune_process() -> Iterator[None]:
    """What `tune.run` needs in the environment; a variable that is set already keeps its value.

    Afterwards the environment, signal handlers and random states are as before.
    """
    with environment_kept(**_RAY_TUNE), signal_handlers_kept(), random_states_kept():
        yield


@contextlib.contextmanager
def quiet_optuna() -> Iterator[None]:
    """Optuna without its messages about every study."""
    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        yield
    finally:
        optuna.logging.set_verbosity(verbosity)
