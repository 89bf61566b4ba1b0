"""Seconds to the best validation NDCG@20 that another library reaches, ours against its own, on one core.

    python -m benchmarks.speed.time_to_quality --sources path/to/data --work scratch/

Each side tries as many points of a grid. Its time is that of its fastest point to reach the figure, start-up
included and validation not. Start-up of ours is that of `adar-ray train` in this process; that of the others
is their imports, reading, and setting up.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from adar_ray import train
from adar_ray.config import load_config
from adar_ray.data.dataset import Dataset
from benchmarks import record
from benchmarks.arguments import add_sources, argument_parser
from benchmarks.quality.data import DATA, prepared
from benchmarks.speed import ours, peers
from benchmarks.speed.measure import ceiling, one_core, run_process, short

Curve = list[tuple[float, float]]
"""Seconds since the start, and NDCG@20 at that time."""

GRIDS: dict[str, tuple[dict[str, float], ...]] = {
    "als": (
        {"regularization": 0.1, "alpha": 1},
        {"regularization": 1, "alpha": 1},
        {"regularization": 1, "alpha": 10},
        {"regularization": 10, "alpha": 10},
    ),
    "bpr": (
        {"learning_rate": 0.01, "regularization": 0.01},
        {"learning_rate": 0.05, "regularization": 0.01},
        {"learning_rate": 0.05, "regularization": 0.03},
        {"learning_rate": 0.1, "regularization": 0.01},
    ),
    "flexmf": (
        {"learning_rate": 0.003, "regularization": 0.01},
        {"learning_rate": 0.003, "regularization": 0.1},
        {"learning_rate": 0.01, "regularization": 0.01},
        {"learning_rate": 0.01, "regularization": 0.1},
    ),
}
_SOFTMAX = ("loss.name=sampled_softmax", "sampled_softmax.shared_negatives=512", "optimizer.lr=0.01")
_COSINE = (*_SOFTMAX, "model.cosine=true", "loss.l2=0")
OURS = (
    ("sampler.name=uniform", "uniform.negatives=8", "optimizer.lr=0.01", "loss.l2=0.03"),
    (
        *_SOFTMAX,
        "sampler.name=uniform",
        "sampled_softmax.temperature=1",
        "loss.l2=0.3",
        "train.batch_size=1024",
    ),
    (*_COSINE, "sampler.name=uniform"),
    (*_COSINE, "sampler.name=adar"),
)
EPOCHS = {"als": 15, "bpr": 100, "flexmf": 25, "ours": 40}
EVERY = {"bpr": 20}
"""Epochs from one validation to the next, where it is not one: implicit's BPR learns little in an epoch."""
PATIENCE = 4
DATASETS = ("phone", "ml-1m")


def main() -> None:
    parser = argument_parser(__doc__)
    add_sources(parser)
    parser.add_argument("--data", nargs="+", choices=DATASETS, default=list(DATASETS))
    arguments = parser.parse_args()
    one_core()
    work = arguments.work.resolve()
    figures: dict[str, Any] = {
        "ceiling": ceiling(),
        "missing": {},
        "peers": peers.versions("implicit", "lenskit"),
        "ratios": {},
        "cases": {},
    }
    for data in arguments.data:
        dataset = prepared(data, arguments.sources, work, DATA[data])
        arrays = ours.write_arrays(dataset, work / "arrays" / dataset.name)
        own = _our_curves(dataset, work)
        with peers.started(work, {"quality": {"arrays": str(arrays)}}, figures["missing"]) as running:
            for library, grid in GRIDS.items():
                try:
                    theirs = [_their_curve(running["quality"], library, point) for point in grid]
                except (KeyError, peers.PeerError) as error:
                    figures["missing"].setdefault(f"{data}.{library}", str(error))
                    print(f"left out: {library}: {error}", flush=True)
                    continue
                goal = max(figure for curve in theirs for _, figure in curve)
                case = {"ndcg@20": short(goal), "theirs": _time_to(goal, theirs), "ours": _time_to(goal, own)}
                figures["cases"][f"{data}.{library}"] = case
                ratio = short(case["theirs"] / case["ours"]) if case["ours"] else 0.0
                figures["ratios"][f"{data}.{library}"] = {"median": ratio, "low": ratio, "high": ratio}
                print(data, library, case, flush=True)
        best = max(figure for curve in own for _, figure in curve)
        figures["cases"][f"{data}.best"] = {"ndcg@20": short(best), "ours": _time_to(best, own)}
    record.write(
        "speed_time_to_quality",
        figures,
        description="Seconds until the best validation NDCG@20 of another library, start-up included and "
        "validation not, one core; ratios to ours, above 1 where ours is faster, 0 if ours never gets there.",
        seeds=[0],
    )


def _our_curves(dataset: Dataset, work: Path) -> list[Curve]:
    fixed = [*ours.MF, f"train.epochs={EPOCHS['ours']}", f"train.patience={PATIENCE}"]
    startup = _our_startup(dataset, work, fixed)
    print(f"ours: {startup:.1f} s to start", flush=True)
    curves = []
    for point in OURS:
        config = load_config(settings=[*fixed, *point])
        run = train(dataset, work / "runs" / "quality", config, workers=0, replace=True)
        seconds, curve = startup, []
        for epoch in run.epochs():
            seconds += epoch.time.train_seconds
            curve.append((seconds, epoch.valid["ndcg@20"]))
        curves.append(curve)
        print(point, curves[-1][-1], flush=True)
    return curves


def _our_startup(dataset: Dataset, work: Path, fixed: Sequence[str]) -> float:
    """Seconds of `adar-ray train` beside those of its only epoch."""
    out = work / "runs" / "quality"
    settings = [*fixed, "train.epochs=1", *OURS[0]]
    options = ["--workers", "0", "--replace", *(word for value in settings for word in ("--set", value))]
    finished = run_process([*ours.COMMAND, "train", "--data", dataset.folder.address, "--out", out, *options])
    return finished.seconds - ours.seconds_of_epochs(out)


def _their_curve(peer: peers.Peer, library: str, point: dict[str, float]) -> Curve:
    limits = {"epochs": EPOCHS[library], "every": EVERY.get(library, 1), "patience": PATIENCE}
    answer = peer.ask("curve", library=library, point=point, **limits)
    curve = [(answer["startup"] + seconds, figure) for seconds, figure in answer["curve"]]
    print(library, point, curve[-1], flush=True)
    return curve


def _time_to(goal: float, curves: Sequence[Curve]) -> float | None:
    """The first time at which any of the curves has the figure; None if none ever has."""
    times = [seconds for curve in curves for seconds, figure in curve if figure >= goal]
    return short(min(times)) if times else None


if __name__ == "__main__":
    main()
