"""Trains, computes and measures what a comparison lacks.

Legend: U users with interactions in the split.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from adar_ray.baselines.names import BASELINES
from adar_ray.comparison.systems import Values, described
from adar_ray.comparison.users import Measured, Split, name_of, read_users, write_users
from adar_ray.config import Config
from adar_ray.data.dataset import Dataset
from adar_ray.errors import AdarError
from adar_ray.inference.model import TrainedModel, user_items
from adar_ray.inference.samples import Samples
from adar_ray.interactions.histories import Histories
from adar_ray.lease import Lease
from adar_ray.models import BaseModel
from adar_ray.storage import Folder
from adar_ray.training.records import EpochRecord
from adar_ray.training.run import CONFIG, MODEL, Run
from adar_ray.training.saved_model import read_info
from adar_ray.training.trainer import ignore_note, resume, train
from adar_ray.training.user_figures import mean_over_users

OnProgress = Callable[[int, int, str], None]
Loaded = tuple[BaseModel, Callable[..., Histories | None]]
"""A model, and the histories that it reads after the given splits."""


class Outcome(NamedTuple):
    """What a run or a baseline has in a split.

    Attributes:
        means: over users, by metric.
        value_U: the metric that decides, of each user.
    """

    means: dict[str, float]
    value_U: np.ndarray


@dataclass
class Work:
    """What is done in the folder of a comparison.

    Attributes:
        lease: the right to write there.
        metric: the one that decides.
        workers: of each run, as for `train`.
        total: how many trials, runs and baselines there are; `done` of them are.
    """

    folder: Folder
    lease: Lease
    dataset: Dataset
    splits: list[Split]
    metric: str
    workers: int | str | None
    total: int
    on_progress: OnProgress
    done: int = 0

    def try_baseline(self, baseline: str, values: Values) -> float:
        """What a baseline with these settings has in the metric that decides, on validation.

        Raises:
            TooLargeError: it cannot be computed here.
        """
        self.tell(f"{baseline}: trying {described(values)}")
        (valid,) = (split for split in self.splits if split.name == "valid")
        return mean_over_users(valid.measure(self._build(baseline, values))[self.metric])

    def compute(self, baseline: str, values: Values) -> dict[str, Outcome]:
        """What a baseline has in each split.

        Args:
            values: of its settings; others have their defaults.

        Raises:
            TooLargeError: it cannot be computed here.
        """
        self.tell(f"{baseline}: computing")

        def load() -> Loaded:
            return self._build(baseline, values), lambda *splits: None

        of = f"{baseline} {described(values)}".rstrip()
        return self._measure(baseline, baseline, None, of, load)

    def _build(self, baseline: str, values: Values) -> BaseModel:
        return BASELINES[baseline].build(user_items(self.dataset, "train"), **values)

    def train(self, system: str, config: Config) -> dict[str, Outcome]:
        """What a run of a system has in each split; it is trained, or goes on, if it is not finished."""
        seed, folder = config.train.seed, run_folder(self.folder, system, config)
        name = f"{system}, seed {seed}"

        def on_epoch(record: EpochRecord) -> None:
            assert record.valid is not None
            value = record.valid[self.metric]
            self.tell(f"{name}: epoch {record.epoch}, {self.metric} {value:.4f}")

        self.tell(f"{name}: training")
        if folder.exists(CONFIG):
            run = Run.open(folder.address, trust=True)  # it is what the user has named
            if run.result() is None:
                data = self.dataset.folder.address
                run = resume(run, data=data, workers=self.workers, on_epoch=on_epoch, on_note=ignore_note)
        else:
            run = train(
                self.dataset,
                folder.address,
                config,
                workers=self.workers,
                on_epoch=on_epoch,
                on_note=ignore_note,
            )

        def load() -> Loaded:
            trained = TrainedModel.load(run)
            return trained.model, trained.history

        weights = read_info(run.folder.folder(MODEL)).weights
        return self._measure(name, system, seed, weights, load)

    def tell(self, text: str) -> None:
        self.on_progress(self.done, self.total, text)

    def tell_done(self, text: str, count: int = 1) -> None:
        self.done += count
        self.tell(text)

    def _measure(
        self, name: str, system: str, seed: int | None, of: str, load: Callable[[], Loaded]
    ) -> dict[str, Outcome]:
        """The outcomes in each split: those that the folder has, and others measured with `load`'s model."""
        outcomes, loaded = {}, None
        for split in self.splits:
            about = Measured(
                of=of,
                checksum=self.dataset.checksum,
                ks=split.ks,
                own=[*split.own],
                code=split.code,
            )
            metrics = read_users(self.folder, split.name, name_of(system, seed), about)
            if metrics is None:
                loaded = loaded or load()
                model, history_after = loaded
                samples = Samples(split.sampled_S)
                metrics = split.measure(model, history_after(*split.before), samples)
                about = about.model_copy(update={"samples": samples.records(self.dataset, split.before)})
                self.lease.check()
                write_users(self.folder, split, about, metrics, system, seed)
            means = {metric: mean_over_users(value_U) for metric, value_U in metrics.items()}
            outcomes[split.name] = Outcome(means, metrics[self.metric])
        self.tell_done(f"{name}: {self.metric} {outcomes['valid'].means[self.metric]:.4f} on validation")
        return outcomes


def run_folder(folder: Folder, system: str, config: Config) -> Folder:
    return folder.folder(f"runs/{system}-{config.train.seed}")


def check_run(folder: Folder, config: Config) -> None:
    """Refuse the folder of a run, if there is one, that was begun with another configuration."""
    if not folder.exists(CONFIG):
        return
    then, now = Run.open(folder.address, trust=True).config.used_by_key(), config.used_by_key()
    different = sorted(key for key in then.keys() | now.keys() if then.get(key) != now.get(key))
    if different:
        raise AdarError(
            f"{folder}: was trained with other settings ({', '.join(different[:3])}); "
            "choose another folder for --out, or remove this one"
        )
