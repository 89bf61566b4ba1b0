"""Features of items, from a file: categories and numbers.

Legend: R rows of the file, E texts in them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as pat

from adar_ray.data.bad_rows import BadRow, BadRows
from adar_ray.data.columns import item_column, title_column
from adar_ray.data.dataset import CATEGORIES
from adar_ray.data.formats import TITLE_FORMATS
from adar_ray.data.formats.base import FEATURE, Format
from adar_ray.data.options import ReadOptions
from adar_ray.data.sources import find_file
from adar_ray.data.titles import in_its_encoding, plain_text
from adar_ray.data.values import (
    NUMBER,
    OnBadValue,
    ValueConverter,
    id_text,
    into_bad_rows,
    python_value,
)
from adar_ray.errors import AdarError, counted, one_line
from adar_ray.limits import LARGEST_RATING

Kind = Literal["categories", "number"]
KINDS: tuple[Kind, ...] = ("categories", "number")

_BLOCK_BYTES = 1 << 24
_SEPARATOR = "|"
_OF_TYPES: dict[str, tuple[Kind, str | None]] = {  # RecBole's, and what separates several
    "token": ("categories", None),
    "token_seq": ("categories", " "),
    "float": ("number", None),
}


@dataclass(frozen=True)
class FeatureFile:
    """A file of items and their features.

    Attributes:
        item, title: its own names for the columns of items' ids and titles; None if it has no titles.
        kinds: what each other column that is read holds; None if its values tell.
        separators: between several categories in a text, by column; None if a text is one category.
    """

    path: str
    format: Format
    item: str
    title: str | None
    kinds: dict[str, Kind | None]
    separators: dict[str, str | None]
    options: ReadOptions


@dataclass(frozen=True)
class FeatureTable:
    """What a file says about items.

    Attributes:
        path: the file.
        item: their ids, each once.
        titles: theirs, null where one has none; None if the file has no titles.
        features: a column of texts, or of numbers, for each kind of feature; null where an item has none.
        several: how many items have further rows, which do not count.
        strangers: how many rows are of items that nobody asked for.
        bad: the rows that were skipped.
    """

    path: str
    item: pa.Array
    titles: pa.Array | None
    features: pa.Table
    several: int
    strangers: int
    bad: list[BadRow]

    def of(self, keys: pa.Array) -> FeatureTable:
        """The features of the items with these ids, null for those that the file does not have."""
        at = pc.index_in(keys, value_set=self.item)
        return replace(
            self,
            item=keys,
            titles=None if self.titles is None else self.titles.take(at),
            features=self.features.take(at),
            strangers=self.strangers + len(self.item) - (len(at) - at.null_count),
        )

    def has_some(self) -> pa.Array:
        """Whether each item has any feature."""
        has = [column.combine_chunks().is_valid().to_numpy(False) for column in self.features.columns]
        return pa.array(np.any(has, axis=0))

    def notes(self) -> list[str]:
        """What people should know about the rows of the file."""
        name, notes = self.path.rpartition("/")[2], []
        if self.bad:
            notes.append(f"{counted(len(self.bad), 'bad row')} of {name} skipped; see bad_rows.jsonl")
        if self.several:
            notes.append(
                f"{counted(self.several, 'item has', 'items have')} several rows in {name}; "
                "the first of each was kept"
            )
        return notes


def find_features(
    given: str, item: str, kinds: Mapping[str, str] | None, options: ReadOptions, *, all_there: bool = True
) -> FeatureFile:
    """The columns of a file of items, and what they hold.

    Args:
        given: its address.
        item: what the interactions call the item.
        kinds: the columns to read, each with one of `KINDS`; None for all, with what their values show.
        options: of the source. Its encoding counts if the file is not in UTF-8.
        all_there: whether the file has to have all columns of `kinds`, not only some.

    Raises:
        AdarError: the file is not there, or lacks a column.
    """
    path, format = find_file(given, options.encoding, TITLE_FORMATS)
    format = in_its_encoding(path, format, options)
    names, types = format.column_names(path), format.column_types(path)
    there = one_line(", ".join(names))
    key, title = item_column(names, item), title_column(names)
    if key is None:
        names_it = "item" if item == "item" else f"item, or {item} as the interactions do"
        raise AdarError(f"{path}: no column for items among {there}; call it {names_it}")
    others = [name for name in names if name not in (key, title)]
    if kinds is not None and not all_there:
        kinds = {name: kind for name, kind in kinds.items() if name in others} or kinds
    for name, kind in (kinds or {}).items():
        if kind not in KINDS:
            raise AdarError(f"--item-columns {name}={kind}: give one of {', '.join(KINDS)}")
        if name not in names or name == key:
            raise AdarError(f"{path}: no column {name!r} of features; its columns are {there}")
    if not others and not kinds:
        raise AdarError(f"{path}: no column of features beside {there}; add some, such as a category")
    known = {name: _OF_TYPES.get(types.get(name, ""), (None, _SEPARATOR)) for name in names}
    read: dict[str, Kind | None] = {name: known[name][0] for name in others}
    if kinds is not None:
        read = {name: "number" if kind == "number" else "categories" for name, kind in kinds.items()}
    if "item" in read:
        raise AdarError(
            f"{path}: has columns {key} and item, and takes {key} for the items' ids; rename the other, or "
            "leave it out by --item-columns"
        )
    return FeatureFile(path, format, key, title, read, {name: known[name][1] for name in read}, options)


def read_features(file: FeatureFile, keys: pa.Array | None = None) -> FeatureTable:
    """Read the features of items in memory.

    Args:
        keys: the ids of the items to read; all by default, as of a file whose bad rows cannot be skipped.

    Raises:
        AdarError: the file cannot be read, has too many bad rows, or has none of the items.
    """
    bad = BadRows(file.path, file.format.row_unit, file.options.max_bad_rows)
    if keys is None:
        bad.remedy = "correct it"
    columns = {"item": file.item} | {FEATURE + name: name for name in file.kinds}
    if file.title is not None:
        columns["title"] = file.title
    converter, blocks, strangers = _Converter(file), [], 0
    for found, places in file.format.read(file.path, columns, _BLOCK_BYTES, bad):
        rows = converter(found, into_bad_rows(bad, found, places))
        known = rows if keys is None else rows.filter(pc.is_in(rows["item"], value_set=keys))
        blocks.append(known)
        strangers += len(rows) - len(known)
    table = (
        pa.concat_tables(blocks).combine_chunks() if blocks else pa.table({"item": pa.array([], pa.string())})
    )
    if not table.num_rows:
        such = "" if keys is None else f", such as {keys[0].as_py()!r}"
        raise AdarError(
            f"{file.path}: has no row of any item; its column {file.item!r} has to hold ids as the "
            f"interactions do{such}"
        )
    item = table["item"].combine_chunks().dictionary_encode()
    _, first, count = np.unique(item.indices.to_numpy(), return_index=True, return_counts=True)
    table = table.take(pa.array(first))
    return FeatureTable(
        path=file.path,
        item=table["item"].combine_chunks(),
        titles=table["title"].combine_chunks() if file.title is not None else None,
        features=pa.table(
            {
                name: _settled(table[FEATURE + name].combine_chunks(), kind)
                for name, kind in file.kinds.items()
            }
        ),
        several=int((count > 1).sum()),
        strangers=strangers,
        bad=bad.rows,
    )


class _Converter:
    """Converts blocks of rows: ids and titles to text, features to lists of texts or to numbers."""

    def __init__(self, file: FeatureFile) -> None:
        self._file, self._values = file, ValueConverter(file.options)

    def __call__(self, found: dict[str, pa.Array], on_bad: OnBadValue) -> pa.Table:
        """The good rows."""
        wrong: set[int] = set()

        def note(index: int, problem: str) -> None:
            if index not in wrong:
                wrong.add(index)
                on_bad(index, problem)

        self._values.convert({"item": found["item"]}, note)
        columns: dict[str, pa.Array] = {"item": found["item"]}
        if "title" in found:
            columns["title"] = plain_text(found["title"].cast(pa.string()))
        for name, kind in self._file.kinds.items():
            columns[FEATURE + name] = self._feature(name, kind, found[FEATURE + name], note)
        is_good_R = np.ones(len(found["item"]), bool)
        is_good_R[list(wrong)] = False
        rows = pa.table(columns).filter(pa.array(is_good_R))
        (item,) = self._values.convert({"item": rows["item"].combine_chunks()}, on_bad).values()
        return rows.set_column(0, "item", item)

    def _feature(self, name: str, kind: Kind | None, column: pa.Array, on_bad: OnBadValue) -> pa.Array:
        if kind != "categories" and _is_number(column.type):
            number = column.cast(pa.float64())
            number, held = pc.if_else(pc.is_nan(number), None, number), column
            has_one_R = number.is_valid().to_numpy(False)
        else:
            number = held = self._texts(name, column)
            if kind != "number":
                return held
            count_R = pc.fill_null(pc.list_value_length(held), 0).to_numpy()
            has_one_R = count_R > 0
            number = _spread(_to_numbers(pc.list_element(held.filter(pa.array(has_one_R)), 0)), has_one_R)
            number = pc.if_else(pa.array(count_R > 1), None, number)
        for index in np.flatnonzero(has_one_R & ~_fits(number)).tolist():
            value = one_line(str(python_value(held[index])), 60)
            on_bad(index, f"the {name} {value} is not a number up to {LARGEST_RATING:g}")
        return number

    def _texts(self, name: str, column: pa.Array) -> pa.ListArray:
        """The categories of each row, each once; null where there are none."""
        rows, kind = len(column), column.type
        if pat.is_dictionary(kind):
            column = column.dictionary_decode()
        if pat.is_list(kind) or pat.is_large_list(kind) or pat.is_fixed_size_list(kind):
            row_E, text_E = (
                pc.list_parent_indices(column).to_numpy(),
                self._as_text(name, pc.list_flatten(column)),
            )
        else:
            row_E, text_E = np.arange(rows), self._as_text(name, column)
        separator = self._file.separators[name]
        if separator is not None:
            parts = pc.split_pattern(text_E, separator)
            row_E = row_E[pc.list_parent_indices(parts).to_numpy()]
            text_E = pc.list_flatten(parts)
        text_E = plain_text(text_E)
        is_one_E = pc.fill_null(pc.not_equal(text_E, ""), False)
        is_one_E = pc.and_(is_one_E, pc.invert(self._values.stands_for_nothing(text_E)))
        return _lists(row_E[is_one_E.to_numpy(False)], text_E.filter(is_one_E), rows)

    def _as_text(self, name: str, column: pa.Array) -> pa.Array:
        try:
            return column.cast(pa.string()) if pat.is_boolean(column.type) else id_text(column)
        except pa.ArrowException as error:
            raise AdarError(
                f"{self._file.path}: column {name}: holds no categories ({one_line(error, 80)}); leave it "
                "out by --item-columns"
            ) from None


def _lists(row_E: np.ndarray, text_E: pa.Array, rows: int) -> pa.ListArray:
    """Texts as lists, sorted and each once; null for rows that have none."""
    pairs = pa.table({"row": row_E, "text": text_E}).group_by(["row", "text"]).aggregate([])
    pairs = pairs.sort_by([("row", "ascending"), ("text", "ascending")])
    count_R = np.bincount(pairs["row"].to_numpy(), minlength=rows)
    start = pa.array(np.concatenate([[0], np.cumsum(count_R)]), pa.int32())
    texts = pa.ListArray.from_arrays(start, pairs["text"].combine_chunks())
    return texts.take(pa.array(np.arange(rows), mask=count_R == 0)).cast(CATEGORIES)


def _settled(column: pa.Array, kind: Kind | None) -> pa.Array:
    """A column of texts as numbers if that is what all of them are, and nobody has said otherwise."""
    if kind is not None or not pat.is_list(column.type):
        return column
    count_R = pc.fill_null(pc.list_value_length(column), 0).to_numpy()
    number = _to_numbers(column.flatten())
    if count_R.max(initial=0) != 1 or number.null_count or not _fits(number).all():
        return column
    return _spread(number, count_R == 1)


def _to_numbers(text: pa.Array) -> pa.Array:
    """Texts as numbers, null where one is none."""
    is_number = pc.match_substring_regex(text, f"^{NUMBER}$")
    return pc.if_else(is_number, text, None).cast(pa.float64())


def _spread(values: pa.Array, is_there_R: np.ndarray) -> pa.Array:
    """Values at the rows where they are there, null elsewhere."""
    return values.take(pa.array(np.cumsum(is_there_R) - 1, mask=~is_there_R))


def _fits(number: pa.Array) -> np.ndarray:
    return pc.less_equal(pc.abs(number), LARGEST_RATING).fill_null(False).to_numpy(False)


def _is_number(kind: pa.DataType) -> bool:
    return pat.is_integer(kind) or pat.is_floating(kind) or pat.is_decimal(kind)
