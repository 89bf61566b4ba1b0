"""Steps of SASRec and GRU4Rec on Amazon Video Games, against another commit, on one core.

    python -m benchmarks.speed.sequential --sources path/to/data --work scratch/ --before path/to/checkout

`--before` is a checkout of the commit to compare with; without it, only our own figures are taken.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np

from adar_ray.config import load_config
from adar_ray.data.dataset import SEQUENCES, Dataset
from adar_ray.interactions import PADDING
from benchmarks import record
from benchmarks.arguments import add_sources, argument_parser
from benchmarks.quality.data import LEAVE_ONE_OUT, prepared
from benchmarks.speed import ours
from benchmarks.speed.measure import Side, add, alternate, ceiling, compare, one_core, short
from benchmarks.speed.peers import Peer, PeerError, leave_out

MODELS = ("sasrec", "gru4rec")
_DATA = "video-games"


def main() -> None:
    parser = argument_parser(__doc__)
    add_sources(parser)
    parser.add_argument("--before", type=Path, help="checkout of the commit to compare with")
    parser.add_argument("--rounds", type=int, default=3, help="timed epochs of each side")
    arguments = parser.parse_args()
    one_core()
    work, options = arguments.work.resolve(), LEAVE_ONE_OUT[_DATA]
    dataset = prepared(_DATA, arguments.sources, work, options)
    figures: dict[str, Any] = {"ceiling": ceiling(), "missing": {}, "padding": short(_padding(dataset))}
    for model in MODELS:
        settings = [f"model.name={model}", *ours.UNIFORM]
        sides: dict[str, Side] = {
            "ours": lambda settings=settings: ours.epochs(dataset, work / "runs" / "sequential", settings, 1)[
                -1
            ]
        }
        peer = None
        if arguments.before:
            peer = Peer("before", Path(sys.executable), work / "logs" / "before.log")
            start = {
                "checkout": str(arguments.before.resolve()),
                "source": str((arguments.sources / _DATA).resolve()),
                "out": str(work / "before"),
                "options": options,
                "settings": settings,
            }
            try:
                peer.ask("start", **start)
                sides["before"] = lambda peer=peer: peer.seconds("epoch")
            except PeerError as error:
                leave_out("before", error, figures["missing"])
        try:
            seconds = alternate(sides, arguments.rounds)
        finally:
            if peer:
                peer.close()
        add(figures, compare(seconds, f"{model}."))
        rows = sum(shard.rows for shard in dataset.shards(SEQUENCES))
        steps = -(-rows // load_config(settings=settings).train.batch_size)
        per_second = steps / figures["seconds"][f"{model}.ours"]["median"]
        figures.setdefault("steps_per_second", {})[model] = short(per_second)
        print(model, figures, flush=True)
    record.write(
        "speed_sequential",
        figures,
        description="Training seconds of an epoch on Amazon Video Games, histories of 20, one core; the "
        "ratio to ours is above 1 where ours is faster than the commit before. Share of padding in the rows.",
        seeds=[0],
    )


def _padding(dataset: Dataset) -> float:
    """The share of padding in all sequence rows."""
    shards = [dataset.read_sequences(shard)[1] for shard in dataset.shards(SEQUENCES)]
    return float(np.mean(np.concatenate(shards) == PADDING))


if __name__ == "__main__":
    main()
