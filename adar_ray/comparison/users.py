"""The figures of each user: measured, and kept for whoever wants to test something else.

Legend: U users with interactions in the split, S sampled users.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import torch

from adar_ray.data.dataset import SPLITS, Dataset
from adar_ray.errors import AdarError
from adar_ray.inference.evaluate import USER_GROUPS
from adar_ray.inference.model import left_out, user_items
from adar_ray.inference.samples import Samples, middle_users
from adar_ray.interactions.histories import Histories
from adar_ray.interactions.user_items import UserItems
from adar_ray.models import BaseModel
from adar_ray.ranking.groups import Groups, group_by
from adar_ray.ranking.own_metrics import OwnMetric
from adar_ray.ranking.tally import check_that_users_count, rank_users
from adar_ray.storage import Folder
from adar_ray.training.records import Record, Sample
from adar_ray.training.user_figures import UserFigures, join_tiles, read_user_figures


@dataclass(frozen=True)
class Split:
    """What every system is asked in a split.

    Attributes:
        before: the splits that come before it: a ranking leaves their items out, and a history holds them.
        ks: cutoffs of the metrics.
        own: metrics of the user's own, by name.
        code: the SHA-256 of the modules that these are in.
        key_U: the users' ids in the source.
        groups_U: the users, by the name of what groups them.
        sampled_S: a user of each group by activity, whose recommendations people look at.
    """

    name: str
    before: Sequence[str]
    seen: UserItems
    truth: UserItems
    ks: list[int]
    own: Mapping[str, OwnMetric]
    code: str
    key_U: pa.ChunkedArray
    groups_U: dict[str, Groups]
    sampled_S: torch.Tensor

    @classmethod
    def of(
        cls, dataset: Dataset, name: str, ks: list[int], own: Mapping[str, OwnMetric], code: str = ""
    ) -> Split:
        """Reads a split of a dataset.

        Raises:
            AdarError: it has no interactions.
        """
        before, truth = SPLITS[: SPLITS.index(name)], user_items(dataset, name)
        if not len(truth):
            raise AdarError(
                f"{dataset.folder}: has no interactions in {name} to compare by; prepare its source again"
            )
        user_U = truth.counts().nonzero()[:, 0]
        key_U = dataset.user_keys().take(pa.array(user_U.numpy()))
        observed = user_items(dataset, "train")
        groups_U, activity_U = _groups(observed, truth, user_U.numpy()), observed.counts()[user_U]
        sampled_S = middle_users(user_U, activity_U, groups_U["activity"].of_N)
        return cls(name, before, left_out(dataset, *before), truth, ks, own, code, key_U, groups_U, sampled_S)

    def measure(
        self, model: BaseModel, history: Histories | None = None, samples: Samples | None = None
    ) -> UserFigures:
        """Ranks all items for every user.

        Args:
            samples: keeps the best items of some users.
        """
        metrics = []
        for ranked in rank_users(model, self.seen, self.truth, self.ks, history=history, own=self.own):
            metrics.append(ranked.metrics)
            if samples is not None:
                samples.add(ranked)
        figures = join_tiles(metrics)
        counted = [name for name, value_U in figures.items() if not np.isnan(value_U).all()]
        check_that_users_count(figures, counted)
        return figures


def _groups(observed: UserItems, truth: UserItems, user_U: np.ndarray) -> dict[str, Groups]:
    """The users by how much they have done, and by how popular the items are that they take in the split."""
    user_E, item_E = (ids.numpy() for ids in truth.pairs())
    popularity_E = observed.item_counts().numpy()[item_E]
    mean_U = (np.bincount(user_E, popularity_E) / np.maximum(np.bincount(user_E), 1))[user_U]
    numbers = {
        "activity": observed.counts()[torch.from_numpy(user_U)],
        "popularity": torch.from_numpy(mean_U.round().astype(np.int64)),
    }
    return {name: group_by(number_U, USER_GROUPS) for name, number_U in numbers.items()}


class Measured(Record):
    """`users/SPLIT/_NAME.json`: what the figures in `NAME.parquet` are of.

    Attributes:
        of: the SHA-256 of a run's weights, or the name of a baseline.
        checksum: of the dataset.
        ks: cutoffs of the metrics.
        own: names of the user's own metrics.
        code: the SHA-256 of the modules that these are in.
        figures: the SHA-256 of `NAME.parquet`.
        samples: what is recommended to a user of each group by activity.
    """

    of: str
    checksum: str
    ks: list[int]
    own: list[str] = []  # noqa: RUF012
    code: str = ""
    figures: str = ""
    samples: list[Sample] = []  # noqa: RUF012


def read_users(folder: Folder, split: str, name: str, wanted: Measured) -> UserFigures | None:
    """Figures that are there already; None if there are none, or they are of something else."""
    record = _record(split, name)
    if not folder.exists(record):
        return None
    measured = folder.read_record(record, Measured, "remove it, and compare again")
    if measured.model_copy(update={"figures": "", "samples": []}) != wanted:
        return None
    return read_user_figures(folder, _table(split, name), measured.figures)


def read_samples(folder: Folder, split: str, name: str) -> list[Sample]:
    """What is recommended to a few users; nothing in the file of an earlier version."""
    return folder.read_record(_record(split, name), Measured, "remove it, and compare again").samples


def write_users(
    folder: Folder,
    split: Split,
    measured: Measured,
    metrics: UserFigures,
    system: str,
    seed: int | None,
) -> None:
    """Writes the figures of a run, or of a baseline, which has no seed."""
    U = len(split.key_U)
    columns = {
        "user": split.key_U,
        "system": pa.repeat(pa.scalar(system), U),
        "seed": pa.repeat(pa.scalar(seed, pa.int32()), U),
        **metrics,
    }
    name = name_of(system, seed)
    entry = folder.write_table(_table(split.name, name), pa.table(columns), ["system", "seed"])
    folder.write_record(_record(split.name, name), measured.model_copy(update={"figures": entry.sha256}))


def name_of(system: str, seed: int | None) -> str:
    """What the files of a run are called, or of a baseline, which has no seed."""
    return system if seed is None else f"{system}-{seed}"


def _table(split: str, name: str) -> str:
    return f"users/{split}/{name}.parquet"


def _record(split: str, name: str) -> str:
    return f"users/{split}/_{name}.json"  # readers of Parquet folders skip names that begin with _
