"""Made-up runs and searches, and what a page about them holds."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from adar_ray.config import load_config
from adar_ray.storage import Folder
from adar_ray.training.records import (
    EpochRecord,
    EpochTime,
    Evaluation,
    Group,
    Resumption,
    RunInfo,
    RunResult,
    Sample,
    SamplerStatistics,
)
from adar_ray.training.run import Run
from adar_ray.tuning.trial import Trial


class Page(HTMLParser):
    """The elements of a page, each with its text, and whether they are properly nested."""

    VOID = ("meta", "wbr")

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open, self.elements, self.nested = [], [], True
        self.feed(page)
        self.close()
        self.nested = self.nested and not self.open

    def handle_starttag(self, tag, attributes):
        element = {"tag": tag, "attributes": dict(attributes), "text": ""}
        self.elements.append(element)
        if tag not in self.VOID:
            self.open.append(element)

    def handle_startendtag(self, tag, attributes):
        self.elements.append({"tag": tag, "attributes": dict(attributes), "text": ""})

    def handle_endtag(self, tag):
        self.nested = self.nested and bool(self.open) and self.open.pop()["tag"] == tag

    def handle_data(self, data):
        for element in self.open:
            element["text"] += data

    def texts(self, tag: str) -> list[str]:
        return [element["text"].strip() for element in self.elements if element["tag"] == tag]

    def figures(self) -> dict[str, dict[str, Any]]:
        """What Plotly draws, by what it shows."""
        names = [
            element["attributes"]["aria-label"] for element in self.elements if element["tag"] == "figure"
        ]
        contents = [
            json.loads(element["text"])
            for element in self.elements
            if element["attributes"].get("type") == "application/json"
        ]
        return dict(zip(names, contents, strict=True))


def trial(number: int, value: float | None, status: str = "finished", **values) -> Trial:
    return Trial(
        number=number,
        values=values,
        started=4.0 * number,
        status=status,
        epochs=3,
        best_epoch=None if value is None else 2,
        value=value,
        seconds=10.0 + 4 * (-number % 3),  # some end at the same time
        curve=[] if value is None else [value / 2, value, value * 0.9],
    )


def made_up_search(trials: int = 24) -> list[Trial]:
    draw = random.Random(0)
    made = []
    for number in range(trials):
        name = draw.choice(["bpr", "sampled_softmax"])
        parameters = {"adar.beta": draw.uniform(0.5, 1), "optimizer.lr": 10 ** draw.uniform(-4, -1)}
        parameters["loss.name"] = name
        if name != "bpr":
            parameters["sampled_softmax.temperature"] = draw.uniform(0.1, 1)
        status = draw.choice(["finished", "stopped"])
        made.append(trial(number, draw.random(), status, **parameters))
    made[3] = made[3].model_copy(
        update={"status": "failed", "value": None, "curve": [], "error": "no space\n  left on device"}
    )
    made[5].status, made[7].status = "failed", "interrupted"
    return made


def made_up_run(
    folder: Path,
    *settings: str,
    epochs: int = 12,
    best: int = 9,
    evaluated: Sequence[float] | None = None,
) -> Run:
    """A finished run whose figures are sums that can be done by hand.

    Args:
        evaluated: the metric of each user, to be evaluated as this version does; otherwise as an earlier one.
    """
    config = load_config(settings=[*settings, f"train.epochs={epochs}"])
    info = RunInfo(
        dataset="/data/<b>shop",
        dataset_checksum="0" * 64,
        workers="1:4",
        versions={"python": "3.11.2", "torch": "2.13.0"},
        began="2026-11-27 20:55 UTC",
        resumed=[Resumption(epoch=5, changes={"optimizer.lr": [0.01, 0.003]})],
    )
    run = Run(Folder.at(folder), config, info, trust=True)
    run.write_config()
    adar = (
        {"uncrossed": 0.05, "timesteps": [0.1, 0.2, 0.4, 0.3, 0.0]} if config.sampler.name == "adar" else {}
    )
    records = [
        EpochRecord(
            epoch=epoch,
            loss=1 / epoch,
            penalty=0.01,
            sampler=SamplerStatistics(
                hardness=0.5 - 0.02 * epoch, timestep=0.03 * epoch if adar else None, **adar
            ),
            valid={"ndcg@20": 0.2 - 0.001 * (epoch - best) ** 2, "recall@20": 0.25},
            time=EpochTime(train_seconds=1, valid_seconds=0.1, interactions_per_second=1e5),
            best_epoch=min(epoch, best),
        )
        for epoch in range(1, epochs + 1)
    ]
    run.write_epochs(records)
    valid = records[best - 1].valid
    run.folder.write_record(
        "result.json", RunResult(best_epoch=best, epochs=epochs, valid=valid, train_seconds=723.4)
    )
    metrics = {
        f"{name}@{k}": k / size for name, size in (("recall", 100), ("popularity", 0.1)) for k in (10, 20)
    }
    record = Evaluation(split="test", users=6_040, metrics=metrics)
    if evaluated is not None:
        value_U = np.array(evaluated)
        users = pa.table({"user": [f"u{user}" for user in range(len(value_U))], "ndcg@20": value_U})
        record = Evaluation(
            **record.model_dump(include={"split", "users"}),
            metrics={**metrics, "ndcg@20": float(value_U.mean())},
            groups=made_up_groups(),
            popularity={"ndcg@20": 0.13},
            popularity_p={"ndcg@20": 0.012},
            samples=[
                Sample(
                    user="u7 <b>",
                    history=["Alien (1979)", "A film with a title that goes on and on, The (1995)"],
                    items=["Brazil <i>", "Heat", "Seven", "Fargo", "Twelve Monkeys (1995)"],
                    hits=[False, True, False, False, False],
                )
            ],
            per_user=run.folder.write_table("evaluation/test.parquet", users).sha256,
        )
    run.folder.write_record("evaluation/test.json", record)
    return run


def made_up_groups() -> dict[str, list[Group]]:
    bounds = {
        "activity": [(1, 20), (21, 57), (58, 130), (131, 2_314)],
        "popularity": [(0, 310), (311, 912), (913, 3_428)],
        "cohort": [("2000-04-25T23:05:32Z", "2000-07-11T00:00:00Z"), ("2000-07-11T00:00:01Z",) * 2],
    }

    def metrics(name: str, at: int) -> dict[str, float]:
        shown = {"share@20": at / 10} if name == "popularity" else {}
        return {"recall@20": 0.1 * at, "ndcg@10": 0.3, "ndcg@20": 0.2 + 0.1 * at, **shown}

    return {
        name: [
            Group(first=first, last=last, size=1_510 - at, users=1_500, metrics=metrics(name, at))
            for at, (first, last) in enumerate(ends)
        ]
        for name, ends in bounds.items()
    }
