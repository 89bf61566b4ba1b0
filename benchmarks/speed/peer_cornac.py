"""cornac in a process of its own: an epoch of BPR."""

from __future__ import annotations

from typing import Any

from benchmarks.speed.peer_protocol import seconds, serve

held: dict[str, Any] = {}


def start(arrays: str, batch_size: int) -> dict[str, Any]:
    """`batch_size` has no meaning here: it updates after every pair."""
    import cornac
    import numpy as np

    rows = np.load(f"{arrays}/train.npy").tolist()
    held["data"] = cornac.data.Dataset.from_uir([(user, item, 1.0) for user, item in rows], seed=0)
    held["model"] = cornac.models.BPR(k=64, max_iter=1, learning_rate=0.01, num_threads=1, verbose=False)
    return {}


def epoch() -> dict[str, Any]:
    return seconds(lambda: held["model"].fit(held["data"]))


if __name__ == "__main__":
    serve({"start": start, "epoch": epoch})
