"""Titles of items, from a file beside a source's interactions or from one that the user names.

Legend: R rows, each with an item and a title, I items.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from adar_ray.data.bad_rows import BadRow, BadRows
from adar_ray.data.columns import title_columns
from adar_ray.data.files import UTF8, chunks
from adar_ray.data.formats import TITLE_FORMATS
from adar_ray.data.formats.base import Format
from adar_ray.data.options import ReadOptions
from adar_ray.data.sources import Source, find_file
from adar_ray.data.values import ValueConverter, into_bad_rows
from adar_ray.errors import AdarError, counted, one_line
from adar_ray.storage import resolve, split_options

_BLOCK_BYTES = 1 << 21
_PENDING = 1 << 18  # rows that may wait: looking for all the keys takes a while
_NO_LETTERS = r"[\p{Z}\p{Cc}]+"  # white space and control characters: a title is one line


@dataclass(frozen=True)
class TitleFile:
    """A file of items and their titles.

    Attributes:
        columns: its own names for `item` and `title`.
        is_given: whether the user has named it.
    """

    path: str
    format: Format
    columns: dict[str, str]
    options: ReadOptions
    is_given: bool


@dataclass(frozen=True)
class Titles:
    """What a file of titles says about the items of a source.

    Attributes:
        path: the file.
        title_I: by item, null where it has none.
        several_I: whether the file has further titles of the item.
        bad: the rows that were skipped.
    """

    path: str
    title_I: pa.Array
    several_I: np.ndarray
    bad: list[BadRow]

    def of(self, item: np.ndarray) -> Titles:
        """The titles of some of the items."""
        return Titles(self.path, self.title_I.take(pa.array(item)), self.several_I[item], self.bad)

    def notes(self) -> list[str]:
        """What people should know about the titles."""
        name, notes = self.path.rpartition("/")[2], []
        if self.bad:
            notes.append(f"{counted(len(self.bad), 'bad row')} of {name} skipped; see bad_rows.jsonl")
        if missing := self.title_I.null_count:
            notes.append(f"{name} has no title for {missing:,} of {counted(len(self.title_I), 'item')}")
        if several := int(self.several_I.sum()):
            notes.append(
                f"{counted(several, 'item has', 'items have')} several titles in {name}; "
                "the first of each was kept"
            )
        return notes


def find_titles(source: Source, given: str | None, options: ReadOptions) -> TitleFile | None:
    """The file that names a source's items; None if there is none.

    Args:
        given: its address, or an empty text for none; None for what lies beside the interactions.
        options: of the source. Its encoding counts if the file is not in UTF-8.

    Raises:
        AdarError: the given file is not there, or has no columns for items and titles.
    """
    if given == "":
        return None
    item = source.files[0].columns["item"]
    if given is not None:
        path, format = find_file(given, options.encoding, TITLE_FORMATS)
        format = in_its_encoding(path, format, options)
        names = format.column_names(path)
        columns = title_columns(names, item)
        if columns is None:
            raise AdarError(
                f"{path}: no columns for items and titles among {one_line(', '.join(names))}; "
                "call them item and title in its first line"
            )
        return TitleFile(path, format, columns, options, is_given=True)
    for path, format in _beside(source.files[0].path):
        format = in_its_encoding(path, format, options)
        columns = title_columns(format.column_names(path), item)
        if columns is not None:
            return TitleFile(path, format, columns, options, is_given=False)
    return None


def _beside(path: str) -> list[tuple[str, Format]]:
    """The files next to a source's file whose names are those of titles."""
    place, options = split_options(path)
    folder, _, name = place.rpartition("/")
    found = []
    for pattern, format in TITLE_FORMATS.items():
        address = f"{folder}/{pattern.replace('*', name.partition('.')[0])}{options}"
        filesystem, inside = resolve(address)
        info = filesystem.get_file_info(inside)
        if info.is_file and info.size:
            found.append((address, format))
    return found


def in_its_encoding(path: str, format: Format, options: ReadOptions) -> Format:
    """The format in UTF-8 if the file is, or else as the options or the format have it.

    MovieLens 1M is in Latin-1, and 10M in UTF-8, under the same name.
    """
    other = options.encoding or format.encoding
    if format.encoding is None or other == UTF8:
        return format
    is_utf8 = all(_is_utf8(chunk) for _, chunk in chunks(path, _BLOCK_BYTES))
    return format.in_encoding(UTF8 if is_utf8 else other)


def _is_utf8(chunk: bytes) -> bool:
    try:
        chunk.decode()
    except UnicodeDecodeError:
        return False
    return True


def read_titles(file: TitleFile, keys: pa.Array) -> Titles:
    """Read the titles of the items with these keys, in memory that grows with them, not with the file.

    Raises:
        AdarError: the file cannot be read, has too many bad rows, or was given and names none of the items.
    """
    bad = BadRows(file.path, file.format.row_unit, file.options.max_bad_rows)
    converter = ValueConverter(file.options)
    found = pa.table({"item": pa.array([], pa.int32()), "title": pa.array([], pa.string())})
    pending: list[pa.Table] = []
    for columns, places in file.format.read(file.path, file.columns, _BLOCK_BYTES, bad):
        on_bad = into_bad_rows(bad, columns, places)
        pending.append(pa.table(converter.convert(columns, on_bad)))
        if sum(map(len, pending)) > max(_PENDING, len(found)):
            found, pending = _together(found, pending, keys), []
    found = _together(found, pending, keys)
    if file.is_given and not found.num_rows:
        raise AdarError(
            f"{file.path}: has no title of any item; its column {file.columns['item']!r} has to hold ids as "
            f"the interactions do, such as {keys[0].as_py()!r}"
        )
    titled, first, count = np.unique(found["item"].to_numpy(), return_index=True, return_counts=True)
    at_I = np.full(len(keys), -1)
    at_I[titled] = first
    several_I = np.zeros(len(keys), dtype=bool)
    several_I[titled] = count > 1
    title_I = found["title"].combine_chunks().take(pa.array(at_I, mask=at_I < 0))
    return Titles(file.path, title_I, several_I, bad.rows)


def _together(found: pa.Table, pending: list[pa.Table], keys: pa.Array) -> pa.Table:
    """The different pairs of an item's number and a title, in their order: those before, and further rows."""
    if not pending:
        return found
    rows = pa.concat_tables(pending)
    title_R = plain_text(rows["title"])
    rows = pa.table({"item": pc.index_in(rows["item"], value_set=keys), "title": title_R})
    rows = rows.filter(pc.and_(pc.is_valid(rows["item"]), pc.not_equal(title_R, "")))
    return pa.concat_tables([found, rows]).group_by(["item", "title"], use_threads=False).aggregate([])


def plain_text(text: pa.Array) -> pa.Array:
    """Texts of one line: white space within is one space, and around it none."""
    return pc.utf8_trim_whitespace(pc.replace_substring_regex(text, _NO_LETTERS, " "))
