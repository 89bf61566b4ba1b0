"""What a run folder says about a run, as typed records: each field is a key of the file.

`Run` reads and writes them; docs/files.md describes the files.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel, ConfigDict, NonNegativeFloat, NonNegativeInt, PositiveInt, field_validator

from adar_ray.errors import AdarError
from adar_ray.workers import WorkerRange

Place = tuple[int, int]
"""A point of the training: finished epochs, and steps of the one after them that are done."""


class Record(BaseModel):
    """A record that does not change once it is made."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class SamplerStatistics(Record):
    """How a sampler behaved in an epoch.

    Attributes:
        hardness: mean of sigmoid((negative's score - positive's score) / temperature), over at most 64
            negatives a row: 0 is trivial, 0.5 as hard as the positive.
        timestep: mean timestep; ADAR only.
        uncrossed: share of negatives that never reached the boundary, timestep 1; ADAR only.
        timesteps: histogram of timesteps, shares in equal bins; ADAR only.
    """

    hardness: float
    timestep: float | None = None
    uncrossed: float | None = None
    timesteps: list[float] | None = None


class EpochTime(Record):
    """How long an epoch took."""

    train_seconds: NonNegativeFloat
    valid_seconds: NonNegativeFloat
    interactions_per_second: NonNegativeFloat


class EpochRecord(Record):
    """A line of `metrics.jsonl`.

    Attributes:
        loss, penalty: means per row; the penalty is not part of the loss.
        valid: validation metrics, by name; None without validation interactions.
        best_epoch: the best epoch so far.
        skipped: steps that `train.on_nan: skip` has passed over; None if there were none.
    """

    epoch: PositiveInt
    loss: float
    penalty: float
    sampler: SamplerStatistics
    valid: dict[str, float] | None = None
    time: EpochTime
    best_epoch: PositiveInt
    skipped: PositiveInt | None = None

    def is_last(self, epochs: int, patience: int) -> bool:
        """Whether training ends with this epoch: it is the last of all, or patience is at an end."""
        return self.epoch >= epochs or self.epoch - self.best_epoch >= patience

    def to_dict(self) -> dict[str, Any]:
        """Plain values, without the fields that are None."""
        return self.model_dump(exclude_none=True)

    def figures(self) -> dict[str, float]:
        """All numbers but that of the epoch, by names such as `loss` and `valid/ndcg@20`."""
        return dict(_numbers(self.model_dump(exclude={"epoch"})))


def _numbers(values: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, float]]:
    for key, value in values.items():
        if isinstance(value, dict):
            yield from _numbers(value, f"{prefix}{key}/")
        elif isinstance(value, (int, float)):
            yield prefix + key, value


class StepProgress(Record):
    """`progress.json`: how far the current epoch is."""

    epoch: PositiveInt
    step: NonNegativeInt
    steps: PositiveInt


class Cost(Record):
    """What workers have reserved while they trained and validated.

    Starting them does not count, nor do steps that were lost and trained again.

    Attributes:
        core_seconds: seconds times `train.threads` times the number of workers.
        gpu_seconds: seconds times `train.gpus` times the number of workers; 0 without GPUs.
    """

    core_seconds: NonNegativeFloat = 0.0
    gpu_seconds: NonNegativeFloat = 0.0


class RunResult(Record):
    """`result.json`, whose existence marks a run as finished.

    Attributes:
        epochs: number of epochs trained.
        valid: validation metrics of the best epoch; None without validation interactions.
        popularity: what they are if items are ranked by their number of users; None, too, in runs of earlier
            versions.
        cost: of all epochs; None in runs of earlier versions.
    """

    best_epoch: PositiveInt
    epochs: PositiveInt
    valid: dict[str, float] | None
    train_seconds: NonNegativeFloat
    popularity: dict[str, float] | None = None
    cost: Cost | None = None


class TrackerIds(Record):
    """`trackers.json`: what trackers of experiments know the run or the search by.

    Attributes:
        ids: by the tracker's name.
        parents: the same of the search that the run belongs to.
    """

    ids: dict[str, str] = {}
    parents: dict[str, str] = {}


class Resumption(Record):
    """A resumption that changed something.

    Attributes:
        epoch: the first epoch that was trained with the changes.
        changes: the value before and the value from then on, by `section.key`; `run.workers` is the number
            of workers.
    """

    epoch: PositiveInt
    changes: dict[str, list[Any]]


class WarmStart(Record):
    """Whose weights a run began with; they are in its `initial.safetensors`.

    Attributes:
        run: address of the run or model.
        users, items: how many have vectors from there; None if the model has no vectors of them.
        held_out: interactions of this run's validation and test that the other has trained on; 0 if users are
            to repeat themselves.
        sha256: of the file.
    """

    run: str
    users: NonNegativeInt | None
    items: NonNegativeInt | None
    held_out: NonNegativeInt
    sha256: str


