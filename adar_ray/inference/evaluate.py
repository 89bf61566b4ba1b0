"""How good a trained model is."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from adar_ray.data.dataset import SPLITS
from adar_ray.errors import AdarError
from adar_ray.inference.model import TrainedModel, user_items
from adar_ray.ranking.tally import tally_users
from adar_ray.training.run import Run

KS = (10, 20, 50)


def evaluate(run: str | Path | Run, split: str = "test", ks: Sequence[int] = KS) -> dict[str, Any]:
    """Ranks every item for every user of the split; writes `RUN/evaluation/SPLIT.json` and returns it.

    Training items are left out of the ranking, for test those of validation too. Users with nothing
    in the split have nothing to be found and are not counted.

    Raises:
        AdarError: the dataset has no such split, or has changed since training.
    """
    run = Run.open(run)
    trained = TrainedModel.load(run)
    truth = user_items(trained.dataset, split)
    if not len(truth):
        raise AdarError(f"{trained.dataset.folder}: has no interactions in {split}; evaluate another --split")
    # Validation comes out of training: for test it is as known as training itself.
    known = user_items(trained.dataset, *SPLITS[: SPLITS.index(split)])
    tally = tally_users(trained.model, known, truth, ks)
    result = {
        "split": split,
        "users": int(tally.users),
        "metrics": tally.metrics(trained.observed.item_counts()),
    }
    run.folder.write_json(f"evaluation/{split}.json", result)
    return result
