"""Quality: ADAR beside other samplers, each tuned alike, on real data with all items ranked.

    python benchmarks/quality/tables.py pairwise --sources path/to/data --work scratch/

Each cell is tuned as cells.py says, on a validation split carved from training. Significance: paired t-test
over users, of their metric averaged over seeds. Interrupted, it goes on. What an epoch takes is times.py's to
say, and page.py makes a page of all tables.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from cells import Cell, grid, mean_and_deviation, outcome, user_means
from data import DATA, LAST, dataset_of
from scipy.stats import ttest_rel

HERE = Path(__file__).parent
RESULTS = HERE.parent / "results"


@dataclass(frozen=True)
class Effort:
    """What is spent on each cell of a data set, the same for all samplers.

    Attributes:
        grid: points that every sampler tries first.
        draws: trials of its own parameters.
        seeds: of the runs that rank test; with none, the best trial's own run does.
        settings: how long a run may take. Patience is a number of steps: where there are more of them to an
            epoch, fewer epochs. Where a step costs much whatever is in it, batches are larger.
    """

    grid: tuple[dict[str, Any], ...]
    rng: int
    seeds: int
    settings: tuple[str, ...]


@dataclass(frozen=True)
class Table:
    """What is compared.

    Attributes:
        models: settings of each.
        data: folders of the data sets, with how they are split.
        settings: for all cells.
        effort: by data set, or by model and data set where a model is dearer.
        space: of the samplers' own parameters.
        metrics: what is shown; the last decides on validation.
    """

    models: dict[str, tuple[str, ...]]
    data: dict[str, dict[str, Any]]
    samplers: tuple[str, ...]
    settings: tuple[str, ...]
    effort: dict[str, Effort]
    space: Path
    metrics: tuple[str, str] = ("recall@20", "ndcg@20")

    def effort_on(self, model: str, data: str) -> Effort:
        return self.effort.get(f"{model}, {data}") or self.effort[data]

    def settings_on(self, model: str, data: str) -> tuple[str, ...]:
        """What is the same for all samplers and trials."""
        return (*self.models[model], *COMMON, *self.settings, *self.effort_on(model, data).settings)


COLLABORATIVE = {"mf": ("model.name=mf",), "lightgcn": ("model.name=lightgcn", "model.layers=2")}
SEQUENTIAL = {"sasrec": ("model.name=sasrec",), "gru4rec": ("model.name=gru4rec",)}

PUBLISHED = {name: DATA[name] for name in ("phone", "beauty", "ml-1m", "gowalla")}


def _lasting(epochs: int, patience: int) -> tuple[str, str]:
    return f"train.epochs={epochs}", f"train.patience={patience}"


_PAIRWISE_DEAR = Effort(
    ({"optimizer.lr": 3e-3, "loss.l2": 3e-2}, {"optimizer.lr": 1e-2, "loss.l2": 1e-2}), 1, 1, _lasting(100, 4)
)
_LARGE = ("train.batch_size=8192", "train.valid_users=5000", *_lasting(100, 5))
_PAIRWISE_LARGE = Effort(
    (*grid(optimizer__lr=(3e-3, 1e-2), loss__l2=(1e-2,)), {"optimizer.lr": 3e-3, "loss.l2": 1e-3}),
    0,
    0,
    _LARGE,
)
_LIGHTGCN_LARGE = Effort(grid(optimizer__lr=(3e-3, 1e-2), loss__l2=(1e-4, 1e-3, 1e-2)), 0, 0, _LARGE)
_SOFTMAX = ("loss.name=sampled_softmax", "model.cosine=true", "loss.l2=0")
_SOFTMAX_GRID = grid(optimizer__lr=(3e-3, 1e-2), loss__temperature=(0.15, 0.2))


def _temperatures(*tried: float, of_more: float) -> tuple[dict[str, Any], ...]:
    """With 512 shared negatives, and with more at one temperature."""
    more = grid(optimizer__lr=(1e-2,), sampler__shared=(2048,), loss__temperature=(of_more,))
    return grid(optimizer__lr=(1e-2,), loss__temperature=tried) + more


_SOFTMAX_DEAR = Effort(_temperatures(0.1, 0.15, 0.2, 0.3, of_more=0.2), 0, 0, _lasting(100, 4))
_SEQUENTIAL_GRID = grid(optimizer__lr=(3e-3,), model__dropout=(0.2, 0.5))
_SEQUENTIAL_SOFTMAX_GRID = grid(optimizer__lr=(3e-3,), model__dropout=(0.2, 0.5), sampler__shared=(512, 2048))

COMMON = ("train.valid_users=10000",)

TABLES = {
    "pairwise": Table(
        models=COLLABORATIVE,
        data=PUBLISHED,
        samplers=("uniform", "popularity", "dns", "mixgcf", "ahns", "dens", "adar"),
        settings=("loss.name=bpr",),
        effort={
            "beauty": Effort(
                grid(optimizer__lr=(3e-3, 1e-2), loss__l2=(1e-3, 1e-2, 3e-2)), 4, 3, _lasting(150, 12)
            ),
            "phone": Effort(_PAIRWISE_DEAR.grid, 2, 2, _lasting(120, 8)),
            "lightgcn, beauty": Effort(
                grid(optimizer__lr=(3e-3,), loss__l2=(1e-3, 1e-2)), 1, 1, _lasting(100, 8)
            ),
            "lightgcn, phone": Effort(
                grid(optimizer__lr=(3e-3,), loss__l2=(1e-3, 1e-2)), 0, 0, _lasting(100, 6)
            ),
            "ml-1m": _PAIRWISE_DEAR,
            "lightgcn, ml-1m": _LIGHTGCN_LARGE,
            "gowalla": _PAIRWISE_LARGE,
            "lightgcn, gowalla": _LIGHTGCN_LARGE,
        },
        space=HERE.parents[1] / "tune_spaces" / "samplers.yaml",
    ),
    "softmax": Table(
        models=COLLABORATIVE,
        data=PUBLISHED,
        samplers=("uniform", "adar"),
        settings=_SOFTMAX,
        effort={
            "beauty": Effort(_SOFTMAX_GRID, 4, 3, _lasting(120, 16)),
            "lightgcn, beauty": _SOFTMAX_DEAR,
            "phone": _SOFTMAX_DEAR,
            "ml-1m": Effort(_SOFTMAX_DEAR.grid[:3], 0, 0, _lasting(100, 4)),
            "lightgcn, ml-1m": Effort(_temperatures(0.1, 0.15, 0.2, of_more=0.15), 0, 0, _LARGE),
            "gowalla": Effort(_temperatures(0.05, 0.07, 0.1, 0.2, of_more=0.1), 0, 0, _LARGE),
        },
        space=HERE / "softmax.yaml",
    ),
    "sequential": Table(
        models=SEQUENTIAL,
        data=LAST,
        samplers=("uniform", "dns", "adar"),
        settings=("loss.name=bce", "adar.weight=1", "train.batch_size=256"),
        effort={
            "ml-100k": Effort(_SEQUENTIAL_GRID, 3, 3, _lasting(60, 8)),
            "video-games": Effort(_SEQUENTIAL_GRID, 0, 0, _lasting(30, 4)),
        },
        space=HERE / "bce.yaml",
        metrics=("hit_rate@10", "ndcg@10"),
    ),
    "sequential_softmax": Table(
        models=SEQUENTIAL,
        data=LAST,
        samplers=("uniform", "adar"),
        settings=(*_SOFTMAX, "loss.temperature=0.1", "train.batch_size=256"),
        effort={
            "ml-100k": Effort(_SEQUENTIAL_SOFTMAX_GRID, 1, 3, _lasting(60, 8)),
            "video-games": Effort(_SEQUENTIAL_SOFTMAX_GRID[:2], 0, 0, _lasting(30, 4)),
        },
        space=HERE / "softmax.yaml",
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
            effort, results = table.effort_on(model, data), {}
            for sampler in arguments.samplers or table.samplers:
                cell = Cell(
                    name=f"{arguments.table}-{model}-{data}-{sampler}",
                    sampler=sampler,
                    settings=table.settings_on(model, data),
                    grid=effort.grid,
                    space=table.space,
                    rng=effort.rng,
                    metric=table.metrics[-1],
                )
                results[sampler] = outcome(cell, dataset, arguments.work, effort.seeds)
                print(cell.name, _row(results[sampler], table), file=sys.stderr, flush=True)
                _write(f"{model}, {data}", results, table, arguments.table, effort)


def _row(result: dict[str, Any], table: Table) -> dict[str, Any]:
    runs = result["runs"]
    return {
        f"valid {table.metrics[-1]}": result["valid"],
        **{name: mean_and_deviation([run["test"][name] for run in runs]) for name in table.metrics},
        "best epoch": statistics.mean(run["best epoch"] for run in runs),
        "chosen": result["values"],
        "trials' valid": [round(valid, 4) for valid in result["trials"]],
    }


def _write(name: str, results: dict[str, dict], table: Table, table_name: str, effort: Effort) -> None:
    written = RESULTS / f"quality_{table_name}.json"
    content = json.loads(written.read_text()) if written.exists() else {}
    content[name] = {
        "trials": len(effort.grid) + effort.rng,
        "seeds": effort.seeds or "the best trial's",
        "not run yet": [sampler for sampler in table.samplers if sampler not in results],
        "adar over": _comparison(results) if "adar" in results else {},
        "defaults' share of the gain": _share_of_defaults(results, len(effort.grid)),
        "rows": {sampler: _row(result, table) for sampler, result in results.items()},
        "run on": _different(env for result in results.values() for env in result["environments"]),
    }
    content["command"] = f"python benchmarks/quality/tables.py {table_name} --sources data --work scratch"
    written.write_text(json.dumps(content, indent=1) + "\n")


def _different(environments: Iterable[dict[str, str]]) -> list[dict[str, str]]:
    """Each machine with its versions once."""
    return list({tuple(environment.items()): environment for environment in environments}.values())


def _comparison(results: dict[str, dict]) -> dict[str, dict[str, Any]]:
    """ADAR beside each other sampler: the metric that decides, on test, and its paired t-test over users."""
    means = {sampler: user_means(result) for sampler, result in results.items()}
    adar = means.pop("adar")
    return {
        sampler: {
            "gain": f"{adar.mean() / other.mean() - 1:+.1%}",
            "p": float(f"{ttest_rel(adar, other).pvalue:.2g}"),
        }
        for sampler, other in means.items()
    }


def _share_of_defaults(results: dict[str, dict], n_grid: int) -> float | None:
    """On validation, how much of what the best trial of ADAR gains over uniform negatives its defaults gain.

    None if there is no gain, if one of the two was not run, or ADAR with its defaults alone.
    """
    if not {"adar", "uniform"} <= set(results):
        return None
    trials, uniform = results["adar"]["trials"], results["uniform"]["valid"]
    if len(trials) == n_grid:
        return None
    gain = max(trials) - uniform
    return round((max(trials[:n_grid]) - uniform) / gain, 2) if gain > 0 else None


if __name__ == "__main__":
    main()
