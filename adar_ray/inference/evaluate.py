"""Measures a trained model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from adar_ray.data.dataset import SPLITS
from adar_ray.errors import AdarError
from adar_ray.inference.model import TrainedModel, left_out, user_items
from adar_ray.limits import LARGEST_K, check_number
from adar_ray.ranking.tally import tally_users
from adar_ray.training.records import Evaluation
from adar_ray.training.run import Run

KS = (10, 20, 50)


def evaluate(
    run: str | Path | Run,
    split: str = "test",
    ks: Sequence[int] = KS,
    *,
    data: str | Path | None = None,
    trust: bool = False,
) -> Evaluation:
    """Ranks every item for every user of the split. Writes `RUN/evaluation/SPLIT.json` and returns it.

    Training items are left out of the ranking, unless the dataset keeps repeats; for test, validation items
    as well. A sequential model reads histories of the same items. Users without interactions in the split do
    not count.

    Args:
        data: where the dataset of a run that is not finished is now, if it has moved.
        trust: whether custom components that the folder names may run.

    Raises:
        AdarError: the split is empty, a sequential model has no histories before the split, or the run is not
            finished and its dataset is not there or has changed.
    """
    for k in ks:
        check_number("--k", k, 1, LARGEST_K)
    run = Run.open(run, trust=trust)
    trained = TrainedModel.load(run, data)
    truth = user_items(trained.dataset, split)
    if not len(truth):
        raise AdarError(f"{run.folder}: its dataset has no interactions in {split}; evaluate another --split")
    # Validation interactions come before those of test, so a user's test ranking leaves them out, too.
    before = SPLITS[: SPLITS.index(split)]
    if trained.sequential and not before:
        raise AdarError(
            f"{run.folder}: its sequential model reads what users did before {split}, which is nothing; "
            "evaluate another --split"
        )
    known, history = left_out(trained.dataset, *before), trained.history(*before)
    tally = tally_users(trained.model, known, truth, ks, history=history)
    result = Evaluation(
        split=split, users=int(tally.users), metrics=tally.metrics(trained.observed.item_counts())
    )
    run.folder.write_record(f"evaluation/{split}.json", result)
    return result
