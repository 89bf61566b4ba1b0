"""Quality: ADAR compared with other samplers, all tuned alike, on real data with all items ranked.

    python -m benchmarks.quality.tables pairwise --sources path/to/data --work scratch/
    python -m benchmarks.pages

`cells.py` says how each cell is tuned, on a validation split taken from training. Significance is a paired
t-test over users, of their metric averaged over seeds. A rerun runs only what is missing. `times.py` measures
the time of an epoch.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from scipy.stats import ttest_rel

from benchmarks import record
from benchmarks.arguments import add_sources, argument_parser
from benchmarks.quality.cells import Cell, Outcome, Values, grid, mean_and_deviation, tune_and_test
from benchmarks.quality.data import DATA, LEAVE_ONE_OUT, SPLIT_ANEW, prepared

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Effort:
    """What is spent on each cell of a dataset, the same for all samplers.

    Attributes:
        grid: points that every sampler tries first.
        draws: number of trials of its own parameters.
        seeds: number of the runs that read test; with 0, the best trial's own run does.
        settings: how long a run may take. Patience should be a number of steps: with more steps per epoch,
            fewer epochs. Where a step has a high fixed cost, batches are larger.
    """

    grid: tuple[Values, ...]
    draws: int
    seeds: int
    settings: tuple[str, ...]


@dataclass(frozen=True)
class Table:
    """What is compared.

    Attributes:
        description: for the result.
        models: settings of each.
        data: options of `prepare`, by dataset.
        settings: for all cells.
        effort: by dataset, or by cell where a model differs.
        space: of the samplers' own parameters.
        own: what a sampler tries the grid with, beside its usual values.
        metrics: what is shown; the last decides on validation.
    """

    description: str
    models: dict[str, tuple[str, ...]]
    data: dict[str, dict[str, Any]]
    samplers: tuple[str, ...]
    settings: tuple[str, ...]
    effort: dict[str, Effort]
    space: Path
    own: Mapping[str, Values] = field(default_factory=dict)
    metrics: tuple[str, str] = ("recall@20", "ndcg@20")

    def cells(self) -> list[tuple[str, str]]:
        """Models and datasets."""
        return [(model, data) for data in self.data for model in self.models]

    def effort_on(self, model: str, data: str) -> Effort:
        return self.effort.get(cell_name(model, data)) or self.effort[data]

    def settings_on(self, model: str, data: str) -> tuple[str, ...]:
        """What is the same for all samplers and trials."""
        return (*self.models[model], *COMMON, *self.settings, *self.effort_on(model, data).settings)


def cell_name(model: str, data: str) -> str:
    """What results call a model on a dataset."""
    return f"{model}-{data}"


def cell_of(table_name: str, model: str, data: str, sampler: str) -> Cell:
    """What a table tunes and tests of a sampler, with a model on a dataset."""
    table = TABLES[table_name]
    effort = table.effort_on(model, data)
    return Cell(
        name=f"{table_name}-{model}-{data}-{sampler}",
        sampler=sampler,
        settings=table.settings_on(model, data),
        grid=effort.grid,
        own=({}, table.own[sampler]) if sampler in table.own else ({},),
        space=table.space,
        draws=effort.draws,
        metric=table.metrics[-1],
    )


def result_name(table: str) -> str:
    return f"quality_{table}"


COLLABORATIVE = {"mf": ("model.name=mf",), "lightgcn": ("model.name=lightgcn", "lightgcn.layers=2")}
SEQUENTIAL = {"sasrec": ("model.name=sasrec",), "gru4rec": ("model.name=gru4rec",)}

PUBLISHED = {name: DATA[name] for name in ("phone", "beauty", "ml-1m", "gowalla")}


def _lasting(epochs: int, patience: int) -> tuple[str, str]:
    return f"train.epochs={epochs}", f"train.patience={patience}"


_PAIRWISE_COSTLY = Effort(
    ({"optimizer.lr": 3e-3, "loss.l2": 3e-2}, {"optimizer.lr": 1e-2, "loss.l2": 1e-2}), 1, 1, _lasting(100, 4)
)
_LARGE = ("train.batch_size=8192", "train.valid_users=5000", *_lasting(100, 5))
_PAIRWISE_LARGE = Effort(
    (*grid({"optimizer.lr": (3e-3, 1e-2), "loss.l2": (1e-2,)}), {"optimizer.lr": 3e-3, "loss.l2": 1e-3}),
    0,
    0,
    _LARGE,
)
_LIGHTGCN_LARGE = Effort(grid({"optimizer.lr": (3e-3, 1e-2), "loss.l2": (1e-4, 1e-3, 1e-2)}), 0, 0, _LARGE)
_SOFTMAX = ("loss.name=sampled_softmax", "model.cosine=true", "loss.l2=0")
_FEWER: dict[str, tuple[Any, ...]] = {"sampled_softmax.shared_negatives": (512,)}
_SOFTMAX_GRID = grid({"optimizer.lr": (3e-3, 1e-2), "sampled_softmax.temperature": (0.15, 0.2)} | _FEWER)


def _temperatures(*temperatures: float, with_more_negatives: float) -> tuple[Values, ...]:
    """512 shared negatives at several temperatures, and 2,048 of them at one."""
    fewer = {"optimizer.lr": (1e-2,), "sampled_softmax.temperature": temperatures} | _FEWER
    more = {
        "optimizer.lr": (1e-2,),
        "sampled_softmax.shared_negatives": (2048,),
        "sampled_softmax.temperature": (with_more_negatives,),
    }
    return grid(fewer) + grid(more)


# The learning rate and the number of shared negatives are the defaults'.
_FAIR_TEMPERATURES = grid({"sampled_softmax.temperature": (0.1, 0.15, 0.2, 0.3)})
_SOFTMAX_COSTLY = Effort(_temperatures(0.1, 0.15, 0.2, 0.3, with_more_negatives=0.2), 0, 0, _lasting(100, 4))


def _dropouts(model: str) -> dict[str, tuple[Any, ...]]:
    return {"optimizer.lr": (3e-3,), f"{model}.dropout": (0.2, 0.5)}


def _dropouts_and_shared(model: str, *shared: int) -> dict[str, tuple[Any, ...]]:
    return _dropouts(model) | {"sampled_softmax.shared_negatives": shared}


def _penalties(*l2: float, draws: int, seeds: int) -> Effort:
    return Effort(grid({"loss.l2": l2}), draws, seeds, _lasting(150, 10))


COMMON = ("train.valid_users=10000",)

TABLES = {
    "fair_pairwise": Table(
        description="MF and LightGCN with BPR and four negatives for every sampler, on data split anew",
        models=COLLABORATIVE,
        data={"ml-100k": SPLIT_ANEW, "beauty": SPLIT_ANEW, "phone": SPLIT_ANEW},
        samplers=("uniform", "dns", "mixgcf", "dens", "adar"),
        settings=(
            "loss.name=bpr",
            "optimizer.lr=3e-3",
            *(f"{name}.negatives=4" for name in ("uniform", "dns", "mixgcf", "dens", "adar")),
        ),
        effort={
            "ml-100k": _penalties(1e-2, 2e-2, 4e-2, 8e-2, draws=4, seeds=3),
            "beauty": _penalties(1e-2, 3e-2, 6e-2, 1e-1, 2e-1, 4e-1, draws=4, seeds=3),
            "phone": _penalties(1e-2, 3e-2, 6e-2, 1e-1, 2e-1, draws=2, seeds=2),
            "lightgcn-ml-100k": _penalties(1e-3, 3e-3, 1e-2, draws=2, seeds=3),
            "lightgcn-beauty": _penalties(1e-3, 3e-3, 1e-2, draws=2, seeds=2),
            "lightgcn-phone": _penalties(1e-3, 3e-3, 1e-2, draws=2, seeds=2),
        },
        space=HERE / "four_negatives.yaml",
        # Other negatives want another L2, so the grid has two kinds of each sampler's.
        own={
            "dns": {"dns.candidates": 4},
            "mixgcf": {"mixgcf.candidates": 4},
            "dens": {"dens.candidates": 4},
            "adar": {"adar.beta": 0.5, "adar.pool": 1024},
        },
    ),
    "pairwise": Table(
        description="MF and LightGCN with BPR",
        models=COLLABORATIVE,
        data=PUBLISHED,
        samplers=("uniform", "popularity", "dns", "mixgcf", "ahns", "dens", "adar"),
        settings=("loss.name=bpr",),
        effort={
            "beauty": Effort(
                grid({"optimizer.lr": (3e-3, 1e-2), "loss.l2": (1e-3, 1e-2, 3e-2)}), 4, 3, _lasting(150, 12)
            ),
            "phone": Effort(_PAIRWISE_COSTLY.grid, 2, 2, _lasting(120, 8)),
            "lightgcn-beauty": Effort(
                grid({"optimizer.lr": (3e-3,), "loss.l2": (1e-3, 1e-2)}), 1, 1, _lasting(100, 8)
            ),
            "lightgcn-phone": Effort(
                grid({"optimizer.lr": (3e-3,), "loss.l2": (1e-3, 1e-2)}), 0, 0, _lasting(100, 6)
            ),
            "ml-1m": _PAIRWISE_COSTLY,
            "lightgcn-ml-1m": _LIGHTGCN_LARGE,
            "gowalla": _PAIRWISE_LARGE,
            "lightgcn-gowalla": _LIGHTGCN_LARGE,
        },
        space=HERE.parents[1] / "tune_spaces" / "samplers.yaml",
    ),
    "softmax": Table(
        description="MF and LightGCN with sampled softmax",
        models=COLLABORATIVE,
        data=PUBLISHED,
        samplers=("uniform", "adar"),
        settings=_SOFTMAX,
        effort={
            "beauty": Effort(_SOFTMAX_GRID, 4, 3, _lasting(120, 16)),
            "lightgcn-beauty": _SOFTMAX_COSTLY,
            "phone": _SOFTMAX_COSTLY,
            "ml-1m": Effort(_SOFTMAX_COSTLY.grid[:3], 0, 0, _lasting(100, 4)),
            "lightgcn-ml-1m": Effort(_temperatures(0.1, 0.15, 0.2, with_more_negatives=0.15), 0, 0, _LARGE),
            "gowalla": Effort(_temperatures(0.05, 0.07, 0.1, 0.2, with_more_negatives=0.1), 0, 0, _LARGE),
        },
        space=HERE / "softmax.yaml",
    ),
    "fair_softmax": Table(
        description="MF and LightGCN with sampled softmax, on data split anew",
        models=COLLABORATIVE,
        data={"ml-100k": SPLIT_ANEW, "beauty": SPLIT_ANEW, "phone": SPLIT_ANEW},
        samplers=("uniform", "adar"),
        settings=_SOFTMAX,
        effort={
            name: Effort(_FAIR_TEMPERATURES, 3, 3, _lasting(120, 10))
            for name in ("ml-100k", "beauty", "phone")
        },
        space=HERE / "softmax.yaml",
    ),
    "sequential": Table(
        description="SASRec and GRU4Rec with BCE",
        models=SEQUENTIAL,
        data=LEAVE_ONE_OUT,
        samplers=("uniform", "dns", "adar"),
        settings=("loss.name=bce", "adar.weight=1", "train.batch_size=256"),
        effort={
            cell_name(model, data): Effort(grid(_dropouts(model)), *budget)
            for model in SEQUENTIAL
            for data, budget in {
                "ml-100k": (3, 3, _lasting(60, 8)),
                "video-games": (0, 0, _lasting(30, 4)),
            }.items()
        },
        space=HERE / "bce.yaml",
        metrics=("hit_rate@10", "ndcg@10"),
    ),
    "sequential_softmax": Table(
        description="SASRec and GRU4Rec with sampled softmax",
        models=SEQUENTIAL,
        data=LEAVE_ONE_OUT,
        samplers=("uniform", "adar"),
        settings=(*_SOFTMAX, "sampled_softmax.temperature=0.1", "train.batch_size=256"),
        effort={
            cell_name(model, data): effort
            for model in SEQUENTIAL
            for data, effort in {
                "ml-100k": Effort(grid(_dropouts_and_shared(model, 2048)), 1, 3, _lasting(60, 8)),
                # Dropout of 0.2 alone.
                "video-games": Effort(
                    grid(_dropouts_and_shared(model, 512, 2048))[:2], 0, 0, _lasting(30, 4)
                ),
            }.items()
        },
        space=HERE / "softmax.yaml",
        metrics=("hit_rate@10", "ndcg@10"),
    ),
}


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("table", choices=TABLES)
    add_sources(parser)
    for option in ("data", "models", "samplers"):
        parser.add_argument(f"--{option}", nargs="+", help="some of the table's")
    arguments = parser.parse_args()
    table = TABLES[arguments.table]
    for option in ("data", "models", "samplers"):
        known = getattr(table, option)
        if unknown := sorted(set(getattr(arguments, option) or ()) - set(known)):
            parser.error(
                f"--{option}: {arguments.table} has no {', '.join(unknown)}; known: {', '.join(known)}"
            )
    torch.set_num_threads(1)
    for data in arguments.data or table.data:
        dataset = prepared(data, arguments.sources, arguments.work, table.data[data])
        for model in arguments.models or table.models:
            effort, outcomes = table.effort_on(model, data), {}
            for sampler in arguments.samplers or table.samplers:
                cell = cell_of(arguments.table, model, data, sampler)
                outcomes[sampler] = tune_and_test(cell, dataset, arguments.work, effort.seeds)
                print(cell.name, _row(outcomes[sampler], table), flush=True)
                figures = record.read_figures(result_name(arguments.table))
                figures[cell_name(model, data)] = _cell_figures(outcomes, table, effort)
                record.write(
                    result_name(arguments.table),
                    figures,
                    description=f"{table.description}, by model and dataset: each sampler tuned on "
                    "validation over the same grid, and with as many trials of its own parameters if it has "
                    "any; test figures with all items ranked.",
                    seeds=range(1 + max(cell["seeds"] or 0 for cell in figures.values())),
                )


def _row(outcome: Outcome, table: Table) -> dict[str, Any]:
    return {
        f"valid_{table.metrics[-1]}": outcome.valid,
        **{name: mean_and_deviation([test[name] for test in outcome.test]) for name in table.metrics},
        "best_epoch": statistics.mean(outcome.best_epochs),
        "chosen": outcome.chosen,
        "trial_values": [round(valid, 4) for valid in outcome.trials],
    }


def _cell_figures(outcomes: dict[str, Outcome], table: Table, effort: Effort) -> dict[str, Any]:
    """A cell of the result; `seeds` is None if the best trial's own run was tested."""
    return {
        "seeds": effort.seeds or None,
        "missing": [sampler for sampler in table.samplers if sampler not in outcomes],
        "adar_gain": _adar_gain(outcomes) if "adar" in outcomes else {},
        "defaults_share": _defaults_share(outcomes, len(effort.grid)),
        "samplers": {sampler: _row(outcome, table) for sampler, outcome in outcomes.items()},
        "environments": _distinct(env for outcome in outcomes.values() for env in outcome.environments),
    }


