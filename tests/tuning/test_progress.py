"""The display of a search on stderr."""

from __future__ import annotations

from pathlib import Path

import pytest

from adar_ray.tuning.progress import Progress, ProgressDisplay
from adar_ray.tuning.trial import Trial
from tests.tuning.spaces import a_search


def test_without_a_terminal_there_is_a_line_for_each_trial_that_ends(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    search = a_search(tmp_path, trials=3)
    trials = [Trial(number=n, values={}, started=0.0) for n in range(2)]
    with ProgressDisplay() as show:
        show(Progress(search, trials, 1.0, None))
        trials[0].status, trials[0].value, trials[0].best_epoch = "finished", 0.25, 3
        show(Progress(search, trials, 2.0, 90.0))
        show(Progress(search, trials, 3.0, 80.0))
        trials[1].status = "failed"
        show(Progress(search, trials, 4.0, None))
    best = "best ndcg@20 0.2500 (trial 00000, epoch 3)"
    assert capfd.readouterr().err.splitlines() == [
        f"2/3 trials: 1 running, 1 finished  {best}  about 1 min 30 s left",
        f"2/3 trials: 1 finished, 1 failed  {best}",
    ]
