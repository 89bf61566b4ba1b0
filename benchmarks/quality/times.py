"""How long an epoch takes with what tables.py has chosen for each sampler.

    python benchmarks/quality/times.py --sources path/to/data --work scratch/

One thread, with nothing else running; samplers take turns, and of each the fastest of three epochs counts.
Training alone: validation takes all of them the same time.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))
from data import dataset_of
from environment import environment
from tables import RESULTS, TABLES

from adar_ray import train
from adar_ray.config import load_config

_ROUNDS = 3


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("tables", nargs="*", metavar="table", help=f"some of {', '.join(TABLES)}")
    parser.add_argument("--sources", type=Path, required=True, help="folder of the data sets as published")
    parser.add_argument("--work", type=Path, required=True, help="where datasets are kept")
    parser.add_argument("--cells", nargs="+", help="some of the tables', such as 'lightgcn, gowalla'")
    arguments = parser.parse_args()
    if unknown := sorted(set(arguments.tables) - set(TABLES)):
        parser.error(f"no table {', '.join(unknown)}, but {', '.join(TABLES)}")
    tables = {name: TABLES[name] for name in arguments.tables or TABLES}
    cells = {f"{model}, {data}" for table in tables.values() for model in table.models for data in table.data}
    if unknown := sorted(set(arguments.cells or ()) - cells):
        parser.error(f"--cells: no {'; '.join(unknown)}, but {'; '.join(sorted(cells))}")
    torch.set_num_threads(1)
    written = RESULTS / "quality_times.json"
    for table_name, table in tables.items():
        chosen = json.loads((RESULTS / f"quality_{table_name}.json").read_text())
        for data in table.data:
            for model in table.models:
                cell = f"{model}, {data}"
                if cell not in chosen or cell not in (arguments.cells or cells):
                    continue
                dataset = dataset_of(data, arguments.sources, arguments.work, table.data[data])
                seconds: dict[str, float] = {}
                for _ in range(_ROUNDS):
                    for sampler, row in chosen[cell]["rows"].items():
                        values = [f"{key}={value}" for key, value in row["chosen"].items()]
                        settings = [*table.settings_on(model, data), *values, "train.epochs=1"]
                        config = load_config(settings=settings)
                        run = train(dataset, arguments.work / "timed", config, workers=0, replace=True)
                        taken = run.epochs()[0]["time"]["train_seconds"]
                        seconds[sampler] = round(min(taken, seconds.get(sampler, taken)), 3)
                print(table_name, cell, seconds, file=sys.stderr, flush=True)
                content = json.loads(written.read_text()) if written.exists() else {}
                content.setdefault(table_name, {})[cell] = seconds
                content |= {
                    "what": "seconds of training an epoch with what was chosen, one thread, fastest of three",
                    "command": "python benchmarks/quality/times.py --sources data --work scratch",
                    **environment(),
                }
                written.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
