"""How good a trained model is."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from adar_ray.data.dataset import SPLITS
from adar_ray.errors import AdarError
from adar_ray.inference.model import TrainedModel, user_items
from adar_ray.ranking.tally import tally_users
from adar_ray.training.records import Evaluation
from adar_ray.training.run import Run

KS = (10, 20, 50)


def evaluate(run: str | Path | Run, split: str = "test", ks: Sequence[int] = KS) -> Evaluation:
    """Ranks every item for every user of the split; writes `RUN/evaluation/SPLIT.json` and returns it.

    Training items are left out of the ranking, for test those of validation too; of the same items are
    the histories by which a sequential model knows users. Users with nothing in the split have nothing
    to be found and are not counted.

    Raises:
        AdarError: the dataset has no such split, or has changed since training; or there are no histories.
    """
    run = Run.open(run)
    trained = TrainedModel.load(run)
    truth = user_items(trained.dataset, split)
    if not len(truth):
        raise AdarError(f"{trained.dataset.folder}: has no interactions in {split}; evaluate another --split")
    # Validation comes out of training: for test it is as known as training itself.
    before = SPLITS[: SPLITS.index(split)]
    if trained.sequential and not before:
        raise AdarError(
            f"{run.folder}: its model knows users by what they did before {split}, which is nothing; "
            "evaluate another --split"
        )
    known, history = user_items(trained.dataset, *before), trained.history(*before)
    tally = tally_users(trained.model, known, truth, ks, history=history)
    result = Evaluation(
        split=split, users=int(tally.users), metrics=tally.metrics(trained.observed.item_counts())
    )
    run.folder.write_json(f"evaluation/{split}.json", result.model_dump())
    return result
