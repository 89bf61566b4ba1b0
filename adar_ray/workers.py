"""How many workers training asks for: a number, or a range such as `1:4`."""

from __future__ import annotations

import re
from typing import NamedTuple

from adar_ray.errors import AdarError, one_line
from adar_ray.limits import MOST_WORKERS, check_number


class WorkerRange(NamedTuple):
    """As many workers as there is room for, from `least` to `most`."""

    least: int
    most: int

    @classmethod
    def parse(cls, asked: int | str, option: str = "--workers") -> WorkerRange:
        """Reads a number, or a range such as `1:4`.

        Args:
            option: what asks, for the message.

        Raises:
            AdarError: it is neither, or no worker is in the range.
        """
        match = re.fullmatch(r"([0-9]{1,9})(:([0-9]{1,9}))?", str(asked))
        where = f"{option} {one_line(asked, 40)}"
        if match is None:
            raise AdarError(f"{where}: give a number of workers, or a range such as 1:4")
        least, most = int(match[1]), int(match[3] or match[1])
        if match[2] and not 1 <= least <= most:
            raise AdarError(f"{where}: a range goes from one worker or more up, such as 1:4")
        check_number(option, most, 0, MOST_WORKERS)
        return cls(least, most)

    @property
    def asked(self) -> int | str:
        """What `parse` reads."""
        return self.least if self.least == self.most else f"{self.least}:{self.most}"
