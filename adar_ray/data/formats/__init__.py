"""Every format that a source of interactions can have.

To add one, declare it (see `base.Format`) and list it in `FORMATS`.
"""

from __future__ import annotations

from adar_ray.data.formats.base import Format
from adar_ray.data.formats.csv import CSV
from adar_ray.data.formats.delimited import INTER, TSV
from adar_ray.data.formats.objects import JSONL, PYDICT
from adar_ray.data.formats.parquet import PARQUET
from adar_ray.data.formats.published import (
    AMAZON_2014,
    AMAZON_2018,
    CHECKINS,
    LASTFM_1K,
    ML_1M,
    ML_1M_MOVIES,
    ML_100K,
    ML_100K_ITEMS,
    ML_CSV,
)
from adar_ray.data.formats.user_items import PAIRS, USER_ITEMS

FORMATS: dict[str, Format] = {
    format.name: format
    for format in (
        INTER,
        ML_100K,
        ML_1M,
        ML_CSV,
        AMAZON_2014,
        AMAZON_2018,
        CHECKINS,
        LASTFM_1K,
        USER_ITEMS,
        PAIRS,
        CSV,
        TSV,
        PARQUET,
        JSONL,
        PYDICT,
    )
}
"""Formats by name. If several recognize a file, the first is taken."""

TITLE_FORMATS: dict[str, Format] = {
    "u.item": ML_100K_ITEMS,
    "movies.dat": ML_1M_MOVIES,
    "movies.csv": CSV,
    "*.item": INTER,
}
"""The files that name the items of a source, by their names beside its interactions.

The star stands for the name of the interactions' file up to the first dot.
"""
