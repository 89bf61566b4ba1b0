"""Trials that differ only in numbers, trained side by side in one process, against one at a time.

    python benchmarks/tuning/stacked.py --ml-100k path/to/ml-100k --phone path/to/phone --work scratch/

MF with ADAR and BPR on one thread; trials differ in the score-aware function, learning rate and L2, and have
their batches and random numbers in common. Three ways to train a stack of them:

in turn: the project's own step, one trial after the other on each batch; random numbers and seen items are
    looked up for the first and kept for the others.
batched: the tables stacked, the batch looked up once, every sum over the stack of trials.
vmap: the same function of one trial, under torch.func.

Ways take turns, in an order that changes, and are compared by processor time: other work on the machine hits
them alike. Validation costs a trial the same in every way.

Legend: S trials, B rows of the batch, K negatives a row, M candidates a negative, P items of the pool,
U users, I items, D dimensions; X is S, or nothing under vmap.
"""

from __future__ import annotations

import argparse
import copy
import functools
import json
import math
import random
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import numpy as np
import torch
from torch import nn
from torch.nn.functional import softplus

sys.path.insert(0, str(Path(__file__).parents[1]))
from environment import environment

from adar_ray import prepare
from adar_ray.adar.schedule import diffuse
from adar_ray.adar.transition import transition_angle
from adar_ray.config import Config, load_config
from adar_ray.data.dataset import Dataset
from adar_ray.data.order import batches, rows_per_batch
from adar_ray.interactions import PADDING
from adar_ray.rng import RowRng
from adar_ray.training import build
from adar_ray.training.build import TrainingStep, build_model, build_optimizers, build_samplers
from adar_ray.training.data_source import local_data
from adar_ray.training.loop import TrainingData, Worker, _train_epoch, _validate

STACKS = (1, 2, 4, 8, 16)
REPEATS = 3
EPOCHS = 10  # of the trials that are counted by the minute
COMPARED = 4  # trials whose weights are compared with those of the same trials alone
_TINY = 1e-6


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--ml-100k", type=Path, required=True, help="MovieLens 100K as published")
    parser.add_argument("--phone", type=Path, required=True, help="folder with train.txt and test.txt")
    parser.add_argument("--work", type=Path, required=True, help="where the datasets are kept")
    parser.add_argument("--stacks", type=int, nargs="+", default=STACKS, help="trials in a stack")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    content = {
        "what": "MF, ADAR, BPR, batches of 2048, one thread: trials in one process against one at a time, "
        f"by processor time; median of {REPEATS} epochs, ratios as minimum, median, maximum; "
        f"a trial is counted as {EPOCHS} epochs",
    }
    for name, source, how in (
        ("ml-100k", arguments.ml_100k, {"split": "ratio"}),
        ("phone", arguments.phone, {"split": "given", "valid_fraction": 0.1}),
    ):
        data = arguments.work / name
        if not data.exists():
            prepare(source, data, **how)
        content[name] = _measure(Dataset.open(data), arguments.stacks)
    content |= {
        "command": "python benchmarks/tuning/stacked.py --ml-100k ml-100k --phone phone --work scratch",
        **environment(),
    }
    results = Path(__file__).parents[1] / "results" / "tuning_stacked.json"
    results.write_text(json.dumps(content, indent=1) + "\n")
    print(json.dumps(content, indent=1))


def configurations(trials: int) -> list[Config]:
    """Trials as a search over these parameters would ask for them; every fourth with gamma = 1."""
    chance = random.Random(0)
    return [
        load_config(
            values={
                "adar": {
                    "beta": chance.uniform(0.5, 0.95),
                    "gamma": 1.0 if trial % 4 == 3 else chance.uniform(-1, 1),
                    "phi_min": chance.uniform(0, 0.3),
                    "hidden": 0,  # the stack knows no lower M
                },
                "optimizer": {"lr": 10 ** chance.uniform(-3.5, -2)},
                "loss": {"l2": 10 ** chance.uniform(-5, -1.5)},
            }
        )
        for trial in range(trials)
    ]


# One at a time.


class Alone:
    """Trials by the training loop, one after the other."""

    def __init__(self, dataset: Dataset, data: TrainingData, configs: list[Config]) -> None:
        self.data, self.configs = data, configs
        self.steps = [_step(dataset, data, config) for config in configs]
        self.optimizers = [
            build_optimizers(config, step.model, step.samplers)
            for config, step in zip(configs, self.steps, strict=True)
        ]

    @property
    def models(self) -> list[nn.Module]:
        return [step.model for step in self.steps]

    def epoch(self, epoch: int) -> list[float]:
        """Trains an epoch; the trials' losses."""
        return [
            _train_epoch(config, self.data, step, optimizers, Worker(), epoch, lambda *step: None)["loss"]
            for config, step, optimizers in zip(self.configs, self.steps, self.optimizers, strict=True)
        ]


