"""implicit in a process of its own: an epoch of BPR, and a script that recommends to all users."""

from __future__ import annotations

from typing import Any

from benchmarks.speed.peer_protocol import seconds, serve

held: dict[str, Any] = {}


def start(arrays: str, batch_size: int) -> dict[str, Any]:
    """`batch_size` has no meaning here: it updates after every pair."""
    import numpy as np
    from implicit.cpu.bpr import BayesianPersonalizedRanking
    from scipy.sparse import csr_matrix

    rows = np.load(f"{arrays}/train.npy")
    n_users, n_items = np.load(f"{arrays}/sizes.npy").tolist()
    ones = np.ones(len(rows), np.float32)
    held["matrix"] = csr_matrix((ones, (rows[:, 0], rows[:, 1])), shape=(n_users, n_items))
    held["model"] = BayesianPersonalizedRanking(factors=64, iterations=1, num_threads=1)
    return {}


def epoch() -> dict[str, Any]:
    return seconds(lambda: held["model"].fit(held["matrix"], show_progress=False))


if __name__ == "__main__":
    serve({"start": start, "epoch": epoch})
