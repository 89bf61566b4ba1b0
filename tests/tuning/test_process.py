"""What a search changes in its process is as before afterwards."""

from __future__ import annotations

import contextlib
import os
import random
import signal

import numpy as np
import optuna
import pytest

from adar_ray.tuning.process import quiet_optuna, ray_tune_process


def test_the_environment_is_restored_even_after_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TUNE_GLOBAL_CHECKPOINT_S", "7")
    monkeypatch.delenv("RAY_AIR_NEW_OUTPUT", raising=False)
    monkeypatch.setenv("TUNE_RESULT_BUFFER_LENGTH", "3")
    python_random, numpy_random = random.getstate(), np.random.get_state()
    before, handler = dict(os.environ), signal.getsignal(signal.SIGUSR1)
    with contextlib.suppress(KeyboardInterrupt), ray_tune_process():
        assert os.environ["RAY_AIR_NEW_OUTPUT"] == "0"
        assert os.environ["TUNE_GLOBAL_CHECKPOINT_S"] == "7"  # the user's own value counts
        os.environ["TUNE_RESULT_BUFFER_LENGTH"] = "1"  # as Ray Tune does
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)
        random.random()
        np.random.random()
        raise KeyboardInterrupt
    assert random.getstate() == python_random
    assert np.random.get_state()[2] == numpy_random[2]
    assert dict(os.environ) == before
    assert signal.getsignal(signal.SIGUSR1) is handler


def test_optuna_is_as_talkative_as_before() -> None:
    before = optuna.logging.get_verbosity()
    with quiet_optuna():
        assert optuna.logging.get_verbosity() == optuna.logging.ERROR
    assert optuna.logging.get_verbosity() == before
