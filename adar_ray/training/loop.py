"""The training loop of one worker, in pure torch; many workers run it side by side.

Legend: B rows of the batch that this worker holds.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import torch
import torch.distributed as dist
from torch import nn

from adar_ray.config import Config, parse_metric
from adar_ray.data.dataset import Dataset
from adar_ray.data.order import Rows, batches, rows_per_batch
from adar_ray.errors import AdarError
from adar_ray.interactions import PADDING
from adar_ray.interactions.histories import Histories
from adar_ray.interactions.user_items import UserItems
from adar_ray.memory import keep_freed_memory
from adar_ray.ranking.tally import tally_users, tile_count
from adar_ray.training.build import build_loss, build_model, build_optimizers, build_samplers
from adar_ray.training.records import EpochRecord, EpochTime, SamplerStatistics, TrainingState
from adar_ray.training.run import Run
from adar_ray.training.step import StepStatistics, TrainingStep

VALIDATION_KS = (10, 20)

Stripes = Callable[[int], Iterable[Rows]]
OnEpoch = Callable[[EpochRecord], None]
OnStep = Callable[[int, int, int], None]


@dataclass(frozen=True)
class Worker:
    """Which of how many workers this is, and where it computes."""

    rank: int = 0
    size: int = 1
    device: str = "cpu"

    def all_reduce(self, tensor: torch.Tensor) -> torch.Tensor:
        """The elementwise sum over all workers."""
        if self.size > 1:
            on_device = tensor.to(self.device)
            dist.all_reduce(on_device)
            return on_device.to(tensor.device)
        return tensor


@dataclass(frozen=True)
class TrainingData:
    """What a worker trains on.

    Attributes:
        dataset: where it all comes from.
        shard_rows: rows in each training shard: interactions, or sequence rows for a sequential model.
        stripes: epoch -> this worker's stripes of that epoch's shards, in order (see `data.order`).
            Called for one epoch after the other.
        observed: all training interactions.
        valid: interactions that decide which epoch is best; may be empty.
        history: of training interactions, by which a sequential model is validated; else None.
    """

    dataset: Dataset
    shard_rows: list[int]
    stripes: Stripes
    observed: UserItems
    valid: UserItems
    history: Histories | None


def fit(
    config: Config,
    data: TrainingData,
    run: Run,
    worker: Worker = Worker(),
    on_epoch: OnEpoch = lambda record: None,
    on_step: OnStep = lambda epoch, step, steps: None,
) -> None:
    """Trains from the run's last checkpoint, or from the start, to the end.

    Writes an epoch's metrics, then its checkpoint; worker 0 alone writes.

    Args:
        on_epoch: called on every worker after each epoch with the line of `metrics.jsonl`.
        on_step: called on worker 0 with epoch, step and steps an epoch.

    Raises:
        AdarError: the loss is no longer a number.
    """
    torch.set_num_threads(config.train.threads)
    keep_freed_memory()
    torch.manual_seed(config.train.seed)
    device = torch.device(worker.device)
    observed, valid = data.observed.to(device), data.valid.to(device)
    history = data.history and data.history.to(device)
    model = build_model(config, observed, data.dataset).to(device)
    samplers = build_samplers(config, model, observed, data.dataset).to(device)
    optimizers = build_optimizers(config, model, samplers)
    state = _restore(run, config, model, samplers, optimizers)
    loss = build_loss(config, data.dataset)
    step_module = TrainingStep(config, model, loss, samplers, observed, data.dataset.sequences["stride"])
    # Every worker has built the same model from the same seed: there is nothing to broadcast.
    parallel = (
        nn.parallel.DistributedDataParallel(step_module, broadcast_buffers=False, init_sync=False)
        if worker.size > 1
        else step_module
    )
    if worker.rank == 0:  # lines past the checkpoint are of an epoch that will be run again
        run.write_epochs([record for record in run.epochs() if record.epoch <= state.epoch])

    while state.epoch < config.train.epochs and not _is_out_of_patience(state, config, valid):
        state.epoch += 1
        started = time.perf_counter()
        report_step = on_step if worker.rank == 0 else lambda epoch, step, steps: None
        losses, statistics = _train_epoch(
            config, data, parallel, optimizers, worker, state.epoch, report_step
        )
        trained = time.perf_counter()
        figures = _validate(config, model, observed, valid, history, worker) if len(valid) else None
        seconds = EpochTime(
            train_seconds=trained - started,
            valid_seconds=time.perf_counter() - trained,
            interactions_per_second=len(observed) / (trained - started),
        )
        value = float(state.epoch) if figures is None else figures[config.train.metric]
        is_better = value > state.best_value
        if is_better:
            state.best_epoch, state.best_value = state.epoch, value
        record = EpochRecord(
            epoch=state.epoch,
            **losses,
            sampler=statistics,
            valid=figures,
            time=seconds,
            best_epoch=state.best_epoch,
        )
        if worker.rank == 0:
            _save_epoch(run, state, is_better, record, model, samplers, optimizers)
        on_epoch(record)


def _is_out_of_patience(state: TrainingState, config: Config, valid: UserItems) -> bool:
    return len(valid) > 0 and state.epoch - state.best_epoch >= config.train.patience


def _train_epoch(
    config: Config,
    data: TrainingData,
    step_module: nn.Module,
    optimizers: list[torch.optim.Optimizer],
    worker: Worker,
    epoch: int,
    on_step: OnStep,
) -> tuple[dict[str, float], SamplerStatistics]:
    """One pass over the rows; returns the epoch's losses and sampler statistics."""
    seed, batch_size = config.train.seed, config.train.batch_size
    # Whatever a model draws, such as dropout, follows from this: no generator state to save.
    torch.manual_seed(
        int.from_bytes(hashlib.sha256(repr((seed, epoch, worker.rank)).encode()).digest()[:7], "big")
    )
    rows = rows_per_batch(data.shard_rows, batch_size, seed, epoch, worker.size)
    total = torch.zeros(StepStatistics.SIZE, dtype=torch.float64, device=worker.device)
    step_module.train()
    stripes = data.stripes(epoch)
    for step, (user, item) in enumerate(batches(stripes, batch_size // worker.size)):
        position = np.flatnonzero(user != PADDING)
        user_B, item, row_B = (
            torch.from_numpy(array.astype(np.int64)).to(worker.device)
            for array in (user[position], item[position], position * worker.size + worker.rank)
        )
        loss, statistics = step_module(user_B, item, row_B, (seed, epoch, step))
        for optimizer in optimizers:
            optimizer.zero_grad(set_to_none=True)
        # Workers' gradients are averaged, and hold unequally many rows where slots are empty: together
        # this makes the gradient of the mean over the whole batch.
        (loss * (worker.size / max(int(rows[step]), 1))).backward()
        for optimizer in optimizers:
            optimizer.step()
        total += statistics
        on_step(epoch, step + 1, len(rows))
    losses, sampler = StepStatistics.summary(worker.all_reduce(total))
    if not np.isfinite(losses["loss"] + losses["penalty"]):
        raise AdarError(
            f"epoch {epoch}: the loss is {losses['loss']} and training cannot go on; "
            "lower optimizer.lr, or raise loss.temperature"
        )
    return losses, SamplerStatistics.model_validate(sampler)


def _validate(
    config: Config,
    model: nn.Module,
    observed: UserItems,
    valid: UserItems,
    history: Histories | None,
    worker: Worker,
) -> dict[str, float]:
    """Validation metrics over all users, each worker ranking its share of them."""
    ks = sorted({*VALIDATION_KS, parse_metric(config.train.metric)[1]})
    model.eval()
    tiles = range(worker.rank, tile_count(valid), worker.size)
    tally = tally_users(model, observed, valid, ks, tiles, worker.device, history)
    for tensor in tally.tensors():
        tensor.copy_(worker.all_reduce(tensor))
    return tally.metrics(observed.item_counts().cpu())


def _save_epoch(
    run: Run,
    state: TrainingState,
    is_better: bool,
    record: EpochRecord,
    model: nn.Module,
    samplers: nn.ModuleList,
    optimizers: list[torch.optim.Optimizer],
) -> None:
    if is_better:
        run.save_best(model.state_dict())
    run.write_epochs([*run.epochs(), record])
    run.save_checkpoint(
        {
            "state": vars(state),
            "model": model.state_dict(),
            "samplers": samplers.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in optimizers],
        }
    )


def _restore(
    run: Run,
    config: Config,
    model: nn.Module,
    samplers: nn.ModuleList,
    optimizers: list[torch.optim.Optimizer],
) -> TrainingState:
    checkpoint = run.load_checkpoint()
    if checkpoint is None:
        return TrainingState()
    model.load_state_dict(checkpoint["model"])
    samplers.load_state_dict(checkpoint["samplers"])
    for optimizer, saved in zip(optimizers, checkpoint["optimizers"], strict=True):
        optimizer.load_state_dict(saved)
        for group in optimizer.param_groups:  # which a search may have changed since
            group["lr"] = config.optimizer.lr
    return TrainingState(**checkpoint["state"])
