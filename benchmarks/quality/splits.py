"""Whether validation is like test: how popular the items are that each of them holds out.

    python -m benchmarks.quality.splits --sources path/to/data --work scratch/

Popularity is an item's number of interactions in all splits together, so that what a split holds out does not
change it. Published splits come with a validation part drawn at random from training; fair ones are split
anew.
"""

from __future__ import annotations

import numpy as np

from adar_ray.data.dataset import SPLITS, Dataset
from benchmarks import record
from benchmarks.arguments import add_sources, argument_parser
from benchmarks.quality.data import DATA, FAIR, prepared

NAME = "quality_splits"
_POPULAR = 0.1  # of all interactions: those of the most popular items


def main() -> None:
    parser = argument_parser(__doc__)
    add_sources(parser)
    arguments = parser.parse_args()
    asked = {f"{name}@published": (name, options) for name, options in DATA.items() if "split" not in options}
    asked |= {f"{name}@fair": source for name, source in FAIR.items()}
    figures = {}
    for label, (source, options) in asked.items():
        figures[label] = held_out(prepared(source, arguments.sources, arguments.work, options))
        print(label, figures[label], flush=True)
    record.write(
        NAME,
        figures,
        description="By dataset and split: the mean popularity of the items in it, and the shares it holds "
        "of the interactions of the most popular items and of all others.",
        seeds=[],
    )


def held_out(dataset: Dataset) -> dict[str, dict[str, float]]:
    """By split: mean popularity, and its shares of popular items' interactions and of the others'."""
    items = {split: dataset.read_split(split)[1] for split in SPLITS}
    popularity_I = sum(np.bincount(item_E, minlength=dataset.n_items) for item_E in items.values())
    order_I = np.argsort(-popularity_I, kind="stable")
    popular = np.searchsorted(np.cumsum(popularity_I[order_I]), _POPULAR * popularity_I.sum()) + 1
    is_popular_I = np.isin(np.arange(dataset.n_items), order_I[:popular])
    totals = popularity_I[is_popular_I].sum(), popularity_I[~is_popular_I].sum()
    return {
        split: {
            "popularity": round(float(popularity_I[item_E].mean()), 1),
            "of_popular": round(float(is_popular_I[item_E].sum() / totals[0]), 4),
            "of_others": round(float((~is_popular_I[item_E]).sum() / totals[1]), 4),
        }
        for split, item_E in items.items()
    }


if __name__ == "__main__":
    main()
