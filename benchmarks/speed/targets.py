"""What the speed benchmarks have to reach.

A ratio is how many times as fast as the other side ours is; other figures are seconds or gigabytes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from benchmarks import record


@dataclass(frozen=True)
class Target:
    """A figure that is wanted.

    Attributes:
        benchmark: its module.
        path: of the figure, in the result.
        what: for people.
        limit: it has to be at least this, or, of times and memory, at most this; None is for information.
    """

    benchmark: str
    path: tuple[str, ...]
    what: str
    limit: float | None
    at_most: bool = False


@dataclass(frozen=True)
class Row:
    """A target and what was measured; None if it was not.

    Attributes:
        low, high: the spread over rounds.
    """

    target: Target
    measured: float | None
    low: float | None = None
    high: float | None = None

    @property
    def verdict(self) -> str:
        if self.measured is None:
            return "not measured"
        if self.target.limit is None:
            return "for information"
        within = (
            self.measured <= self.target.limit if self.target.at_most else self.measured >= self.target.limit
        )
        return "reached" if within else "**not reached**"

    def cells(self) -> dict[str, str]:
        """The row of a table."""
        limit = self.target.limit
        wanted = "" if limit is None else f"{'at most' if self.target.at_most else 'at least'} {limit:g}"
        measured = "" if self.measured is None else f"{self.measured:.3g}"
        spread = "" if self.low is None else f"{self.low:.3g} to {self.high:.3g}"
        return {
            "row": self.target.what,
            "measured": measured,
            "spread": spread,
            "target": wanted,
            "verdict": self.verdict,
        }


def _ratio(benchmark: str, key: str, what: str, limit: float | None) -> Target:
    return Target(benchmark, ("ratios", key), what, limit)


def _seconds(benchmark: str, key: str, what: str, limit: float) -> Target:
    return Target(benchmark, ("seconds", key), what, limit, at_most=True)


def _step_mf(case: str, what: str, recbole: float | None) -> tuple[Target, ...]:
    limits = {"recbole": recbole, "lenskit": 1.5, "kernel": 0.67, "implicit": None, "cornac": None}
    names = {
        "recbole": "RecBole",
        "lenskit": "LensKit FlexMF",
        "kernel": "a compiled kernel",
        "implicit": "implicit (no batches)",
        "cornac": "cornac (no batches)",
    }
    return tuple(
        _ratio("step_mf", f"{case}.{name}", f"MF + BPR, {what}, against {names[name]}", limit)
        for name, limit in limits.items()
    )


TARGETS: tuple[Target, ...] = (
    *_step_mf("ml-1m-2048", "MovieLens 1M, batch 2,048", 3),
    *_step_mf("ml-1m-8192", "MovieLens 1M, batch 8,192", 3),
    *_step_mf("gowalla-2048", "Gowalla, batch 2,048", 5),
    *(
        _ratio("catalog", f"{size}.1e4", f"a step with {items} items against one with 10,000", 0.667)
        for size, items in (("1e5", "100,000"), ("1e6", "a million"), ("5e6", "five million"))
    ),
    *(
        _ratio("samplers", f"{data}.{other}", f"an epoch with ADAR, {data}, against {name}", limit)
        for data in ("phone", "ml-1m", "gowalla")
        for other, name, limit in (("uniform", "one uniform negative", 0.667), ("dns", "DNS of 16", 1))
    ),
    _ratio("workers", "mf-gowalla.one", "two workers against one, MF, Gowalla", 1.7),
    _ratio("workers", "mf-1m.one", "two workers against one, MF, 1M x 1M", 1.7),
    _ratio("workers", "lightgcn-phone.one", "two workers against one, LightGCN, Amazon phone", 1.4),
    _ratio("ranking", "metrics.recbole", "ranking Gowalla against RecBole", 2),
    _ratio("ranking", "top.least", "ranking Gowalla against the least that torch needs", 0.77),
    _ratio("recommend", "implicit", "recommending to all of Gowalla against implicit", 1),
    Target("recommend", ("peak_gb", "ours"), "gigabytes to recommend to all of Gowalla", 0.6, at_most=True),
    *(
        _ratio("prepare", f"{size}.{other}", f"preparing {size} rows against {name}", 0.7)
        for size in ("2M", "20M")
        for other, name in (("duckdb", "DuckDB"), ("polars", "polars"))
    ),
    *(
        _seconds("startup", f"workers-{workers}", f"seconds to the first step, {workers} workers", limit)
        for workers, limit in ((0, 2.5), (1, 15), (2, 18))
    ),
    *(
        _ratio("sequential", f"{model}.before", f"an epoch of {name}, Video Games, against before", None)
        for model, name in (("sasrec", "SASRec"), ("gru4rec", "GRU4Rec"))
    ),
    _ratio("streaming", "kept", "an epoch streamed against kept rows", 0.95),
    _ratio("streaming", "later", "the first streamed epoch against a later one", 0.5),
    *(
        _ratio("time_to_quality", f"{data}.{library}", f"time to the NDCG@20 of {name}, {data}", 1)
        for data in ("phone", "ml-1m")
        for library, name in (
            ("als", "implicit ALS"),
            ("bpr", "implicit BPR"),
            ("flexmf", "LensKit FlexMF"),
        )
    ),
    *(
        Target(
            "serve",
            ("http", items, clients, f"p{percent}_ms"),
            f"ms of a request to serve, p{percent}, {int(items):,} items, {clients} at a time",
            None,
        )
        for items in ("10000", "100000")
        for clients in ("1", "8")
        for percent in (50, 99)
    ),
    *(
        _ratio(
            "serve",
            f"{items}.answer.all",
            f"a user's items as served, {int(items):,}, against recommend",
            None,
        )
        for items in ("10000", "100000")
    ),
    *(
        _ratio("serve", f"{items}.faiss", f"an exact shortlist of {int(items):,} items against FAISS", None)
        for items in ("10000", "100000", "1000000")
    ),
    *(
        Target(
            "hundred_million",
            ("rows", "100000000", step, "peak_gib"),
            f"GiB of memory, 100M interactions, {step}",
            8,
            at_most=True,
        )
        for step in ("prepare", "train", "recommend")
    ),
)


def results() -> list[str]:
    """The names of the results that the targets are about, of the GPU's and of the growth's."""
    names = [target.benchmark for target in TARGETS]
    return [f"speed_{name}" for name in dict.fromkeys([*names, "gpu", "growth"])]


def rows() -> Iterator[Row]:
    """All targets with what the committed results say."""
    figures: dict[str, dict[str, Any]] = {}
    for target in TARGETS:
        if target.benchmark not in figures:
            figures[target.benchmark] = record.read_figures(f"speed_{target.benchmark}")
        found: Any = figures[target.benchmark]
        for key in target.path:
            found = found.get(key) if isinstance(found, dict) else None
        if isinstance(found, dict):
            yield Row(target, found["median"], found["low"], found["high"])
        else:
            yield Row(target, found)
