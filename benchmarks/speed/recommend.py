"""Top 20 of all users of Gowalla to Parquet, against a script with implicit: time and memory, on one core.

    python -m benchmarks.speed.recommend --sources path/to/data --work scratch/

Both are processes from start to end, with the same factors, and leave out the same items.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from adar_ray import train
from adar_ray.config import load_config
from adar_ray.data.dataset import SPLITS
from adar_ray.inference.model import TrainedModel
from benchmarks import record
from benchmarks.arguments import add_sources, argument_parser
from benchmarks.quality.data import DATA, prepared
from benchmarks.speed import ours, peers
from benchmarks.speed.measure import (
    Finished,
    ProcessError,
    add,
    ceiling,
    compare,
    one_core,
    run_process,
    short,
)


def main() -> None:
    parser = argument_parser(__doc__)
    add_sources(parser)
    parser.add_argument("--rounds", type=int, default=3, help="timed processes of each side")
    arguments = parser.parse_args()
    one_core()
    work = arguments.work.resolve()
    dataset = prepared("gowalla", arguments.sources, work, DATA["gowalla"])
    run = work / "runs" / "recommend"
    config = load_config(settings=[*ours.MF, *ours.UNIFORM, "train.epochs=1", "train.valid_users=1"])
    train(dataset, run, config, workers=0, replace=True)
    arrays = _write_factors(TrainedModel.load(run), work / "arrays" / "recommend")
    figures: dict[str, Any] = {
        "ceiling": ceiling(),
        "missing": {},
        "peers": peers.versions("implicit"),
        "peak_gb": {},
    }
    out = work / "recommended"
    out.mkdir(exist_ok=True)
    python = peers.environment(work)
    variables = {"PYTHONPATH": str(Path(__file__).parents[2])}
    commands = {
        "ours": [*ours.COMMAND, "recommend", run, "--k", "20", "--out", out / "ours", "--replace"],
        "implicit": [python, "-m", "benchmarks.speed.peer_recommend", arrays, out],
    }
    ended: dict[str, list[Finished]] = {name: [] for name in commands}
    for number in range(arguments.rounds + 1):
        for name, command in list(commands.items()):
            try:
                finished = run_process(command, variables)
            except ProcessError as error:
                commands.pop(name)
                figures["missing"][name] = str(error)
                print(f"left out: {name}: {error}", flush=True)
                continue
            if number:  # the first reads everything from disk
                ended[name].append(finished)
            print(name, finished, flush=True)
    add(figures, compare({name: [one.seconds for one in several] for name, several in ended.items()}))
    for name, several in ended.items():
        if several:
            figures["peak_gb"][name] = short(max(one.peak_bytes for one in several) / 1e9)
    record.write(
        "speed_recommend",
        figures,
        description="Top 20 of all users of Gowalla to Parquet, one core, the whole process; "
        "ratios to ours, above 1 where ours is faster; peak memory of the process.",
        seeds=[0],
    )


def _write_factors(trained: TrainedModel, folder: Path) -> Path:
    """Writes what the script reads."""
    folder.mkdir(parents=True, exist_ok=True)
    dataset = trained.dataset
    np.save(folder / "user.npy", trained.model.user.weight.detach().numpy())
    np.save(folder / "item.npy", trained.model.item.weight.detach().numpy())
    seen = [np.column_stack(dataset.read_split(split)) for split in SPLITS]
    np.save(folder / "seen.npy", np.concatenate(seen))
    pq.write_table(pa.table({"key": dataset.user_keys()}), folder / "users.parquet")
    pq.write_table(pa.table({"key": dataset.item_keys()}), folder / "items.parquet")
    return folder


if __name__ == "__main__":
    main()
