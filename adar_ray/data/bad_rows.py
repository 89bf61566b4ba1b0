"""Rows that cannot be read: an error, or, up to a limit, skipped and listed."""

from __future__ import annotations

from dataclasses import dataclass, field

from adar_ray.errors import AdarError, counted, one_line

_TEXT_LIMIT = 1000


@dataclass(frozen=True)
class BadRow:
    """A skipped row: where it is, what is wrong, and what it holds."""

    unit: str
    number: int
    problem: str
    text: str

    @property
    def place(self) -> str:
        return f"{self.unit} {self.number}"


@dataclass
class BadRows:
    """The bad rows of one file.

    Args:
        path: the file.
        unit: what the numbers of its rows count.
        limit: how many rows may be skipped; with 0, the first bad row is an error.
        remedy: what to do about that.
    """

    path: str
    unit: str = "line"
    limit: int = 0
    remedy: str = "correct it, or skip such rows with --max-bad-rows"
    rows: list[BadRow] = field(default_factory=list)

    def add(self, number: int, problem: str, text: str) -> None:
        """Skip a row.

        Raises:
            AdarError: that is one too many.
        """
        self.rows.append(BadRow(self.unit, number, problem, one_line(text, _TEXT_LIMIT)))
        if len(self.rows) > self.limit:
            first = self.rows[0]
            if not self.limit:
                raise AdarError(f"{self.path}: {first.place}: {problem}; {self.remedy}")
            raise AdarError(
                f"{self.path}: more than {counted(self.limit, 'bad row')}; {first.place}: {first.problem}; "
                "correct the file, or raise --max-bad-rows"
            )
