"""`adar-ray prepare` against the same by hand with DuckDB and polars: time and peak memory, on one core.

    python -m benchmarks.speed.prepare --work scratch/

The source is a CSV of synthetic interactions. Each side keeps a user's first interaction with an item, holds
out each user's last two, numbers users and items, and writes Parquet. All are processes from start to end.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from benchmarks import record
from benchmarks.arguments import add_work, argument_parser
from benchmarks.speed import ours, peers, synthetic
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

SIZES = {"2M": (50_000, 20_000, 2_000_000), "20M": (500_000, 100_000, 20_000_000)}
"""Users, items and rows."""
ROUNDS = {"2M": 3, "20M": 1}


def main() -> None:
    parser = argument_parser(__doc__)
    add_work(parser)
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=list(SIZES))
    arguments = parser.parse_args()
    one_core()
    work = arguments.work.resolve()
    python = peers.environment(work)
    figures: dict[str, Any] = {
        "ceiling": ceiling(),
        "missing": {},
        "peers": peers.versions("duckdb", "polars"),
        "peak_gb": {},
    }
    variables = {"PYTHONPATH": str(Path(__file__).parents[2]), "POLARS_MAX_THREADS": "1"}
    for size in arguments.sizes:
        source, out = synthetic.source(work, *SIZES[size], "csv"), work / "prepared"
        source.read_bytes()  # into the page cache, for all sides
        script = [python, "-m", "benchmarks.speed.peer_prepare"]
        commands: dict[str, list[Any]] = {
            "ours": [*ours.COMMAND, "prepare", source, "--out", out / "ours", "--replace"],
            "duckdb": [*script, "duckdb", source, out / "duckdb"],
            "polars": [*script, "polars", source, out / "polars"],
        }
        ended: dict[str, list[Finished]] = {name: [] for name in commands}
        for _ in range(ROUNDS[size]):
            for name, command in commands.items():
                if f"{size}.{name}" in figures["missing"]:
                    continue
                try:
                    ended[name].append(run_process(command, variables))
                    print(size, name, ended[name][-1], flush=True)
                except ProcessError as error:
                    figures["missing"][f"{size}.{name}"] = str(error)
                    print(f"left out: {name}: {error}", flush=True)
        shutil.rmtree(out, ignore_errors=True)
        seconds = {name: [one.seconds for one in several] for name, several in ended.items()}
        add(figures, compare(seconds, f"{size}."))
        for name, several in ended.items():
            if several:
                peak = max(one.peak_bytes for one in several)
                figures["peak_gb"][f"{size}.{name}"] = short(peak / 1e9)
    record.write(
        "speed_prepare",
        figures,
        description="From a CSV to a split dataset in Parquet, one core, the whole process; "
        "ratios to ours, above 1 where ours is faster; peak memory of the process.",
        seeds=[0],
    )


if __name__ == "__main__":
    main()
