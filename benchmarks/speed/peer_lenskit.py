"""LensKit's FlexMF in a process of its own: epochs of BPR in its fastest mode, and how good a model gets."""

from __future__ import annotations

import logging
import os
from typing import Any

from benchmarks.speed.peer_protocol import seconds, serve

held: dict[str, Any] = {}


def start(arrays: str, batch_size: int) -> dict[str, Any]:
    """Finds the fastest mode, of two optimizers with and without torch.compile, by the second epoch."""
    import numpy as np
    import torch
    from lenskit.data import from_interactions_df

    logging.disable(logging.INFO)
    import pandas as pd
    import structlog

    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    torch.set_num_threads(1)
    rows = np.load(f"{arrays}/train.npy")
    frame = pd.DataFrame({"user_id": rows[:, 0], "item_id": rows[:, 1]})
    held["data"] = from_interactions_df(frame)
    best, times = None, {}
    for method in ("AdamW", "L2"):
        for compiled in (False, True):
            trainer = _trainer(method, compiled, batch_size)
            trainer.train_epoch()
            taken = seconds(trainer.train_epoch)["seconds"]
            times[f"{method}{'-compiled' if compiled else ''}"] = taken
            if best is None or taken < best[0]:
                best = taken, trainer
    held["trainer"] = best[1]
    return {"modes": times}


def _trainer(method: str, compiled: bool, batch_size: int, rate: float = 0.01, penalty: float = 0.01) -> Any:
    from lenskit.flexmf import FlexMFImplicitScorer
    from lenskit.training import TrainingOptions

    os.environ["LK_TORCH_COMPILE"] = "1" if compiled else "0"
    scorer = FlexMFImplicitScorer(
        preset="bpr",
        embedding_size=64,
        batch_size=batch_size,
        reg_method=method,
        learning_rate=rate,
        regularization=penalty,
    )
    options = TrainingOptions(device="cpu", rng=0)
    return scorer.create_trainer(held["data"], options)


def epoch() -> dict[str, Any]:
    return seconds(held["trainer"].train_epoch)


if __name__ == "__main__":
    serve({"start": start, "epoch": epoch})
