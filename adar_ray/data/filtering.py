"""The third step of `prepare`: drop users and items with few interactions."""

from __future__ import annotations

from collections.abc import Generator

import numpy as np
import pyarrow as pa

from adar_ray.data.choosing import Chosen
from adar_ray.data.driver import Driver, OnRows
from adar_ray.data.sorting import Counted, count_both
from adar_ray.errors import AdarError, counted


def filter_core(driver: Driver, chosen: Chosen, core: int, on_rows: OnRows) -> tuple[np.ndarray, np.ndarray]:
    """Count the interactions of each user and item after filtering; 0 if dropped.

    Args:
        core: drop those with fewer interactions, again and again until all have as many.
        on_rows: told the number of interactions that are left.

    Raises:
        AdarError: nothing is left.
    """
    user_counts, item_counts = chosen.user_counts, chosen.item_counts
    everything = int(user_counts.sum())
    while core > 1:
        kept_users, kept_items = user_counts * (user_counts >= core), item_counts * (item_counts >= core)
        if (kept_users == user_counts).all() and (kept_items == item_counts).all():
            break
        kept = driver.share(kept_users > 0), driver.share(kept_items > 0)
        user_counts, item_counts = np.zeros_like(user_counts), np.zeros_like(item_counts)
        for result in driver.run(_count_kept, [(part, *kept) for part in chosen.parts]):
            users, items = result.found
            users.add_to(user_counts)
            items.add_to(item_counts)
        on_rows(int(user_counts.sum()))
    if not user_counts.any():
        hint = (
            f"--core {core} leaves none of {counted(everything, 'interaction')}"
            if everything
            else "--min-rating"
        )
        raise AdarError(f"filtering leaves nothing ({hint}); filter less")
    return user_counts, item_counts


def _count_kept(
    part: pa.Table, keeps_user: np.ndarray, keeps_item: np.ndarray
) -> Generator[pa.Table, None, tuple[Counted, Counted]]:
    yield from ()
    user, item = part["user"].to_numpy(), part["item"].to_numpy()
    both = keeps_user[user] & keeps_item[item]
    return count_both(user[both], item[both])
