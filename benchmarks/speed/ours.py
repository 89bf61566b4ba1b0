"""Our side of the speed benchmarks, and the one place where they touch internals of the library.

Legend: B rows of a batch, E interactions.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
import torch
from torch import nn

from adar_ray.component import ModelInputs
from adar_ray.config import Config, load_config
from adar_ray.data.dataset import SPLITS, Dataset
from adar_ray.interactions.user_items import UserItems
from adar_ray.registry import MODELS
from adar_ray.training.build import build_loss, build_optimizer, build_samplers
from adar_ray.training.records import EpochRecord
from adar_ray.training.step import TrainingStep

COMMAND = (sys.executable, "-c", "from adar_ray.cli.main import main; main()")
"""`adar-ray`, wherever its script is."""
MF = ("model.name=mf", "model.embedding_dim=64", "loss.name=bpr")
"""MF with BPR."""
UNIFORM = ("sampler.name=uniform", "uniform.negatives=1")


class Steps:
    """Training steps on tensors in memory: no Ray, no dataset on disk.

    Args:
        settings: `section.key=value`.
        observed: the training interactions, on the device.
        history_length: for sequential models, which train on every position.
    """

    def __init__(
        self,
        settings: Iterable[str],
        observed: UserItems,
        device: str,
        history_length: int = 0,
    ) -> None:
        torch.manual_seed(0)
        self.config: Config = load_config(settings=settings)
        name = self.config.model.name
        inputs = ModelInputs(
            observed=observed,
            embedding_dim=self.config.model.embedding_dim,
            cosine=self.config.model.cosine,
            history_length=history_length,
        )
        self.model: nn.Module = MODELS[name].build(inputs, self.config.settings_of(name)).to(device)
        samplers = build_samplers(self.config, self.model, observed).to(device)
        self.optimizer = build_optimizer(self.config, self.model, samplers)
        popularity_I = observed.item_counts()
        self.loss = TrainingStep(
            self.config,
            self.model,
            build_loss(self.config, observed.n_items),
            samplers,
            observed,
            popularity_I,
            history_length,
        )
        self.number = 0

    def __call__(self, user_B: torch.Tensor, item: torch.Tensor, row_B: torch.Tensor) -> None:
        """One step on users and their positives `[B]`, or sequence rows `[B, L + 1]`."""
        self.number += 1
        loss, _ = self.loss(user_B, item, row_B, (0, 1, self.number))
        self.descend(loss / len(user_B))

    def descend(self, loss: torch.Tensor) -> None:
        """Updates the weights by the gradient of a loss."""
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()


def epochs(
    dataset: Dataset,
    out: Path,
    settings: Iterable[str],
    count: int,
    between: Callable[[], None] = lambda: None,
    workers: int = 0,
) -> list[float]:
    """Seconds of training in each epoch: the first, which warms up, and `count` more.

    Args:
        out: folder of the run; a run that is there is replaced.
        between: called after each epoch but the first, for the other sides to take their turn.
    """
    from adar_ray import train  # late: it imports more than the steps on a GPU need

    fixed = [f"train.epochs={count + 1}", "train.patience=1000000", "train.valid_users=1"]
    config = load_config(settings=[*settings, *fixed])

    def on_epoch(record: EpochRecord) -> None:
        if record.epoch > 1:
            between()

    run = train(dataset, out, config, workers=workers, replace=True, on_epoch=on_epoch)
    return [record.time.train_seconds for record in run.epochs()]


def seconds_of_epochs(run: Path) -> float:
    """Seconds that the epochs of a run took, validation included."""
    from adar_ray.training.run import Run

    times = [record.time for record in Run.open(run).epochs()]
    return sum(time.train_seconds + time.valid_seconds for time in times)


def write_arrays(dataset: Dataset, folder: Path) -> Path:
    """Writes the splits, users and items `[E, 2]`, and the number of both, for other libraries to read."""
    if not (folder / "sizes.npy").exists():
        folder.mkdir(parents=True, exist_ok=True)
        for split in SPLITS:
            np.save(folder / f"{split}.npy", np.column_stack(dataset.read_split(split)))
        np.save(folder / "sizes.npy", np.array([dataset.n_users, dataset.n_items]))
    return folder.resolve()


def synthetic_pairs(
    users: int, items: int, interactions: int, device: str = "cpu"
) -> tuple[torch.Tensor, torch.Tensor]:
    """Random `(user_E, item_E)`; a third of the items has most of the interactions. Pairs may repeat."""
    generator = torch.Generator(device).manual_seed(0)
    user_E = torch.randint(users, (interactions,), generator=generator, device=device)
    share_E = torch.rand(interactions, generator=generator, device=device, dtype=torch.float64)
    return user_E, (share_E.pow(3) * items).long().clamp_max(items - 1)


def pair_batches(
    user_E: torch.Tensor, item_E: torch.Tensor, batch_size: int
) -> Iterator[tuple[torch.Tensor, ...]]:
    """Batches `(user_B, item_B, row_B)` without end."""
    row_B = torch.arange(batch_size)  # random numbers are made on the CPU
    while True:
        order = torch.randperm(len(user_E), device=user_E.device)
        for start in range(0, len(order) - batch_size + 1, batch_size):
            at_B = order[start : start + batch_size]
            yield user_E[at_B], item_E[at_B], row_B
