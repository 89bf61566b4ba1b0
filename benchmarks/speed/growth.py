"""Time and memory of a step and an epoch of MF against everything that can grow, one thing at a time.

    python -m benchmarks.speed.growth --work scratch/

Every point runs in a process of its own on one core, which takes its peak memory with it. Workers train the
middle of the range through `adar-ray`, one thread each. Draws `docs/growth.svg`.
"""

from __future__ import annotations

import multiprocessing
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from adar_ray.interactions.user_items import UserItems
from benchmarks import record
from benchmarks.arguments import add_work, argument_parser
from benchmarks.speed import ours, synthetic
from benchmarks.speed.measure import ceiling, one_core, one_thread, short, spread, timed

BATCH = 2_048
_STEPS = 15  # timed, after three to warm up
_LONGEST = 300.0  # seconds that a point may take
PICTURE = Path(__file__).parents[2] / "docs" / "growth.svg"


@dataclass(frozen=True)
class Size:
    """What can grow, at the middle of its range."""

    users: int = 100_000
    items: int = 100_000
    interactions: int = 1_000_000
    dimension: int = 64
    negatives: int = 1


AXES: dict[str, tuple[int, ...]] = {
    "users": (10_000, 100_000, 1_000_000, 10_000_000),
    "items": (10_000, 100_000, 1_000_000, 10_000_000),
    "interactions": (20_000, 200_000, 2_000_000, 20_000_000),
    "dimension": (2, 16, 128, 1_024),
    "negatives": (1, 10, 100, 1_000),
}
WORKERS = (1, 2)
_LABELS = {"step_ms": "milliseconds of a step", "memory_gb": "gigabytes of memory"}


def main() -> None:
    parser = argument_parser(__doc__)
    add_work(parser)
    parser.add_argument("--without-workers", action="store_true", help="leave out the runs on Ray")
    arguments = parser.parse_args()
    one_thread()
    figures: dict[str, Any] = {"ceiling": ceiling(), "axes": {}}
    for axis, values in AXES.items():
        points = figures["axes"][axis] = []
        for value in values:
            points.append({axis: value} | _alone(replace(Size(), **{axis: value})))
            print(points[-1], flush=True)
    if not arguments.without_workers:
        figures["axes"]["workers"] = _by_workers(arguments.work)
    figures["middle"] = asdict(Size()) | {"batch": BATCH}
    record.write(
        "speed_growth",
        figures,
        description="Milliseconds of a step of MF, seconds of an epoch, peak memory of the process and size "
        "of weights and moments, one core; each axis grows alone from the middle.",
        seeds=[0],
    )
    draw(figures["axes"])


def _alone(size: Size) -> dict[str, Any]:
    """A point in a process of its own; its error if it does not fit in memory."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        try:
            return pool.apply_async(_measure, (size,)).get(_LONGEST)
        except (multiprocessing.TimeoutError, RuntimeError, MemoryError) as error:
            return {"error": type(error).__name__}


def _measure(size: Size) -> dict[str, Any]:
    one_core()
    before = _peak()
    user_E, item_E = ours.synthetic_pairs(size.users, size.items, size.interactions)
    observed = UserItems(user_E, item_E, size.users, size.items)
    settings = [
        *ours.MF,
        *ours.UNIFORM,
        f"model.embedding_dim={size.dimension}",
        f"uniform.negatives={size.negatives}",
    ]
    steps = ours.Steps(settings, observed, "cpu")
    batches = ours.pair_batches(user_E, item_E, BATCH)
    for _ in range(3):
        steps(*next(batches))
    staged = [next(batches) for _ in range(_STEPS)]
    median = spread([1e3 * timed(lambda batch=batch: steps(*batch)) for batch in staged])["median"]
    tensors = [*steps.model.parameters(), *steps.optimizer.tensors().values()]
    return {
        "step_ms": median,
        "epoch_s": short(median * size.interactions / BATCH / 1e3),
        "memory_gb": short((_peak() - before) / 1e9),
        "state_gb": short(sum(tensor.numel() * tensor.element_size() for tensor in tensors) / 1e9),
    }


def _peak() -> int:
    """The most memory that this process has had."""
    import resource

    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def _by_workers(work: Path) -> list[dict[str, Any]]:
    middle, points = Size(), []
    dataset = synthetic.dataset(work, middle.users, middle.items, middle.interactions)
    steps = -(-dataset.rows("train") // BATCH)
    for workers in WORKERS:
        settings = [*ours.MF, *ours.UNIFORM, f"train.batch_size={BATCH}"]
        seconds = ours.epochs(dataset, work / "runs" / "growth", settings, 3, workers=workers)[1:]
        median = spread(seconds)["median"]
        points.append({"workers": workers, "step_ms": short(1e3 * median / steps), "epoch_s": short(median)})
        print(points[-1], flush=True)
    return points


def draw(axes: dict[str, list[dict[str, Any]]]) -> None:
    """The picture: a panel for each axis, time and memory over it, both on logarithmic scales."""
    import matplotlib.style
    from matplotlib.figure import Figure

    with matplotlib.style.context(PICTURE.with_name("pictures.mplstyle")):
        figure = Figure(figsize=(9.6, 5.6), layout="constrained")
        panels = figure.subplots(2, -(-len(axes) // 2)).flatten()
        for panel in panels[len(axes) :]:
            panel.set_axis_off()
        for panel, (axis, points) in zip(panels, axes.items(), strict=False):
            for name, label in _LABELS.items():
                known = [(point[axis], point[name]) for point in points if name in point]
                if known:
                    panel.plot(*zip(*known, strict=True), marker="o", label=label)
            panel.set(xscale="log", yscale="log", xlabel=axis)
        panels[0].legend()
        figure.savefig(PICTURE, metadata={"Date": None})


if __name__ == "__main__":
    main()