def _distinct(environments: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    distinct: list[dict[str, Any]] = []
    for environment in environments:
        if environment not in distinct:
            distinct.append(environment)
    return distinct


def _adar_gain(outcomes: dict[str, Outcome]) -> dict[str, dict[str, Any]]:
    """ADAR's gain over each other sampler on test, in the metric that decides, with a paired t-test over
    users."""
    adar = outcomes["adar"].users
    return {
        sampler: {
            "gain": f"{adar.mean() / outcome.users.mean() - 1:+.1%}",
            "p": float(f"{ttest_rel(adar, outcome.users).pvalue:.2g}"),
        }
        for sampler, outcome in outcomes.items()
        if sampler != "adar"
    }


def _defaults_share(outcomes: dict[str, Outcome], n_grid: int) -> float | None:
    """The share of the tuned gain of ADAR over uniform negatives, on validation, that its defaults retain.

    None if there is no gain, if one of the two did not run, or if only the defaults ran.
    """
    if not {"adar", "uniform"} <= set(outcomes):
        return None
    trials, uniform = outcomes["adar"].trials, outcomes["uniform"].valid
    if len(trials) == n_grid:
        return None
    gain = max(trials) - uniform
    return round((max(trials[:n_grid]) - uniform) / gain, 2) if gain > 0 else None


if __name__ == "__main__":
    main()
