"""A step of MF against the size of the catalog, at one batch: 100,000 users, d = 64, batch 2,048.

    python -m benchmarks.speed.catalog

A step that updates the rows of its batch alone should take the same time for every catalog.
"""

from __future__ import annotations

from typing import Any

from adar_ray.interactions.user_items import UserItems
from benchmarks import record
from benchmarks.arguments import argument_parser
from benchmarks.speed import ours
from benchmarks.speed.measure import Side, add, alternate, ceiling, compare, one_core, timed

SIZES = {"1e4": 10_000, "1e5": 100_000, "1e6": 1_000_000, "5e6": 5_000_000}
USERS, INTERACTIONS, BATCH = 100_000, 1_000_000, 2_048
STEPS = 40  # of one turn


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("--rounds", type=int, default=7, help=f"turns of {STEPS} steps for each size")
    arguments = parser.parse_args()
    one_core()
    figures: dict[str, Any] = {"ceiling": ceiling()}
    sides = {name: _side(items) for name, items in SIZES.items()}
    for side in sides.values():  # to warm up
        side()
    seconds = alternate(sides, arguments.rounds)
    per_step = {name: [taken / STEPS for taken in row] for name, row in seconds.items()}
    # Above 1 where the larger catalog is faster.
    for name in SIZES:
        if name != "1e4":
            add(figures, compare({"1e4": per_step["1e4"], name: per_step[name]}, f"{name}.", ours=name))
    print(figures, flush=True)
    record.write(
        "speed_catalog",
        figures,
        description="Seconds of a step of MF by number of items, batch 2,048, one core; ratios of the step "
        "with 10,000 items to it.",
        seeds=[0],
    )


def _side(items: int) -> Side:
    user_E, item_E = ours.synthetic_pairs(USERS, items, INTERACTIONS)
    steps = ours.Steps([*ours.MF, *ours.UNIFORM], UserItems(user_E, item_E, USERS, items), "cpu")
    batches = ours.pair_batches(user_E, item_E, BATCH)

    def turn() -> float:
        staged = [next(batches) for _ in range(STEPS)]
        return timed(lambda: [steps(*batch) for batch in staged])

    return turn


if __name__ == "__main__":
    main()
