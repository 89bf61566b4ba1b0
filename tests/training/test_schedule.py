"""Learning rates, against torch's schedulers."""

from __future__ import annotations

import pytest
import torch
from torch.optim import lr_scheduler

from adar_ray.config import OptimizerConfig
from adar_ray.training.schedule import learning_rate

STEPS, WARMUP = 40, 8


def theirs(schedule: str, optimizer: torch.optim.Optimizer, steps: int) -> lr_scheduler.LRScheduler:
    if schedule == "cosine":
        return lr_scheduler.CosineAnnealingLR(optimizer, steps)
    return lr_scheduler.LinearLR(optimizer, 1.0, 1.0 if schedule == "constant" else 0.0, steps)


@pytest.mark.parametrize("schedule", ["constant", "linear", "cosine"])
@pytest.mark.parametrize("warmup", [0, WARMUP])
def test_a_step_has_the_learning_rate_that_torch_gives_it(schedule: str, warmup: int) -> None:
    config = OptimizerConfig(lr=0.03, schedule=schedule, warmup=warmup / STEPS)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.03)
    after = theirs(schedule, optimizer, STEPS - warmup)
    if warmup:
        rise = lr_scheduler.LinearLR(optimizer, 1 / warmup, 1.0, warmup - 1)
        after = lr_scheduler.SequentialLR(optimizer, [rise, after], [warmup])
    for step in range(STEPS):
        assert learning_rate(config, step, STEPS) == pytest.approx(after.get_last_lr()[0], rel=1e-9)
        optimizer.step()
        after.step()


@pytest.mark.parametrize("schedule", ["constant", "linear", "cosine"])
def test_a_training_may_be_all_warm_up(schedule: str) -> None:
    config = OptimizerConfig(lr=0.5, schedule=schedule, warmup=1)
    assert [learning_rate(config, step, 5) for step in range(5)] == [0.1, 0.2, 0.3, 0.4, 0.5]


def test_by_default_every_step_has_the_same_learning_rate() -> None:
    config = OptimizerConfig(lr=0.1)
    assert {learning_rate(config, step, STEPS) for step in range(STEPS)} == {0.1}