class RunInfo(Record):
    """The `run` section of `config.yaml`.

    Attributes:
        dataset: address of the dataset.
        workers: Ray Train workers, a number or a range such as `1:4`; 0 for training in the calling process.
        versions: of Python and the packages, by name.
        began: when the run began; None if an earlier version wrote the file.
        initial: the warm start; None, and left out of the file, if all weights were drawn at random.
        resumed: the resumptions that changed something; the file leaves it out if there were none.
    """

    dataset: str
    dataset_checksum: str
    workers: int | str
    versions: dict[str, str]
    began: str | None = None
    initial: WarmStart | None = None
    resumed: list[Resumption] = []

    @field_validator("workers")
    @classmethod
    def _are_workers(cls, workers: int | str) -> int | str:
        try:
            return WorkerRange.parse(workers, "workers").asked
        except AdarError as error:
            raise ValueError(str(error)) from error


class ModelInfo(Record):
    """`model/model.json`: what the weights beside it belong to.

    Attributes:
        settings: the configuration, as `config.yaml` has it.
        users, items: how many there are.
        history_length: L, the longest history that a sequential model reads; None for other models.
        dataset: name of the dataset.
        weights: SHA-256 of `weights.safetensors`.
    """

    settings: dict[str, dict[str, Any]]
    users: NonNegativeInt
    items: NonNegativeInt
    history_length: PositiveInt | None
    dataset: str
    dataset_checksum: str
    weights: str


class Group(Record):
    """Users or items that are measured together.

    Attributes:
        first, last: the lowest and the highest number in the group, of a user's items in training or of
            an item's users; or, in ISO 8601, the earliest and the latest time of a user's first interaction.
        size: how many users or items there are in it.
        users: how many users count. With groups of items, those who have relevant items in it.
        metrics: means over these users, by name. With groups of items, as if only these were relevant; and
            `share@k`, the group's share of all recommendations.
    """

    first: int | str
    last: int | str
    size: NonNegativeInt
    users: NonNegativeInt
    metrics: dict[str, float]


class Sample(Record):
    """What is recommended to a user.

    Attributes:
        user: the user's id in the source.
        history: the user's latest items before the split, the last one last.
        items: the best items, best first.
        hits: which of them are relevant.
    """

    user: str
    history: list[str]
    items: list[str]
    hits: list[bool]


class Evaluation(Record):
    """`evaluation/SPLIT.json`: what `evaluate` measured.

    Attributes:
        users: number of users with interactions in the split; others do not count.
        metrics: means over users, and what the lists are like, by name.
        groups: in ascending order, by `activity` (a user's items in training), by `popularity` (an item's
            users) and, if the source has times, by `cohort` (a user's first interaction).
        samples: what is recommended to a user of each group by activity.
        popularity: the metrics if items are ranked by their number of users; empty in the file of an earlier
            version.
        popularity_p: of those that are means over users, the p of a paired t-test of the model against it.
        per_user: the SHA-256 of `SPLIT.parquet`, which has the metrics of each user; None if an earlier
            version wrote the file, which lacks the groups and samples, too.
    """

    split: str
    users: NonNegativeInt
    metrics: dict[str, float]
    groups: dict[str, list[Group]] = {}
    samples: list[Sample] = []
    popularity: dict[str, float] = {}
    popularity_p: dict[str, float] = {}
    per_user: str | None = None

    def figures(self) -> dict[str, float]:
        """The metrics by names such as `test/ndcg@20`."""
        return {f"{self.split}/{name}": value for name, value in self.metrics.items()}


class TrainingState(Record):
    """`checkpoints/PLACE/state.json`: what a run that goes on from this checkpoint has to know.

    Attributes:
        epoch: epochs that are finished.
        step: steps of the epoch after these that are done; 0 at the end of an epoch.
        steps: all steps so far that moved the weights.
        best_epoch: the best of the finished epochs; 0 if there is none yet.
        best_value: its `train.metric`; None if there is none yet.
        files: the SHA-256 of each worker's file of tensors.
        dealt: names of the tensors whose rows are dealt to the files: of n files, file w has the rows
            w, w + n, w + 2n, ...
        sums: of each worker over the steps of the epoch under way, as `StepStatistics` has them.
        skipped: steps of that epoch whose loss was no number.
        train_seconds: that the epoch under way has taken.
        popularity: as `RunResult` has it; None before the first epoch.
        cost: of the finished epochs.
    """

    model_config = ConfigDict(frozen=False)

    epoch: NonNegativeInt = 0
    step: NonNegativeInt = 0
    steps: NonNegativeInt = 0
    best_epoch: NonNegativeInt = 0
    best_value: float | None = None
    files: list[str] = []
    dealt: list[str] = []
    sums: list[list[float]] = []
    skipped: NonNegativeInt = 0
    train_seconds: NonNegativeFloat = 0.0
    popularity: dict[str, float] | None = None
    cost: Cost = Cost()

    @property
    def place(self) -> Place:
        """Where in the training the checkpoint is."""
        return self.epoch, self.step
