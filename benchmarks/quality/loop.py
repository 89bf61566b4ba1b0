"""The library's training step in a plain torch loop, without Ray, to study samplers.

Legend: B rows of the batch, E (user, item) pairs.
"""

from __future__ import annotations

import copy
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from adar_ray.config import Config
from adar_ray.data.dataset import Dataset
from adar_ray.inference.model import user_items
from adar_ray.interactions.user_items import UserItems
from adar_ray.models.protocol import BaseModel
from adar_ray.ranking.tally import Tally, rank_users
from adar_ray.training.build import build_loss, build_model, build_optimizer, build_samplers
from adar_ray.training.optimizer import Adam
from adar_ray.training.step import StepStatistics, TrainingStep

METRICS = ("recall@20", "ndcg@20")


@dataclass(frozen=True)
class Fitted:
    """The best epoch on validation.

    Attributes:
        figures: its metrics, its number, its mean timestep, and the median seconds of all epochs.
        model: the model of that epoch.
        samplers: the samplers of that epoch.
    """

    figures: dict[str, float]
    model: BaseModel
    samplers: nn.ModuleList


def fit(config: Config, dataset: Dataset, sampler: Callable[[], nn.Module] | None = None) -> Fitted:
    """Train until validation has not improved for `train.patience` epochs.

    Args:
        sampler: makes the sampler, in place of the configuration's.
    """
    seed = config.train.seed
    torch.manual_seed(seed)
    observed, valid = user_items(dataset, "train"), user_items(dataset, "valid")
    model = build_model(config, observed, dataset)
    samplers = nn.ModuleList([sampler()]) if sampler else build_samplers(config, model, observed, dataset)
    optimizer = build_optimizer(config, model, samplers)
    popularity_I = observed.item_counts()
    step = TrainingStep(
        config, model, build_loss(config, dataset.n_items, dataset), samplers, observed, popularity_I
    )
    best, kept, seconds = {"ndcg@20": -1.0, "epoch": 0}, (model, samplers), []
    for epoch in range(1, config.train.epochs + 1):
        started = time.perf_counter()
        total = _train_epoch(step, optimizer, observed, config.train.batch_size, (seed, epoch))
        seconds.append(time.perf_counter() - started)
        model.eval()
        metrics = (
            Tally(valid.n_items, [20]).add_all(rank_users(model, observed, valid, [20])).metrics(popularity_I)
        )
        if metrics["ndcg@20"] > best["ndcg@20"]:
            timestep = StepStatistics.summary(total)[1].get("timestep", 1.0)
            best = {name: metrics[name] for name in METRICS} | {"timestep": timestep, "epoch": epoch}
            kept = copy.deepcopy((model, samplers))
        if epoch - best["epoch"] >= config.train.patience:
            break
    return Fitted(best | {"epoch_seconds": statistics.median(seconds)}, *kept)


def _train_epoch(
    step: TrainingStep,
    optimizer: Adam,
    observed: UserItems,
    batch_size: int,
    key: tuple[int, int],
) -> torch.Tensor:
    user_E, item_E = observed.pairs()
    step.train()
    total = torch.zeros(())
    for number, row_B in enumerate(torch.randperm(len(user_E)).split(batch_size)):
        at_B = torch.arange(len(row_B))
        loss, step_statistics = step(user_E[row_B], item_E[row_B], at_B, (*key, number))
        optimizer.zero_grad()
        (loss / len(row_B)).backward()
        optimizer.step()
        total = total + step_statistics
    return total
