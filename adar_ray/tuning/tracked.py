"""A search in trackers of experiments, whose trials are parts of it there."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator

from adar_ray.errors import AdarError
from adar_ray.training.callbacks import begin_search, end_search
from adar_ray.training.trackers import SearchEnd
from adar_ray.tuning.folder import Search
from adar_ray.tuning.trial import best_of

logger = logging.getLogger(__name__)


@contextlib.contextmanager
def tracked(search: Search) -> Iterator[None]:
    """Tells the trackers of a search, while it runs, that it does, and then what came of it.

    Raises:
        AdarError: a tracker failed, and nothing else did.
    """
    known = search.tracker_ids()
    ids = begin_search(search.config({}), search.folder, known)
    if ids != known:
        search.write_tracker_ids(ids)
    try:
        yield
    except BaseException:
        try:
            end_search(search.folder, ids, None)
        except AdarError as error:
            logger.warning("%s", error)
        raise
    best = best_of(search.read_trials(), search.space.mode)
    assert best is not None  # or the search would have failed
    figures = {f"best/{search.space.metric}": best.value_or_nan}
    end_search(search.folder, ids, SearchEnd(figures, {"trial": best.name, **best.values}))
