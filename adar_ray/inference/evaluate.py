"""Measures a trained model.

Legend: U users with interactions in the split, B users of a tile, N all users.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch

from adar_ray.baselines.popularity import Popularity
from adar_ray.custom import build_custom_function, is_custom
from adar_ray.data.dataset import SPLITS, Dataset
from adar_ray.errors import AdarError
from adar_ray.inference.model import TrainedModel, left_out, user_items
from adar_ray.inference.samples import Samples, middle_users
from adar_ray.interactions.user_items import UserItems
from adar_ray.limits import LARGEST_K, check_list, check_number
from adar_ray.ranking.groups import Groups, group_by
from adar_ray.ranking.own_metrics import OwnMetric
from adar_ray.ranking.profile import Profile
from adar_ray.ranking.tally import Tally, rank_users
from adar_ray.significance import paired_p
from adar_ray.training.build import build_metric
from adar_ray.training.callbacks import send_evaluation
from adar_ray.training.records import Evaluation, Group
from adar_ray.training.run import Run
from adar_ray.training.user_figures import UserFigures, join_tiles

KS = (10, 20, 50)
USER_GROUPS = 4


def evaluate(
    run: str | Path | Run,
    split: str = "test",
    ks: Sequence[int] = KS,
    *,
    metrics: Sequence[str] = (),
    data: str | Path | None = None,
    trust: bool = False,
) -> Evaluation:
    """Ranks every item for every user of the split. Writes `RUN/evaluation/SPLIT.json` and returns it, and
    the metrics of each user to `SPLIT.parquet` beside it.

    Ranks by popularity for the same users, and tests the difference. Sends the metrics to the run's trackers,
    too.

    Training items are left out of the ranking, unless the dataset keeps repeats; for test, validation items
    as well. A sequential model reads histories of the same items. Users without interactions in the split do
    not count.

    Args:
        metrics: own metrics, as `module:callable`, beside those that are always measured. An own one that is
            the run's `train.metric` is always measured, too.
        data: where the dataset of a run that is not finished is now, if it has moved.
        trust: whether custom components that the folder names may run.

    Raises:
        AdarError: the split is empty, a sequential model has no histories before it, a metric cannot be
            imported, the run is not finished and its dataset is gone or has changed, or a tracker failed.
    """
    if split not in SPLITS:
        raise AdarError(f"--split {split}: there is none; give {', '.join(SPLITS)}")
    check_list("--k", ks)
    if not ks:
        raise AdarError("--k: names none; give one or more")
    for k in ks:
        check_number("--k", k, 1, LARGEST_K)
    check_list("--metric", metrics)
    for name in metrics:
        if not (isinstance(name, str) and is_custom(name)):
            raise AdarError(f"metric {name}: name it as module:callable")
    run = Run.open(run, trust=trust)
    trained = TrainedModel.load(run, data)
    dataset = trained.dataset
    truth = user_items(dataset, split)
    if not len(truth):
        raise AdarError(f"{run.folder}: its dataset has no interactions in {split}; evaluate another --split")
    # Validation interactions come before those of test, so a user's test ranking leaves them out, too.
    before = SPLITS[: SPLITS.index(split)]
    if trained.sequential and not before:
        raise AdarError(
            f"{run.folder}: its sequential model reads what users did before {split}, which is nothing; "
            "evaluate another --split"
        )
    own = {name: build_custom_function("metric", name, dataset, trained.config) for name in metrics}
    own |= build_metric(trained.config.train.metric, dataset, trained.config)
    known, history = left_out(dataset, *before), trained.history(*before)
    user_U = truth.counts().nonzero()[:, 0]
    user_groups = _user_groups(dataset, trained.observed, user_U)
    profile = Profile(trained.observed, truth, ks, user_groups, [*own])
    samples = Samples(
        middle_users(user_U, trained.observed.counts()[user_U], user_groups["activity"].of_N[user_U])
    )
    per_user: list[dict[str, torch.Tensor]] = []
    for ranked in rank_users(trained.model, known, truth, ks, history=history, own=own):
        profile.add(ranked)
        samples.add(ranked)
        per_user.append({name: value_B.float() for name, value_B in ranked.metrics.items()})
    value_of, metrics_of_all = join_tiles(per_user), profile.metrics()
    popularity, p_of = _popularity(trained.observed, known, truth, ks, own, value_of)
    columns = {"user": dataset.user_keys().take(pa.array(user_U.numpy())), **value_of}
    figures = run.folder.write_table(f"evaluation/{split}.parquet", pa.table(columns), [])
    groups = {
        name: _records(groups, profile.by_users(name), _time if name == "cohort" else int)
        for name, groups in user_groups.items()
    }
    groups["popularity"] = _records(profile.item_groups, profile.by_items())
    result = Evaluation(
        split=split,
        users=profile.tally.users,
        metrics=metrics_of_all,
        groups=groups,
        samples=samples.records(dataset, before),
        popularity=popularity,
        popularity_p=p_of,
        per_user=figures.sha256,
    )
    run.folder.write_record(f"evaluation/{split}.json", result)
    send_evaluation(run, result)
    return result


def _popularity(
    observed: UserItems,
    known: UserItems,
    truth: UserItems,
    ks: Sequence[int],
    own: Mapping[str, OwnMetric],
    value_of: UserFigures,
) -> tuple[dict[str, float], dict[str, float]]:
    """The metrics of ranking by popularity, and the p of the model's difference from each.

    Args:
        value_of: the metrics of each user with the model.
    """
    popularity_I = observed.item_counts()
    tally, per_user = Tally(truth.n_items, ks, [*own]), []
    for ranked in rank_users(Popularity(popularity_I), known, truth, ks, own=own):
        tally.add(ranked)
        per_user.append({name: value_B.float() for name, value_B in ranked.metrics.items()})
    tests = {name: paired_p(value_of[name], value_U) for name, value_U in join_tiles(per_user).items()}
    return tally.metrics(popularity_I), {name: p for name, p in tests.items() if p is not None}


def _user_groups(dataset: Dataset, observed: UserItems, user_U: torch.Tensor) -> dict[str, Groups]:
    """The users who count, by how much they have done and, if that is known, by when they came."""
    numbers = {"activity": observed.counts()[user_U]}
    first = dataset.first_times()
    if first is not None:
        numbers["cohort"] = torch.from_numpy(first[user_U.numpy()])
    user_groups = {}
    for name, number_U in numbers.items():
        groups = group_by(number_U, USER_GROUPS)
        of_N = torch.full((dataset.n_users,), -1).index_copy_(0, user_U, groups.of_N)
        user_groups[name] = replace(groups, of_N=of_N)
    return user_groups


def _records(
    groups: Groups, measured: Sequence[tuple[int, dict[str, float]]], named: Callable[[int], int | str] = int
) -> list[Group]:
    return [
        Group(first=named(first), last=named(last), size=size, users=users, metrics=metrics)
        for (first, last), size, (users, metrics) in zip(groups.bounds, groups.sizes, measured, strict=True)
    ]


def _time(nanoseconds: int) -> str:
    return f"{np.datetime64(nanoseconds, 'ns').astype('datetime64[s]')}Z"
