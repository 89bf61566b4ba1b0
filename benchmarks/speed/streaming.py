"""Epochs that read their rows again against epochs that keep them; the first epoch against later ones.

    python -m benchmarks.speed.streaming --sources path/to/data --work scratch/

MF on Gowalla in one process on one core.
"""

from __future__ import annotations

from typing import Any

from benchmarks import record
from benchmarks.arguments import add_sources, argument_parser
from benchmarks.quality.data import DATA, prepared
from benchmarks.speed import ours
from benchmarks.speed.measure import add, ceiling, compare, one_core

EPOCHS = 3  # of a run, after the first


def main() -> None:
    parser = argument_parser(__doc__)
    add_sources(parser)
    parser.add_argument("--rounds", type=int, default=3, help="runs of each side")
    arguments = parser.parse_args()
    one_core()
    dataset = prepared("gowalla", arguments.sources, arguments.work, DATA["gowalla"])
    settings = [*ours.MF, *ours.UNIFORM, "train.batch_size=8192"]
    first, later, kept = [], [], []
    for _ in range(arguments.rounds):
        for cache in ("never", "always"):
            run = arguments.work / "runs" / "streaming"
            seconds = ours.epochs(dataset, run, [*settings, f"data.cache={cache}"], EPOCHS)
            if cache == "never":
                first.append(seconds[0])
                later.append(min(seconds[1:]))
            else:
                kept.append(min(seconds[1:]))
    figures: dict[str, Any] = {"ceiling": ceiling()}
    add(figures, compare({"streamed": later, "kept": kept}, ours="streamed"))
    add(figures, compare({"first": first, "later": later}, ours="first"))
    print(figures, flush=True)
    record.write(
        "speed_streaming",
        figures,
        description="Training seconds of an epoch of MF on Gowalla, batch 8,192, one core: rows streamed and "
        "kept, the first epoch and a later one; ratios to streamed and to the first.",
        seeds=[0],
    )


if __name__ == "__main__":
    main()
