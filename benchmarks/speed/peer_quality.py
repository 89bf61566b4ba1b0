"""How good models of implicit and LensKit are after each second of training.

Legend: E interactions, U users, I items, D dimensions.
"""

from __future__ import annotations

import contextlib
import time
from typing import Any

from benchmarks.speed.peer_protocol import serve

held: dict[str, Any] = {}


def start(arrays: str) -> dict[str, Any]:
    held.update(arrays=arrays)
    return {}


def curve(library: str, point: dict[str, float], epochs: int, every: int, patience: int) -> dict[str, Any]:
    """`{"startup": seconds, "curve": [[seconds, ndcg], ...]}`: training so far, and validation after it.

    Start-up is imports, reading and setting up; of the imports, only those of the first curve take time.

    Args:
        every: validate after so many epochs.
        patience: stop after so many validations without a better one.
    """
    import numpy as np

    started = time.perf_counter()
    train = np.load(f"{held['arrays']}/train.npy")
    n_users, n_items = np.load(f"{held['arrays']}/sizes.npy").tolist()
    ndcg = _Validation(train, np.load(f"{held['arrays']}/valid.npy"), n_users, n_items)
    times: list[float] = []
    rows: list[list[float]] = []

    def is_enough(seconds: float, user_UD: Any, item_ID: Any) -> bool:
        times.append(seconds)
        if len(times) % every:
            return False
        rows.append([sum(times), ndcg(np.asarray(user_UD), np.asarray(item_ID))])
        best = max(range(len(rows)), key=lambda at: rows[at][1])
        return len(times) >= epochs or len(rows) - 1 - best >= patience

    follow = {"als": _als, "bpr": _bpr, "flexmf": _flexmf}[library]
    startup = follow(train, n_users, n_items, point, epochs, is_enough, started)
    return {"startup": startup, "curve": rows}


class _EnoughError(Exception):
    """Ends a fit from its callback."""


def _fit_implicit(
    model: Any, train: Any, n_users: int, n_items: int, is_enough: Any, started: float
) -> float:
    import numpy as np
    from scipy.sparse import csr_matrix

    ones = np.ones(len(train), np.float32)
    matrix = csr_matrix((ones, (train[:, 0], train[:, 1])), shape=(n_users, n_items))
    startup = time.perf_counter() - started

    def after(iteration: int, seconds: float, *_: Any) -> None:
        if is_enough(seconds, model.user_factors, model.item_factors):
            raise _EnoughError

    with contextlib.suppress(_EnoughError):
        model.fit(matrix, show_progress=False, callback=after)
    return startup


def _als(
    train: Any, users: int, items: int, point: dict[str, float], epochs: int, is_enough: Any, started: float
) -> float:
    from implicit.cpu.als import AlternatingLeastSquares

    model = AlternatingLeastSquares(factors=64, iterations=epochs, num_threads=1, random_state=0, **point)
    return _fit_implicit(model, train, users, items, is_enough, started)


def _bpr(
    train: Any, users: int, items: int, point: dict[str, float], epochs: int, is_enough: Any, started: float
) -> float:
    from implicit.cpu.bpr import BayesianPersonalizedRanking

    model = BayesianPersonalizedRanking(factors=64, iterations=epochs, num_threads=1, random_state=0, **point)
    return _fit_implicit(model, train, users, items, is_enough, started)


def _flexmf(
    train: Any, users: int, items: int, point: dict[str, float], epochs: int, is_enough: Any, started: float
) -> float:
    import logging
    import os

    import pandas as pd
    import structlog
    import torch
    from lenskit.data import DatasetBuilder
    from lenskit.flexmf import FlexMFImplicitScorer
    from lenskit.training import TrainingOptions

    os.environ["LK_TORCH_COMPILE"] = "0"  # it takes longer to compile than it saves
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    torch.set_num_threads(1)
    builder = DatasetBuilder()
    builder.add_entities("user", list(range(users)))  # all ids, so that rows are ids
    builder.add_entities("item", list(range(items)))
    builder.add_interactions(
        "click", pd.DataFrame({"user_id": train[:, 0], "item_id": train[:, 1]}), entities=["user", "item"]
    )
    scorer = FlexMFImplicitScorer(preset="bpr", embedding_size=64, batch_size=2048, **point)
    trainer = scorer.create_trainer(builder.build(), TrainingOptions(device="cpu", rng=0))
    startup = time.perf_counter() - started
    while True:
        before = time.perf_counter()
        trainer.train_epoch()
        seconds = time.perf_counter() - before
        tables = (table.weight.detach().numpy() for table in (scorer.model.u_embed, scorer.model.i_embed))
        if is_enough(seconds, *tables):
            return startup


class _Validation:
    """NDCG@20 over the users of validation, all items ranked, training items left out."""

    def __init__(self, train: Any, valid: Any, n_users: int, n_items: int) -> None:
        import numpy as np
        from scipy.sparse import csr_matrix

        def matrix(rows: Any) -> Any:
            return csr_matrix((np.ones(len(rows)), (rows[:, 0], rows[:, 1])), shape=(n_users, n_items))

        self.seen, self.truth = matrix(train), matrix(valid)
        self.users = np.unique(valid[:, 0])

    def __call__(self, user_UD: Any, item_ID: Any) -> float:
        import numpy as np

        gain_k = 1 / np.log2(np.arange(2, 22))
        total = 0.0
        for start in range(0, len(self.users), 512):
            users = self.users[start : start + 512]
            score_BI = user_UD[users] @ item_ID.T
            score_BI[self.seen[users].nonzero()] = -np.inf
            top_Bk = np.argpartition(-score_BI, 20, axis=1)[:, :20]
            order_Bk = np.argsort(-np.take_along_axis(score_BI, top_Bk, 1), axis=1)
            top_Bk = np.take_along_axis(top_Bk, order_Bk, 1)
            truth = self.truth[users]
            hit_Bk = np.asarray(truth[np.arange(len(users))[:, None], top_Bk].todense()) > 0
            relevant_B = np.minimum(truth.getnnz(axis=1), 20)
            total += float(((hit_Bk * gain_k).sum(1) / gain_k.cumsum()[relevant_B - 1]).sum())
        return total / len(self.users)


if __name__ == "__main__":
    serve({"start": start, "curve": curve})
