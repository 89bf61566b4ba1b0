"""How long an epoch takes with the settings that `tables.py` chose for each sampler.

    python -m benchmarks.quality.times --sources path/to/data --work scratch/

Run it with nothing else running. It uses one thread; samplers take turns, and the fastest of three epochs
counts. Only training is timed: validation takes the same time for all samplers.
"""

from __future__ import annotations

import torch

from adar_ray import train
from adar_ray.config import load_config
from benchmarks import record
from benchmarks.arguments import add_sources, argument_parser
from benchmarks.quality.data import prepared
from benchmarks.quality.tables import TABLES, cell_name, result_name

NAME = "quality_times"
_ROUNDS = 3


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("tables", nargs="*", metavar="table", help=f"some of {', '.join(TABLES)}")
    add_sources(parser)
    parser.add_argument("--cells", nargs="+", help="some of the tables' cells, such as lightgcn-gowalla")
    arguments = parser.parse_args()
    if unknown := sorted(set(arguments.tables) - set(TABLES)):
        parser.error(f"there is no table {', '.join(unknown)}; known: {', '.join(TABLES)}")
    tables = {name: TABLES[name] for name in arguments.tables or TABLES}
    cells = {cell_name(*cell) for table in tables.values() for cell in table.cells()}
    if unknown := sorted(set(arguments.cells or ()) - cells):
        parser.error(f"--cells: there is no {', '.join(unknown)}; known: {', '.join(sorted(cells))}")
    torch.set_num_threads(1)
    for table_name, table in tables.items():
        chosen = record.read_figures(result_name(table_name))
        for model, data in table.cells():
            cell = cell_name(model, data)
            if cell not in chosen or cell not in (arguments.cells or cells):
                continue
            dataset = prepared(data, arguments.sources, arguments.work, table.data[data])
            seconds: dict[str, float] = {}
            for _ in range(_ROUNDS):
                for sampler, row in chosen[cell]["samplers"].items():
                    values = [f"{key}={value}" for key, value in row["chosen"].items()]
                    settings = [*table.settings_on(model, data), *values, "train.epochs=1"]
                    config = load_config(settings=settings)
                    run = train(dataset, arguments.work / "timed", config, workers=0, replace=True)
                    taken = run.epochs()[0].time.train_seconds
                    seconds[sampler] = round(min(taken, seconds.get(sampler, taken)), 3)
            print(table_name, cell, seconds, flush=True)
            figures = record.read_figures(NAME)
            figures.setdefault(table_name, {})[cell] = seconds
            record.write(
                NAME,
                figures,
                description="Seconds of training per epoch with the chosen settings, one thread, fastest of "
                "three epochs.",
                seeds=[0],
            )


if __name__ == "__main__":
    main()
