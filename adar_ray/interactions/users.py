"""The users that a worker owns."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Users:
    """The users of some neighboring lanes: a range of ids.

    Legend: M lanes.

    Attributes:
        bounds: lane `lane + i` has the users from `bounds[i]` to before `bounds[i + 1]`, `[M + 1]`.
        lane: the first lane.
        lanes: the number of all lanes.
        total: the number of all users.
    """

    bounds: np.ndarray
    lane: int
    lanes: int
    total: int

    @property
    def first(self) -> int:
        """The first user."""
        return int(self.bounds[0])

    @property
    def last(self) -> int:
        """The one after the last user."""
        return int(self.bounds[-1])

    @property
    def count(self) -> int:
        return self.last - self.first