def _step(dataset: Dataset, data: TrainingData, config: Config) -> TrainingStep:
    torch.manual_seed(config.train.seed)
    model = build_model(config, data.observed, dataset)
    samplers = build_samplers(config, model, data.observed)
    return TrainingStep(config, model, samplers, data.observed)


# Side by side.


@dataclass(frozen=True)
class Batch:
    """What all trials of a stack have in common."""

    user_B: torch.Tensor
    positive_B: torch.Tensor
    row_B: torch.Tensor
    key: tuple[int, int, int]
    scale: float


def _batches(config: Config, data: TrainingData, epoch: int) -> Iterator[Batch]:
    seed, size = config.train.seed, config.train.batch_size
    rows = rows_per_batch(data.shard_rows, size, seed, epoch, 1)
    for step, (user, item) in enumerate(batches(data.stripes(epoch), size)):
        row = np.flatnonzero(user != PADDING)
        user_B, item_B, row_B = (
            torch.from_numpy(array.astype(np.int64)) for array in (user[row], item[row], row)
        )
        yield Batch(user_B, item_B, row_B, (seed, epoch, step), 1 / max(int(rows[step]), 1))


class _OnceDraws(RowRng):
    """Draws that are asked again for what they have drawn."""

    integers = functools.lru_cache(maxsize=2)(RowRng.integers)
    shared_integers = functools.lru_cache(maxsize=2)(RowRng.shared_integers)


class InTurn(Alone):
    """Each batch by every trial's own step, with random numbers and seen items of the first."""

    def __init__(self, dataset: Dataset, data: TrainingData, configs: list[Config]) -> None:
        super().__init__(dataset, data, configs)
        observed = copy.copy(data.observed)
        observed.contains_shared = functools.lru_cache(maxsize=1)(data.observed.contains_shared)
        for step in self.steps:
            step.observed = observed

    def epoch(self, epoch: int) -> list[float]:
        total = [0.0] * len(self.steps)
        with mock.patch.object(build, "Draws", functools.lru_cache(maxsize=1)(_OnceDraws)):
            for batch in _batches(self.configs[0], self.data, epoch):
                for trial, (step, optimizers) in enumerate(zip(self.steps, self.optimizers, strict=True)):
                    loss, of_step = step(batch.user_B, batch.positive_B, batch.row_B, batch.key)
                    for optimizer in optimizers:
                        optimizer.zero_grad(set_to_none=True)
                    (loss * batch.scale).backward()
                    for optimizer in optimizers:
                        optimizer.step()
                    total[trial] += of_step
        return [_mean_loss(of_trial) for of_trial in total]


def _mean_loss(total: torch.Tensor) -> float:
    return build.StepStatistics.summary(total)[0]["loss"]


