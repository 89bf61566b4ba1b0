"""Quality: ADAR beside other samplers, each tuned alike, on real data with all items ranked.

    python benchmarks/quality/tables.py pairwise --sources path/to/data --work scratch/

Each cell is tuned as cells.py says, on a validation split carved from training. Significance: paired t-test
over users, of their metric averaged over seeds. Interrupted, it goes on.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from scipy.stats import ttest_rel

sys.path.insert(0, str(Path(__file__).parents[1]))
from cells import Cell, grid, mean_and_deviation, outcome, user_means
from data import DATA, LAST, dataset_of
from environment import environment

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Table:
    """What is compared.

    Attributes:
        models: settings of each.
        data: folders of the data sets, with how they are split.
        settings: for all cells.
        grid: points that every sampler tries first.
        space: of the samplers' own parameters.
        metrics: what is shown; the last decides on validation.
    """

    models: dict[str, tuple[str, ...]]
    data: dict[str, dict[str, Any]]
    samplers: tuple[str, ...]
    settings: tuple[str, ...]
    grid: tuple[dict[str, Any], ...]
    space: Path
    metrics: tuple[str, str] = ("recall@20", "ndcg@20")


COLLABORATIVE = {"mf": ("model.name=mf",), "lightgcn": ("model.name=lightgcn", "model.layers=2")}
SEQUENTIAL = {"sasrec": ("model.name=sasrec",), "gru4rec": ("model.name=gru4rec",)}

PUBLISHED = {name: DATA[name] for name in ("phone", "beauty", "ml-1m", "gowalla")}

TABLES = {
    "pairwise": Table(
        models=COLLABORATIVE,
        data=PUBLISHED,
        samplers=("uniform", "popularity", "dns", "mixgcf", "ahns", "dens", "adar"),
        settings=("loss.name=bpr", "train.epochs=150", "train.patience=12"),
        grid=grid(optimiser__lr=(3e-3, 1e-2), loss__l2=(1e-3, 1e-2, 3e-2)),
        space=HERE.parents[1] / "tune_spaces" / "samplers.yaml",
    ),
    "softmax": Table(
        models=COLLABORATIVE,
        data=PUBLISHED,
        samplers=("uniform", "adar"),
        settings=("loss.name=sampled_softmax", "model.cosine=true", "loss.l2=0", "train.epochs=60"),
        grid=grid(optimiser__lr=(3e-3, 1e-2), loss__temperature=(0.1, 0.15, 0.2)),
        space=HERE / "softmax.yaml",
    ),
    "sequential": Table(
        models=SEQUENTIAL,
        data=LAST,
        samplers=("uniform", "dns", "adar"),
        settings=("loss.name=bce", "train.epochs=100", "train.batch_size=256"),
        grid=grid(optimiser__lr=(1e-3, 3e-3), model__dropout=(0.2, 0.5)),
        space=HERE / "bce.yaml",
        metrics=("hit_rate@10", "ndcg@10"),
    ),
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("table", choices=TABLES)
    parser.add_argument("--sources", type=Path, required=True, help="folder of the data sets as published")
    parser.add_argument("--work", type=Path, required=True, help="where datasets and runs are kept")
    parser.add_argument("--data", nargs="+", help="some of the table's")
    parser.add_argument("--models", nargs="+", help="some of the table's")
    parser.add_argument("--samplers", nargs="+", help="some of the table's")
    parser.add_argument("--draws", type=int, default=4, help="trials of a sampler's own parameters")
    parser.add_argument("--seeds", type=int, default=5)
    arguments = parser.parse_args()
    table = TABLES[arguments.table]
    for option in ("data", "models", "samplers"):
        known = getattr(table, option)
        if unknown := sorted(set(getattr(arguments, option) or ()) - set(known)):
            parser.error(f"--{option}: {arguments.table} has no {', '.join(unknown)}, but {', '.join(known)}")
    torch.set_num_threads(1)
    for data in arguments.data or table.data:
        dataset = dataset_of(data, arguments.sources, arguments.work, table.data[data])
        for model in arguments.models or table.models:
            results = {}
            for sampler in arguments.samplers or table.samplers:
                cell = Cell(
                    name=f"{arguments.table}-{model}-{data}-{sampler}",
                    sampler=sampler,
                    settings=(*table.models[model], *table.settings),
                    grid=table.grid,
                    space=table.space,
                    draws=arguments.draws,
                    metric=table.metrics[-1],
                )
                results[sampler] = outcome(cell, dataset, arguments.work, arguments.seeds)
                print(cell.name, _row(results[sampler], table), file=sys.stderr, flush=True)
                _write(f"{model}, {data}", results, table, arguments)


def _row(result: dict[str, Any], table: Table) -> dict[str, Any]:
    runs = result["runs"]
    return {
        f"valid {table.metrics[-1]}": result["valid"],
        **{name: mean_and_deviation([run["test"][name] for run in runs]) for name in table.metrics},
        "best epoch": statistics.mean(run["best epoch"] for run in runs),
        "seconds an epoch": round(statistics.median(run["seconds an epoch"] for run in runs), 3),
        "chosen": result["values"],
        "trials' valid": [round(valid, 4) for valid in result["trials"]],
    }


def _write(name: str, results: dict[str, dict], table: Table, arguments: argparse.Namespace) -> None:
    written = HERE.parent / "results" / f"quality_{arguments.table}.json"
    content = json.loads(written.read_text()) if written.exists() else {}
    content[name] = {
        "trials": len(table.grid) + arguments.draws,
        "seeds": arguments.seeds,
        "not run yet": [sampler for sampler in table.samplers if sampler not in results],
        **(_comparison(results) if {"adar", "uniform"} <= set(results) else {}),
        "rows": {sampler: _row(result, table) for sampler, result in results.items()},
    }
    content |= {
        "command": f"python benchmarks/quality/tables.py {arguments.table} --sources data --work scratch",
        **environment(),
    }
    written.write_text(json.dumps(content, indent=1) + "\n")


def _comparison(results: dict[str, dict]) -> dict[str, Any]:
    """Of the metric that decides, on test."""
    means = {sampler: user_means(result) for sampler, result in results.items()}
    best = max((sampler for sampler in means if sampler != "adar"), key=lambda name: means[name].mean())
    return {
        "adar over uniform": f"{means['adar'].mean() / means['uniform'].mean() - 1:+.1%}",
        "best baseline": best,
        "adar over it": f"{means['adar'].mean() / means[best].mean() - 1:+.1%}",
        "p of that": float(ttest_rel(means["adar"], means[best]).pvalue),
    }


if __name__ == "__main__":
    main()
