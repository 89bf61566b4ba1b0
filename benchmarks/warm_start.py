"""Training from random weights and from those of yesterday's run, once the dataset has grown.

    python -m benchmarks.warm_start

MovieLens 100K without its last tenth, in order of time, is yesterday's dataset; with it, today's. Each user's
last interaction is test and the one before it validation. Validation figures are recorded after every epoch.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from adar_ray import prepare, train
from adar_ray.config import Config, load_config
from adar_ray.data.dataset import Dataset
from adar_ray.data.fetch import fetch
from adar_ray.training.records import EpochRecord
from adar_ray.training.run import Run
from benchmarks import record
from benchmarks.arguments import argument_parser

GROWTH = 0.1
FEWER = "sampled_softmax.shared_negatives=512"  # the default when this was measured
METRIC = "ndcg@20"
SHARES = 0.95, 0.99  # of the best figure from random weights


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("--source", type=Path, help="MovieLens 100K as published, instead of a download")
    parser.add_argument("--models", nargs="+", default=["mf"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        yesterday, today = _datasets(arguments.source or fetch("ml-100k"), Path(scratch))
        figures = {
            model: _figures(yesterday, today, Path(scratch) / model, model, arguments.seeds)
            for model in arguments.models
        }
    record.write(
        "warm_start",
        figures,
        description="MovieLens 100K grown by its last tenth: epochs and processor seconds until validation "
        "NDCG@20 is 95 and 99 % of the best that training from random weights (cold) reaches, with "
        "--init-from (warm), and with it and a third of the learning rate (warm_slow); mean and standard "
        "deviation over seeds.",
        seeds=arguments.seeds,
    )


def _datasets(source: Path, scratch: Path) -> tuple[Dataset, Dataset]:
    """The source without its last tenth, and the whole source."""
    header, *lines = source.read_text().splitlines()
    at = [name.partition(":")[0] for name in header.split("\t")].index("timestamp")
    lines.sort(key=lambda line: float(line.split("\t")[at]))
    early = scratch / "yesterday.inter"
    early.write_text("\n".join([header, *lines[: round(len(lines) * (1 - GROWTH))]]) + "\n")
    return prepare(early, scratch / "yesterday"), prepare(source, scratch / "today")


def _figures(
    yesterday: Dataset, today: Dataset, scratch: Path, model: str, seeds: list[int]
) -> dict[str, Any]:
    rows: dict[str, list[dict[str, float]]] = {"cold": [], "warm": [], "warm_slow": []}
    for seed in seeds:
        settings = [f"model.name={model}", f"train.seed={seed}", "train.patience=5", FEWER]
        config = load_config(settings=settings)
        old = train(yesterday, scratch / f"old-{seed}", config, workers=0)
        slow = load_config(settings=[*settings, f"optimizer.lr={config.optimizer.lr / 3}"])
        courses = {
            name: _course(init_from, today, scratch / f"{name}-{seed}", its_config)
            for name, init_from, its_config in (
                ("cold", None, config),
                ("warm", old, config),
                ("warm_slow", old, slow),
            )
        }
        best = max(value for value, _ in courses["cold"])
        for name, course in courses.items():
            rows[name].append(_summary(course, best))
    return {name: {key: _spread([row[key] for row in of]) for key in of[0]} for name, of in rows.items()}


def _course(init_from: Run | None, data: Dataset, out: Path, config: Config) -> list[tuple[float, float]]:
    """Validation's figure after each epoch, and the processor's seconds until it was saved."""
    course, began = [], time.process_time()

    def on_epoch(epoch: EpochRecord) -> None:
        course.append((epoch.valid[METRIC], time.process_time() - began))

    train(data, out, config, workers=0, init_from=init_from, on_epoch=on_epoch)
    return course


def _summary(course: list[tuple[float, float]], best: float) -> dict[str, float]:
    """The first and the best figure, and when shares of `best` were reached: at the end if never."""
    summary = {"first": course[0][0], "best": max(value for value, _ in course), "all_epochs": len(course)}
    for share in SHARES:
        reached = (epoch for epoch, (value, _) in enumerate(course, 1) if value >= share * best)
        epochs = next(reached, len(course))
        summary |= {f"epochs_{share}": epochs, f"cpu_seconds_{share}": course[epochs - 1][1]}
    return summary


def _spread(values: list[float]) -> dict[str, float]:
    return {"mean": statistics.mean(values), "std": statistics.stdev(values)}


if __name__ == "__main__":
    main()