class Batched:
    """One stack of tables."""

    def __init__(self, dataset: Dataset, data: TrainingData, configs: list[Config]) -> None:
        self.data, self.config = data, configs[0]
        step = _step(dataset, data, self.config)
        self.schedule = step.samplers[0].schedule
        self.tables = [  # users and items, [S, U or I, D]
            table.weight.detach().repeat(len(configs), 1, 1) for table in (step.model.user, step.model.item)
        ]
        self.gradients = [torch.zeros_like(table) for table in self.tables]
        self.models, groups = [], []
        for trial, config in enumerate(configs):  # which see their part of the stack
            model = copy.deepcopy(step.model)
            model.user.weight, model.item.weight = (nn.Parameter(table[trial]) for table in self.tables)
            for parameter, gradient in zip(model.parameters(), self.gradients, strict=True):
                parameter.grad = gradient[trial]
            self.models.append(model)
            groups.append({"params": list(model.parameters()), "lr": config.optimizer.lr})
        self.optimizer = torch.optim.Adam(groups, fused=True)
        self.numbers = {
            key: torch.tensor([getattr(getattr(config, section), key) for config in configs])[:, None, None]
            for section, key in (("adar", "beta"), ("adar", "gamma"), ("adar", "phi_min"), ("loss", "l2"))
        }
        self.r_mean = torch.zeros(len(configs), 1, 1)

    def epoch(self, epoch: int) -> list[float]:
        total = [0.0] * len(self.models)
        for batch in _batches(self.config, self.data, epoch):
            candidate_BC, bias_BC, pool_P = self._candidates(batch)
            index = (batch.user_B, torch.cat([batch.positive_B, pool_P]))
            vectors = [
                table.index_select(1, at).requires_grad_()
                for table, at in zip(self.tables, index, strict=True)
            ]
            loss = functools.partial(
                trial_loss,
                adar=self.config.adar,
                schedule=self.schedule,
                candidate_BC=candidate_BC,
                bias_BC=bias_BC,
            )
            gradients, self.r_mean, sums = self._gradients(loss, vectors)
            with torch.no_grad():
                for gradient, at, of_rows in zip(self.gradients, index, gradients, strict=True):
                    gradient.zero_().index_add_(1, at, of_rows, alpha=batch.scale)
            self.optimizer.step()
            for trial, parts in enumerate(zip(*sums, strict=True)):
                total[trial] += TrainingStep._statistics(*parts)
        return [_mean_loss(of_trial) for of_trial in total]

    def _candidates(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Positions in the pool `[B, K M]`, minus infinity where such an item is seen, and the pool."""
        adar = self.config.adar
        rng = RowRng(batch.row_B, *batch.key, 0)
        pool_P = rng.shared_integers(self.data.observed.n_items, adar.pool)
        candidate_BC = rng.integers(adar.pool, adar.K * adar.M, stream=1)
        seen_BC = self.data.observed.contains_shared(batch.user_B, pool_P).gather(1, candidate_BC)
        return candidate_BC, torch.where(seen_BC, -torch.inf, 0.0), pool_P

    def _gradients(self, loss: Callable, vectors: list[torch.Tensor]) -> tuple:
        value, (r_mean, sums) = loss(*vectors, self.numbers, self.r_mean)
        return torch.autograd.grad(value, vectors), r_mean, sums


class Vmap(Batched):
    """The function of one trial over the stack, by torch.func."""

    def _gradients(self, loss: Callable, vectors: list[torch.Tensor]) -> tuple:
        of_trial = torch.func.grad(loss, argnums=(0, 1), has_aux=True)
        gradients, (r_mean, sums) = torch.func.vmap(of_trial)(
            *(vector.detach() for vector in vectors), self.numbers, self.r_mean
        )
        return gradients, r_mean, sums


def trial_loss(user_XBD, item_XED, numbers, r_mean_X11, *, adar, schedule, candidate_BC, bias_BC):
    """The sum of a batch's losses of one trial or of a stack of trials, and what `_statistics` asks for.

    What the sampler, the loss and the step do, for dot products: item vectors are the B positives' and the
    P pool's; gamma is a tensor.
    """
    rows, choices = user_XBD.shape[-2], (adar.K, adar.M)
    positive_XBD, pool_XPD = item_XED[..., :rows, :], item_XED[..., rows:, :]
    positive_XB1 = (user_XBD * positive_XBD).sum(-1, keepdim=True)
    with torch.no_grad():
        score_XBP = user_XBD @ pool_XPD.mT
        mean_XB1 = score_XBP.mean(-1, keepdim=True)
        deviation_XB1 = (score_XBP - mean_XB1).square().mean(-1, keepdim=True).sqrt().clamp_min(_TINY)
        candidate_XBC = candidate_BC.expand(*score_XBP.shape[:-2], -1, -1)
        score_XBC = score_XBP.gather(-1, candidate_XBC) + bias_BC
        best_XBK, at_XBK = score_XBC.unflatten(-1, choices).max(-1)
        noise_XBK = candidate_XBC.unflatten(-1, choices).gather(-1, at_XBK[..., None])[..., 0]
        mask_XBK = best_XBK > -torch.inf
        r_XB1 = (positive_XB1 - mean_XB1) / deviation_XB1
        b_XBK = (score_XBP.gather(-1, noise_XBK) - mean_XB1) / deviation_XB1
        batch_mean = r_XB1.mean((-2, -1), keepdim=True)
        r_mean_X11 = torch.where(r_mean_X11 == 0, batch_mean, r_mean_X11.lerp(batch_mean, 1 - 0.99))
        level = r_mean_X11.clamp_min(_TINY)
        share_XB1 = numbers["beta"] * level * (r_XB1.clamp_min(_TINY) / level) ** numbers["gamma"]
        share_XB1 = torch.where(numbers["gamma"] == 1, numbers["beta"] * r_XB1, share_XB1)
        z_XB1 = torch.minimum(r_XB1, share_XB1)
        phi_XBK = transition_angle(r_XB1.expand_as(b_XBK), b_XBK, z_XB1.expand_as(b_XBK))
        t_XBK = schedule.timestep(torch.maximum(phi_XBK, numbers["phi_min"] * (math.pi / 2)))
        phi_XBK = schedule.angle(t_XBK).to(phi_XBK.dtype)
    # The trials' pools lie one behind the other.
    pools = torch.arange(math.prod(noise_XBK.shape[:-2])).view(*noise_XBK.shape[:-2], 1, 1) * adar.pool
    flat = pool_XPD.reshape(-1, pool_XPD.shape[-1]).index_select(0, (noise_XBK + pools).flatten())
    mean_X11D = pool_XPD.detach().mean(-2)[..., None, None, :]
    vector_XBKD = diffuse(
        positive_XBD.detach()[..., None, :], flat.unflatten(0, noise_XBK.shape), mean_X11D, phi_XBK
    )
    negative_XBK = (user_XBD[..., None, :] * vector_XBKD).sum(-1)
    share_XBK = mask_XBK * (1.0 / mask_XBK.sum(-1, keepdim=True).clamp_min(1))
    loss_XB = (share_XBK * softplus(negative_XBK - positive_XB1)).sum(-1)
    squares_XB = 0.5 * user_XBD.square().sum(-1) + 0.5 * positive_XBD.square().sum(-1)
    penalty_XB = numbers["l2"][..., 0] * squares_XB
    hardness_XBK = torch.sigmoid(negative_XBK - positive_XB1).detach() * mask_XBK
    sums = (loss_XB.detach(), penalty_XB.detach(), hardness_XBK, mask_XBK, t_XBK / schedule.T)
    return (loss_XB + penalty_XB).sum(), (r_mean_X11, sums)


WAYS = {"in turn": InTurn, "batched": Batched, "vmap": Vmap}


# What is measured.


def _measure(dataset: Dataset, stacks: list[int]) -> dict:
    configs = configurations(max(*stacks, COMPARED))
    data = local_data(configs[0], dataset, Worker())
    return {
        "largest difference after an epoch": _differences(dataset, data, configs[:COMPARED]),
        **{f"stack of {size}": _compare(dataset, data, configs[:size]) for size in stacks},
    }


def _differences(dataset: Dataset, data: TrainingData, configs: list[Config]) -> dict:
    """Of each trial's weights, and of the losses, from those of the same trial alone."""
    alone = Alone(dataset, data, configs)
    losses = alone.epoch(1)
    differences = {}
    for name, way in WAYS.items():
        stack = way(dataset, data, configs)
        of_losses = [abs(a - b) for a, b in zip(stack.epoch(1), losses, strict=True)]
        differences[name] = {
            "weights, by trial": [
                max(
                    float((a - b).abs().max())
                    for a, b in zip(model.state_dict().values(), other.state_dict().values(), strict=True)
                )
                for model, other in zip(stack.models, alone.models, strict=True)
            ],
            "loss": max(of_losses),
        }
    return differences


def _compare(dataset: Dataset, data: TrainingData, configs: list[Config]) -> dict:
    """Seconds of a trial's epoch in each way; one at a time, two trials stand for all."""
    runs = {"one at a time": Alone(dataset, data, configs[:2])}
    runs |= {name: way(dataset, data, configs) for name, way in WAYS.items()}
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in runs}
    validation = []
    for epoch in range(1, REPEATS + 1):
        for name in runs if epoch % 2 else reversed(runs):
            run = runs[name]
            processor, wall = _timed(run.epoch, epoch)
            seconds[name].append((processor / len(run.models), wall / len(run.models)))
        model = runs["one at a time"].models[0]
        validation.append(_timed(_validate, configs[0], model, data.observed, data.valid, None, Worker())[0])
        print(dataset.folder, len(configs), {n: s[-1] for n, s in seconds.items()}, file=sys.stderr)
    alone, of_valid = seconds["one at a time"], statistics.median(validation)
    return {
        name: {
            "processor seconds an epoch": _rounded(statistics.median(of_way for of_way, _ in times)),
            "trials a minute": _trials_a_minute(times, 0.0),
            "trials a minute, validation included": _trials_a_minute(times, of_valid),
            **(
                {
                    "times as fast": _spread(a / b for (a, _), (b, _) in zip(alone, times, strict=True)),
                    "times as fast, validation included": _spread(
                        (a + of_valid) / (b + of_valid) for (a, _), (b, _) in zip(alone, times, strict=True)
                    ),
                    "times as fast by the clock": _spread(
                        a / b for (_, a), (_, b) in zip(alone, times, strict=True)
                    ),
                }
                if times is not alone
                else {}
            ),
        }
        for name, times in seconds.items()
    }


def _timed(work: Callable, *arguments: object) -> tuple[float, float]:
    """Processor time and time by the clock, in seconds."""
    processor, wall = time.process_time(), time.perf_counter()
    work(*arguments)
    return time.process_time() - processor, time.perf_counter() - wall


def _trials_a_minute(times: list[tuple[float, float]], of_valid: float) -> float:
    return _rounded(60 / EPOCHS / (statistics.median(of_way for of_way, _ in times) + of_valid))


def _spread(ratios) -> list[float]:
    ratios = sorted(ratios)
    return [_rounded(figure) for figure in (ratios[0], statistics.median(ratios), ratios[-1])]


def _rounded(figure: float) -> float:
    return float(f"{figure:.3g}")


if __name__ == "__main__":
    main()
