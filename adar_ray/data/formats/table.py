"""What formats with one interaction per line share: a separator, and a header that may be missing."""

from __future__ import annotations

import dataclasses
import re
from abc import abstractmethod
from dataclasses import dataclass

from adar_ray.data.columns import looks_named
from adar_ray.data.formats.base import Format
from adar_ray.data.options import ReadOptions
from adar_ray.data.values import NUMBER
from adar_ray.errors import AdarError, one_line

_SAMPLE = 100


@dataclass(frozen=True, kw_only=True)
class Table(Format):
    """Lines of fields.

    Args:
        delimiter: what separates the fields; None for runs of ASCII white space.
        columns: the fields of a line; None if a header names them.
        has_free_header: whether a header may be missing. `adapted` settles it, with numbers for columns.
    """

    delimiter: str | None
    columns: tuple[str, ...] | None = None
    has_free_header: bool = False

    @abstractmethod
    def first_records(self, path: str, count: int) -> list[list[str]]:
        """The fields of the first lines that are not blank, the header included, without outer spaces."""

    def column_names(self, path: str) -> list[str]:
        return list(self.columns) if self.columns is not None else self.first_records(path, 1)[0]

    def adapted(self, path: str, options: ReadOptions, given_columns: dict[str, str]) -> Format:
        if not self.has_free_header:
            return super().adapted(path, options, given_columns)
        table = self if options.separator is None else self.with_separator(options.separator)
        table = table.in_encoding(options.encoding)
        first, *sample = table.first_records(path, _SAMPLE)
        header = options.header or _guess_header(path, first, sample, given_columns)
        if header == "first":
            return dataclasses.replace(table, has_free_header=False)
        if not given_columns:
            raise AdarError(
                f"{path}: its first line is data ({one_line(', '.join(first), 80)}), so it names no columns; "
                "give them by number, for example --columns user=1,item=2,timestamp=3, or pass --header first"
            )
        names = _names_without_header(path, first, given_columns, is_sure=options.header is not None)
        return dataclasses.replace(table, has_free_header=False, columns=names)

    def with_separator(self, separator: str) -> Table:
        """This format with another separator.

        Raises:
            AdarError: the format cannot have this one.
        """
        is_any_blank = separator.isspace() and separator != "\t"
        return dataclasses.replace(self, delimiter=None if is_any_blank else separator)


def _names_without_header(
    path: str, first: list[str], given: dict[str, str], *, is_sure: bool
) -> tuple[str, ...]:
    """Names of the columns: their numbers, or what the first line holds where `given` says that instead.

    Args:
        is_sure: whether the user has said that there is no header.
    """
    names = [str(number) for number in range(1, len(first) + 1)]
    for name in given.values():
        number = names.index(name) if name in names else None
        if first.count(name) != 1 or number == first.index(name):
            continue
        if number is None:
            names[first.index(name)] = name
        elif not is_sure:
            raise AdarError(
                f"{path}: --columns names {name}, which may be the number of a column or what the first line "
                f"holds in another; pass --header none if it is the number"
            )
    return tuple(names)


def _guess_header(path: str, first: list[str], sample: list[list[str]], given: dict[str, str]) -> str:
    """Whether the first line names the columns: `first` or `none`.

    Raises:
        AdarError: it could be both.
    """
    named = [name for key, name in given.items() if key in ("user", "item")]
    same_length = [record for record in sample if len(record) == len(first)]
    repeats = any(
        record[first.index(name)] == name for name in named if name in first for record in same_length
    )
    if looks_named(first, given) and not repeats and not any(map(_is_number, named)):
        return "first"
    if not any(map(_is_number, first)):
        if repeats:
            raise AdarError(
                f"{path}: its first line ({one_line(', '.join(first), 80)}) repeats further down, so it "
                "may be data; pass --header none and give columns by number, or --header first"
            )
        return "first"
    if first in (list(map(str, range(len(first)))), list(map(str, range(1, len(first) + 1)))):
        raise AdarError(
            f"{path}: its first line ({', '.join(first)}) may be data or not; pass --header first or none"
        )
    return "none"


def _is_number(field: str) -> bool:
    return re.fullmatch(NUMBER, field) is not None
