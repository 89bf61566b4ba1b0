"""The training loop of one worker, in pure torch. Workers run it side by side.

Legend: B rows of the batch that this worker holds.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable

import numpy as np
import torch
from torch import nn

from adar_ray.baselines.popularity import Popularity
from adar_ray.config import parse_metric
from adar_ray.data.order import batches, steps_per_epoch
from adar_ray.distributed import memory_shared
from adar_ray.errors import AdarError, TerminatedError
from adar_ray.interactions.histories import Histories
from adar_ray.interactions.user_items import UserItems
from adar_ray.models import BaseModel
from adar_ray.models.user_tables import user_tables
from adar_ray.process import environment_kept, random_states_kept, torch_threads
from adar_ray.ranking.own_metrics import OwnMetric
from adar_ray.ranking.tally import Tally, rank_users
from adar_ray.training.build import (
    build_loss,
    build_metric,
    build_model,
    build_optimizer,
    build_samplers,
)
from adar_ray.training.callbacks import Callbacks
from adar_ray.training.calls import Call, Calls
from adar_ray.training.loss_check import LossCheck
from adar_ray.training.optimizer import MOMENTS
from adar_ray.training.records import Cost, EpochRecord, EpochTime, SamplerStatistics, TrainingState
from adar_ray.training.run import METRICS, Run
from adar_ray.training.saver import Saver
from adar_ray.training.schedule import learning_rate
from adar_ray.training.step import StepStatistics, TrainingStep
from adar_ray.training.valid_users import of_some_users
from adar_ray.training.warm_start import load_initial_weights
from adar_ray.training.worker import TrainingData, Worker

VALIDATION_KS = (10, 20)

OnEpoch = Callable[[EpochRecord], None]
OnStep = Callable[[int, int, int], None]
ShouldStop = Callable[[], bool]


def fit(
    run: Run,
    data: TrainingData,
    worker: Worker = Worker(),
    on_epoch: OnEpoch = lambda record: None,
    on_step: OnStep = lambda epoch, step, steps: None,
    should_stop: ShouldStop = lambda: False,
) -> None:
    """Trains a run from its last checkpoint, or from the start, to the end.

    Leaves torch's threads and the global random states as they were.

    Args:
        on_epoch: called on every worker once an epoch is saved. A single worker calls it as soon as that is
            so, while the next epoch trains; several workers, who have to agree, once that has trained.
        on_step: called on worker 0 after each step.
        should_stop: whether to stop within a second or so, asked on every worker.

    Raises:
        TerminatedError: some worker should stop; all have saved what they had.
        AdarError: the loss or a weight is no longer a number, or a checkpoint could not be saved. The
            checkpoint before it is there.
    """
    with random_states_kept(), torch_threads(run.config.train.threads), memory_shared():
        torch.manual_seed(run.config.train.seed)
        with environment_kept():  # torch's first optimizer loads its compiler, which sets a variable
            loop = WorkerLoop(run, data, worker, on_epoch, on_step, should_stop)
        loop.fit()


def validation_ks(metric: str) -> list[int]:
    """The cutoffs of validation metrics, with that of the metric that decides."""
    return sorted({*VALIDATION_KS, parse_metric(metric)[1]})


class WorkerLoop:
    """The training loop of one worker.

    Builds the model, the samplers and the optimizers from torch's global random state, which must be the same
    on every worker, and restores the run's newest checkpoint.
    """

    def __init__(
        self,
        run: Run,
        data: TrainingData,
        worker: Worker,
        on_epoch: OnEpoch,
        on_step: OnStep,
        should_stop: ShouldStop,
    ) -> None:
        self.run, self.data, self.worker, self.config = run, data, worker, run.config
        self._on_epoch, self._on_step = on_epoch, on_step
        device, dataset = torch.device(worker.device), data.dataset
        valid, limit = data.valid, self.config.train.valid_users
        if limit:
            valid = of_some_users(valid, limit, data.users, data.begin, worker.all_reduce)
        self.observed, self.valid = data.observed.to(device), valid.to(device)
        self.left_out = self.observed  # of rankings
        if dataset.keeps_repeats:
            nothing = torch.empty(0, dtype=torch.int64)
            self.left_out = UserItems(nothing, nothing, dataset.n_users, dataset.n_items).to(device)
        self.history = data.history and data.history.to(device)
        self.own = {
            name: _for_users_from(data.begin, metric)
            for name, metric in build_metric(self.config.train.metric, dataset, self.config).items()
        }
        self.popularity_I = worker.all_reduce(self.observed.item_counts())
        # Every worker builds the same model from the same seed, but for its users: nothing to broadcast.
        self.model = build_model(self.config, self.observed, dataset, data.users).to(device)
        # The model has drawn as many random numbers as it has users.
        torch.manual_seed(_hash(self.config.train.seed, "samplers"))
        self.samplers = build_samplers(self.config, self.model, self.observed, dataset, data.users).to(device)
        self.optimizer = build_optimizer(self.config, self.model, self.samplers)
        self.state = self._restore()
        self.saver = Saver(run, worker.rank, worker.size)
        self.calls = Calls(self.config.checkpoints, worker, should_stop)
        self.loss_check = LossCheck(run, worker)
        self.step = TrainingStep(
            self.config,
            self.model,
            build_loss(self.config, dataset.n_items, dataset),
            self.samplers,
            self.observed,
            self.popularity_I,
            dataset.sequences.stride,
            data.weights and data.weights.to(device),
        )

    def fit(self) -> None:
        """Runs all remaining epochs, each of which is saved while the next one trains."""
        if self.worker.rank == 0:  # lines past the checkpoint belong to an epoch that runs again
            done = [record for record in self.run.epochs() if record.epoch <= self.state.epoch]
            if len(done) < self.state.epoch:
                raise AdarError(
                    f"{self.run.folder}: {METRICS} ends at epoch {len(done)}, the checkpoint is of epoch "
                    f"{self.state.epoch}; restore the file, or train again with --replace"
                )
            self.run.write_epochs(done)
        self.callbacks = Callbacks(self.run, self.worker.rank)
        with self.saver, self.callbacks:
            while self.state.epoch < self.config.train.epochs and not self._is_out_of_patience():
                self._run_epoch()
            self._tell_saved(waits=True)

    def _is_out_of_patience(self) -> bool:
        return self._validates() and self.state.epoch - self.state.best_epoch >= self.config.train.patience

    def _validates(self) -> bool:
        return self.data.dataset.rows("valid") > 0

    def _run_epoch(self) -> None:
        """Trains and validates one epoch, and begins to save it."""
        epoch, state = self.state.epoch + 1, self.state
        losses, statistics, train_seconds = self._train_epoch(epoch)
        self._check_weights(f"epoch {epoch}")
        trained = time.perf_counter()
        figures = self._validate() if self._validates() else None
        if figures is not None and state.popularity is None:
            state.popularity = self._figures(Popularity(self.popularity_I))
        seconds = EpochTime(
            train_seconds=train_seconds,
            valid_seconds=time.perf_counter() - trained,
            interactions_per_second=self.data.dataset.rows("train") / train_seconds,
        )
        value = float(epoch) if figures is None else figures[self.config.train.metric]
        if state.best_value is None or value > state.best_value:
            state.best_epoch, state.best_value = epoch, value
        record = EpochRecord(
            epoch=epoch,
            **losses,
            sampler=statistics,
            valid=figures,
            time=seconds,
            best_epoch=state.best_epoch,
            skipped=state.skipped or None,
        )
        state.epoch, state.step, state.skipped, state.train_seconds = epoch, 0, 0, 0.0
        state.cost = self._cost_with(seconds)
        self._save(record)

    def _cost_with(self, epoch: EpochTime) -> Cost:
        """What the run has cost with one more epoch."""
        train, cost = self.config.train, self.state.cost
        seconds = self.worker.size * (epoch.train_seconds + epoch.valid_seconds)
        gpus = 0.0 if self.worker.device == "cpu" else train.gpus
        return Cost(
            core_seconds=cost.core_seconds + seconds * train.threads,
            gpu_seconds=cost.gpu_seconds + seconds * gpus,
        )

    def _save(self, record: EpochRecord | None = None, sums: torch.Tensor | None = None) -> None:
        """Begins to save a checkpoint, once the one before it is saved."""
        self._tell_saved(waits=True)
        self.state.steps, self.state.dealt = self.optimizer.steps, sorted(self._dealt_names())
        self.saver.start(self.state, record, self._part(), [] if sums is None else sums.tolist())
        self.calls.saved()

    def _tell_saved(self, *, waits: bool) -> float:
        """Calls `on_epoch` if an epoch has been saved; returns how many seconds that took."""
        began = time.perf_counter()
        record = self.saver.saved(waits=waits)
        if record is not None:
            with random_states_kept():  # the next epoch is under way
                for tell in self.callbacks.on_epoch:
                    tell(record)
                self._on_epoch(record)  # may end the process
        return time.perf_counter() - began

    def _train_epoch(self, epoch: int) -> tuple[dict[str, float], SamplerStatistics, float]:
        """What is left of a pass over the rows; returns the epoch's losses and sampler statistics, and its
        seconds."""
        worker, state, started = self.worker, self.state, time.perf_counter() - self.state.train_seconds
        seed, batch_size = self.config.train.seed, self.config.train.batch_size
        rows = self.data.lane_rows
        steps = steps_per_epoch(int(rows.sum()), batch_size)
        total = self._sums_so_far()
        self.step.train()
        chunks, users = self.data.chunks(epoch), self.data.users
        is_sequential = self.data.history is not None
        row_shape = (self.data.dataset.sequences.length + 1,) if is_sequential else ()
        epoch_batches = batches(chunks, users.bounds, users.lane, rows, batch_size, state.step, row_shape)
        for step, batch in enumerate(epoch_batches, state.step):
            user_B, positive = (
                torch.from_numpy(array.astype(np.int64)).to(worker.device)
                for array in (batch.user - self.data.begin, batch.item)
            )
            row_B = torch.arange(batch.first, batch.first + len(user_B))
            # Everything that a model draws, such as dropout, follows from this: no generator state to save.
            self._seed_step(epoch, step)
            loss, statistics = self._backward((user_B, positive, row_B), (seed, epoch, step), batch.rows)
            state.step = step + 1
            if self.loss_check.passes((epoch, step + 1), loss, batch):
                place = (epoch - 1) * steps + step, self.config.train.epochs * steps
                self.optimizer.lr = learning_rate(self.config.optimizer, *place)
                self.optimizer.step()
                total += statistics
            else:
                state.skipped += 1
            if worker.rank == 0:
                self._on_step(epoch, step + 1, steps)
                for tell in self.callbacks.on_step:
                    tell(epoch, step + 1, steps, loss.detach() / max(len(user_B), 1))
            if worker.size == 1:  # others may be at another step
                started += self._tell_saved(waits=False)
            call = self.calls.after(step + 1)
            if call != Call.GO_ON and (call == Call.STOP or step + 1 < steps):
                began = time.perf_counter()
                state.train_seconds = began - started
                self._check_weights(f"epoch {epoch}, step {step + 1}")
                self._save(sums=total)
                if call == Call.STOP:
                    self._tell_saved(waits=True)
                    raise TerminatedError(
                        f"{self.run.folder}: terminated; saved at epoch {epoch}, step {step + 1}"
                    )
                started += time.perf_counter() - began
        self.loss_check.finish()
        started += self._tell_saved(waits=True)  # whatever becomes of this epoch, the one before is safe
        losses, summary = StepStatistics.summary(worker.all_reduce(total))
        if state.skipped == steps:
            raise AdarError(f"epoch {epoch}: the loss of every step is not a number; {LossCheck.ADVICE}")
        return losses, SamplerStatistics.model_validate(summary), time.perf_counter() - started

    def _backward(
        self, batch: tuple[torch.Tensor, ...], key: tuple[int, ...], rows: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Leaves the gradients of a batch to the optimizer; returns what the training step does.

        Args:
            batch, key: what the training step takes.
            rows: of the batches of all workers.
        """
        train, device = self.config.train, torch.device(self.worker.device).type
        loss = torch.zeros((), device=self.worker.device)
        statistics = loss.new_zeros(StepStatistics.SIZE, dtype=torch.float64)
        self.optimizer.zero_grad()
        for part in zip(*(column.tensor_split(train.accumulate) for column in batch), strict=True):
            with torch.autocast(device, torch.bfloat16, enabled=train.precision == "bfloat16"):
                part_loss, sums = self.step(*part, key)
            # Workers add up their gradients: this makes that of the mean over the whole batch.
            (part_loss / rows).backward()
            loss, statistics = loss + part_loss.detach(), statistics + sums
        return loss, statistics

    def _sums_so_far(self) -> torch.Tensor:
        """This worker's statistics of the steps of the epoch under way that are done."""
        sums, worker = self.state.sums, self.worker
        mine = torch.zeros(StepStatistics.SIZE, dtype=torch.float64)
        if self.state.step and len(sums) == worker.size:
            mine = torch.tensor(sums[worker.rank], dtype=torch.float64)
        elif self.state.step and worker.rank == 0:
            mine = torch.tensor(sums, dtype=torch.float64).sum(0)
        return mine.to(worker.device)

    def _seed_step(self, epoch: int, step: int) -> None:
        """Seeds the generator of this worker's device; `torch.manual_seed` would go through all devices."""
        seed = _hash(self.config.train.seed, epoch, step, self.worker.rank)
        if self.worker.device != "cpu":
            torch.cuda.manual_seed(seed)
        torch.default_generator.manual_seed(seed)

    def _check_weights(self, after: str) -> None:
        """Refuses weights that are not numbers: a step may spoil some that no loss has been computed from."""
        parameters = (*self.model.parameters(), *self.samplers.parameters())
        sums = [weight.detach().sum(dtype=torch.float64) for weight in parameters if weight.requires_grad]
        is_spoilt = not all(map(torch.isfinite, sums))
        if self.worker.all_reduce(torch.tensor(int(is_spoilt))):
            raise AdarError(f"{after}: a weight is not a number; {LossCheck.ADVICE}")

    def _validate(self) -> dict[str, float]:
        self.model.eval()
        return self._figures(self.model, self.history)

    def _figures(self, model: BaseModel, history: Histories | None = None) -> dict[str, float]:
        """Validation metrics over all users, each worker ranking for its own."""
        worker = self.worker
        ks = validation_ks(self.config.train.metric)
        rankings = rank_users(model, self.left_out, self.valid, ks, history=history, own=self.own)
        tally = Tally(self.valid.n_items, ks, [*self.own]).add_all(rankings)
        for tensor in tally.tensors():
            tensor.copy_(worker.all_reduce(tensor))
        return tally.metrics(self.popularity_I.cpu())

    def _part(self) -> dict[str, torch.Tensor]:
        """The rows of this worker's users and those dealt to it, and from worker 0 all the rest."""
        users, begin, own, dealt = self.data.users, self.data.begin, self._own_names(), self._dealt_names()
        return {
            name: tensor[users.first - begin : users.last - begin] if name in own else tensor
            for name, tensor in self._tensors().items()
            if name in own or name in dealt or self.worker.rank == 0
        }

    def _restore(self) -> TrainingState:
        state = self._newest_checkpoint()
        if state is None:
            load_initial_weights(self.run, self.data.dataset, self.model, self.data.begin)
            return TrainingState()
        users, begin, own, dealt = self.data.users, self.data.begin, self._own_names(), self._dealt_names()
        shapes = {name: tensor.shape for name, tensor in self._tensors().items()}
        for name, rows in dealt.items():
            shapes[name] = torch.Size((rows, *shapes[name][1:]))
        worker = self.worker.rank, self.worker.size
        saved = self.run.read_checkpoint(state, self.data.dataset, shapes, own, users, dealt, worker)
        with torch.no_grad():
            for name, tensor in self._tensors().items():
                part = tensor[users.first - begin : users.last - begin] if name in own else tensor
                part.copy_(saved[name])
        self.optimizer.steps = state.steps
        return state

    def _newest_checkpoint(self) -> TrainingState | None:
        """That which worker 0 has found to be undamaged."""
        state = self.run.newest_checkpoint() if self.worker.rank == 0 else None
        epoch, step = self.worker.all_reduce(torch.tensor(state.place if state else (0, 0))).tolist()
        return state or self.run.read_state((epoch, step))

    def _own_names(self) -> set[str]:
        """Names of those of `_tensors` that have a row for each of the worker's users."""
        owners = {
            "model": self.model,
            **{f"samplers.{n}": sampler for n, sampler in enumerate(self.samplers)},
        }
        names = {f"{where}.{name}" for where, owner in owners.items() for name in user_tables(owner)}
        return names | {f"{moment}:{name}" for moment in MOMENTS for name in names}

    def _dealt_names(self) -> dict[str, int]:
        """Names of those of `_tensors` whose rows are dealt to the workers, and how many all workers have."""
        optimizer = self.optimizer
        moments = {f"{moment}:{name}": rows for moment in MOMENTS for name, rows in optimizer.dealt.items()}
        return moments | {name: optimizer.dealt[name] for name in optimizer.sharded}

    def _tensors(self) -> dict[str, torch.Tensor]:
        """All that an interrupted run continues from, by name."""
        state = nn.ModuleDict({"model": self.model, "samplers": self.samplers}).state_dict()
        return {**state, **self.optimizer.tensors()}


def _for_users_from(first: int, metric: OwnMetric) -> OwnMetric:
    """The metric where the user with this id of the dataset has id 0."""
    return lambda user_B, *rankings: metric(user_B + first, *rankings)


def _hash(*key: object) -> int:
    """A seed that follows from everything in the key."""
    return int.from_bytes(hashlib.sha256(repr(key).encode()).digest()[:7], "big")
