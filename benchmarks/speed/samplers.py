"""An epoch with ADAR's defaults against DNS with 16 candidates and one uniform negative: MF, batch 2,048.

python -m benchmarks.speed.samplers --sources path/to/data --work scratch/
"""

from __future__ import annotations

import functools
from typing import Any

from benchmarks import record
from benchmarks.arguments import add_sources, argument_parser
from benchmarks.quality.data import DATA, prepared
from benchmarks.speed import ours
from benchmarks.speed.measure import add, alternate, ceiling, compare, one_core

DATASETS = ("phone", "ml-1m", "gowalla")
SAMPLERS = {
    "adar": ("sampler.name=adar",),
    "uniform": ours.UNIFORM,
    "dns": ("sampler.name=dns", "dns.candidates=16", "dns.negatives=1"),
}


def main() -> None:
    parser = argument_parser(__doc__)
    add_sources(parser)
    parser.add_argument("--rounds", type=int, default=3, help="timed epochs of each sampler")
    arguments = parser.parse_args()
    one_core()
    figures: dict[str, Any] = {"ceiling": ceiling()}
    for data in DATASETS:
        dataset = prepared(data, arguments.sources, arguments.work, DATA[data])

        def epoch(name: str, dataset=dataset) -> float:
            settings = [*ours.MF, *SAMPLERS[name], "train.batch_size=2048"]
            return ours.epochs(dataset, arguments.work / "runs" / "samplers", settings, 1)[-1]

        sides = {name: functools.partial(epoch, name) for name in SAMPLERS}
        add(figures, compare(alternate(sides, arguments.rounds), f"{data}.", ours="adar"))
        print(data, figures["seconds"], flush=True)
    record.write(
        "speed_samplers",
        figures,
        description="Training seconds of an epoch of MF, batch 2,048, one core; ratios to ADAR's, above 1 "
        "where ADAR is faster.",
        seeds=[0],
    )


if __name__ == "__main__":
    main()
