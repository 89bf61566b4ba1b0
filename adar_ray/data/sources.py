"""What a source of interactions consists of: its files, their format, and the columns they keep."""

from __future__ import annotations

import fnmatch
import os
import posixpath
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from urllib.parse import unquote

import pyarrow.fs as pafs

from adar_ray.data.columns import match_columns, unused_times
from adar_ray.data.compression import EmptyFileError, content_name, plain_name, unreadable
from adar_ray.data.files import head
from adar_ray.data.formats import FORMATS
from adar_ray.data.formats.base import Format, Match
from adar_ray.data.formats.table import Table
from adar_ray.data.given_split import given_splits
from adar_ray.data.manifest import ITEMS, MANIFEST, USERS
from adar_ray.data.options import ReadOptions
from adar_ray.errors import AdarError, one_line
from adar_ray.storage import resolve, split_options

_DATA_NAMES = re.compile(r"(?!readme|license)[^_.].*\.(inter|csv|tsv|txt|dat|data|jsonl?|ndjson|parquet|pq)")
_TABLES_OF_VERSIONS = {
    r"_delta_log": "a Delta table",
    r"\.hoodie": "a Hudi table",
    r"metadata/.*\.metadata\.json": "an Iceberg table",
}
_PREPARED = {MANIFEST, USERS, ITEMS}
_NO_FILE = -1  # size of a link to nothing, or of a device
_NO_VALUE = "__HIVE_DEFAULT_PARTITION__"


@dataclass(frozen=True)
class SourceFile:
    """One file of a source. They travel to the tasks that read them.

    Attributes:
        split: what the source says, if it has a split of its own.
        columns: the file's own names for user, item, rating, timestamp and weight, as far as they are read.
        partition: values that the path tells, by column: `day=1/part-0.parquet`.
    """

    path: str
    format: Format
    split: str | None
    columns: dict[str, str]
    options: ReadOptions = field(default_factory=ReadOptions)
    partition: dict[str, str | None] = field(default_factory=dict)

    @property
    def has_time(self) -> bool:
        """Whether `timestamp` is the source's own, not the position in the file."""
        return "timestamp" in self.columns

    @property
    def has_rating(self) -> bool:
        return "rating" in self.columns

    @property
    def has_weight(self) -> bool:
        return "weight" in self.columns


@dataclass(frozen=True)
class Source:
    """The files of a source, sorted by path and all of one format.

    Attributes:
        left_out: files beside them that are not read, relative to the source.
        empty: files without content.
        unused_times: columns that are not read although they are called like a time.
    """

    files: list[SourceFile]
    left_out: list[str]
    empty: list[str]
    unused_times: list[str]

    def without(self, path: str) -> Source:
        """This source without a file beside it that is read for something else."""
        place, _ = split_options(path)
        return replace(self, left_out=[name for name in self.left_out if not place.endswith(f"/{name}")])


def find_source(
    source: str,
    format: str | None = None,
    columns: dict[str, str] | None = None,
    options: ReadOptions | None = None,
    *,
    ratings: bool = True,
) -> Source:
    """Find the interaction files of a file, folder, glob or address.

    Args:
        source: the file, folder, glob or address.
        format: a name in `FORMATS`; recognized if None.
        columns: the file's own names, where they are unusual: {"user": "reviewerID", "item": "asin"}.
        options: how to read the files.
        ratings: whether ratings are read, if there are any.

    Raises:
        AdarError: there is no such file, or its format or columns are unknown or ambiguous.
    """
    if format is not None and format not in FORMATS:
        raise AdarError(f"unknown format {format!r}; the known ones are {', '.join(FORMATS)}")
    options = options or ReadOptions()
    wanted = FORMATS[format] if format is not None else _format_of_separator(options)
    there, is_folder = _list(source)
    chosen = _choose(source, there, wanted if format else None) if is_folder else there
    full = [file for file in chosen if file.size]
    formats: dict[_Listed, Format] = {}
    for file in full or chosen:  # without a full one, the first raises what there is to say
        try:
            formats[file] = wanted or _recognize(file, options.encoding)
        except EmptyFileError:
            if len(chosen) == 1:
                raise
    if not formats:
        raise EmptyFileError(chosen[0].address)
    if len({found.name for found in formats.values()}) > 1:
        kinds = ", ".join(f"{file.name} ({found.name})" for file, found in list(formats.items())[:5])
        raise AdarError(f"{source}: files of different formats: {kinds}; name one file, a glob or --format")
    first, found = _first_with_content(formats)
    adapted = found.adapted(first.address, options, columns or {})
    if found.any_word_is_an_id:
        options = replace(options, null_words=())
    names = adapted.column_names(first.address)
    in_path = [name for name in first.partition if name not in names]
    names += in_path
    is_unnamed = isinstance(adapted, Table) and isinstance(found, Table) and adapted.columns != found.columns
    has_header = isinstance(adapted, Table)
    matched = match_columns(first.address, names, columns, has_numbers=is_unnamed, has_header=has_header)
    _check_times(first.address, names, matched, options)
    read = {key: name for key, name in matched.items() if ratings or key != "rating"}
    splits = given_splits([file.relative.lower() for file in formats])
    files = [
        SourceFile(
            file.address,
            adapted,
            split,
            read,
            options,
            {name: value for name, value in file.partition.items() if name in in_path},
        )
        for file, split in zip(formats, splits, strict=True)
    ]
    return Source(
        files,
        left_out=[file.relative for file in there if file not in chosen],
        empty=[file.relative for file in chosen if file not in formats],
        unused_times=[] if "timestamp" in (*read, *(columns or ())) else unused_times(names, read),
    )


def find_file(address: str, encoding: str | None, known: dict[str, Format]) -> tuple[str, Format]:
    """The path of one file, and its format: that of its name in `known`, or else as for a source's files.

    Raises:
        AdarError: it is not one file, or its format is unknown.
    """
    there, is_folder = _list(address)
    if is_folder or len(there) > 1:
        raise AdarError(f"{address}: is not one file; name one")
    (file,) = there
    formats = (format for pattern, format in known.items() if fnmatch.fnmatchcase(file.name, pattern))
    return file.address, next(formats, None) or _recognize(file, encoding)


def _check_times(path: str, names: list[str], columns: dict[str, str], options: ReadOptions) -> None:
    """Refuse to be told how times are written where none would be read."""
    flag = "--timestamp-unit" if options.timestamp_unit else "--timestamp-format"
    if "timestamp" not in columns and (options.timestamp_unit or options.timestamp_format):
        raise AdarError(
            f"{path}: {flag} needs times, and no column among {one_line(', '.join(names))} was taken "
            "for them; name it with --columns timestamp=NAME"
        )


def _format_of_separator(options: ReadOptions) -> Format | None:
    if options.separator is None:
        return None
    return FORMATS["tsv" if options.separator == "\t" else "csv"]


def _first_with_content(formats: dict[_Listed, Format]) -> tuple[_Listed, Format]:
    """The first file that has a line; if none has, the first, which will say so."""
    for file, format in formats.items():
        try:
            format.column_names(file.address)
        except EmptyFileError:
            continue
        except AdarError:
            pass  # what is wrong with it is said where it matters
        return file, format
    return next(iter(formats.items()))


# Listing.


@dataclass(frozen=True)
class _Listed:
    """A file of a source: its address, its path relative to the source, and the name of its content."""

    address: str
    relative: str
    size: int

    @cached_property
    def name(self) -> str:
        """The name of the content in lower case: without the ending of a compression."""
        return content_name(self.address, self.relative)

    @property
    def partition(self) -> dict[str, str | None]:
        """What the folders of a Hive partition say: `day=1` -> {"day": "1"}."""
        pairs = [folder.partition("=") for folder in self.relative.split("/")[:-1]]
        return {key: None if value == _NO_VALUE else unquote(value) for key, equals, value in pairs if equals}


def _list(source: str) -> tuple[list[_Listed], bool]:
    """The files that `source` names, sorted, and whether it is a folder."""
    base, query = split_options(source)
    is_local = "://" not in source
    root, pattern = base, None
    wild = re.search(r"[*?\[]", base)
    if wild and not (is_local and Path(source).expanduser().exists()):
        root = base[: base.rfind("/", 0, wild.start()) + 1]
        pattern = base[len(root) :]
    filesystem, path = resolve((root or ".") + query)
    path = path.rstrip("/") or "/"
    try:
        info = filesystem.get_file_info(path)
        if info.type == pafs.FileType.NotFound:
            raise AdarError(f"{source}: no such file or folder; check the address")
        if info.type == pafs.FileType.File:
            return [_Listed(path if is_local else source, posixpath.basename(path), info.size)], False
        found = _walk(filesystem, path, recursive="/" in (pattern or ""))
        if pattern is None and not any(_DATA_NAMES.fullmatch(plain_name(name)) for name, _ in found):
            found = _walk(filesystem, path, recursive=True)
    except OSError as error:
        raise unreadable(source, error) from error
    if pattern is None:
        names = [relative for relative, _ in found]
        if set(names) >= _PREPARED:
            raise AdarError(f"{source}: is prepared already; train on it, or give what it was prepared from")
        _refuse_tables_of_versions(source, names)
    start = path if is_local else root.rstrip("/")
    files = [
        _Listed(f"{start.rstrip('/')}/{relative}{query}", relative, size)
        for relative, size in sorted(found)
        if size is not None
        and not posixpath.basename(relative).startswith(".")
        and (_matches(relative, pattern) if pattern else not _is_hidden(relative))
    ]
    missing = next((file.address for file in files if file.size == _NO_FILE), None)
    if missing is not None:
        raise AdarError(
            f"{missing}: a link to something that is not there, or no plain file; fetch what it stands for "
            "(git annex get, dvc pull), or remove it"
        )
    if not files:
        raise AdarError(f"{source}: no file there; check the address")
    return files, pattern is None


def _walk(filesystem: pafs.FileSystem, path: str, *, recursive: bool) -> list[tuple[str, int | None]]:
    """What is in a folder: paths relative to it, with the size of each file; a folder has none."""
    if not isinstance(filesystem, pafs.LocalFileSystem):
        found = filesystem.get_file_info(pafs.FileSelector(path, recursive=recursive))
        return [(posixpath.relpath(info.path, path), info.size if info.is_file else None) for info in found]
    # Arrow leaves out links to nothing, and walks in circles where a link leads back.
    listed: list[tuple[str, int | None]] = []
    for folder, folders, names in os.walk(path, onerror=_raise, followlinks=True):
        for name in folders + names:
            full = os.path.join(folder, name)
            size = os.path.getsize(full) if os.path.isfile(full) else _NO_FILE
            listed.append((os.path.relpath(full, path), None if name in folders else size))
        above = os.path.realpath(folder)
        here = (os.path.realpath(os.path.join(folder, name)) for name in folders)
        folders[:] = [
            name
            for name, real in zip(folders, here, strict=True)
            if recursive and not (above + "/").startswith(real.rstrip("/") + "/")
        ]
    return listed


def _raise(error: OSError) -> None:
    raise error


def _refuse_tables_of_versions(source: str, names: Iterable[str]) -> None:
    """Refuse a folder whose files hold several versions of the same rows."""
    for name in names:
        for pattern, what in _TABLES_OF_VERSIONS.items():
            if re.fullmatch(pattern, name):
                raise AdarError(
                    f"{source}: is {what}, whose files hold old rows too; export it to Parquet first"
                )


def _is_hidden(relative: str) -> bool:
    """Whether a path is of no interest to readers, as Spark and Hadoop have it, or lies in such a folder.

    They would not read `_part.csv` either, but may have been meant to, so it is among the files left out.
    """
    *folders, name = relative.split("/")
    parts = folders if _DATA_NAMES.fullmatch(plain_name(name).removeprefix("_")) else [*folders, name]
    return any(re.match(r"[_.](?!.*=)", part) for part in parts)


def _matches(relative: str, pattern: str) -> bool:
    names, patterns = relative.split("/"), pattern.split("/")
    return len(names) == len(patterns) and all(map(fnmatch.fnmatchcase, names, patterns))


# Choosing and recognizing.


def _choose(source: str, there: list[_Listed], wanted: Format | None) -> list[_Listed]:
    """The files of a folder that hold interactions."""
    data = [file for file in there if _DATA_NAMES.fullmatch(file.name)]

    def named(format: Format) -> list[_Listed]:
        return [file for file in data if format.has_name(file.name)]

    kinds = [wanted] if wanted else [kind for kind in FORMATS.values() if kind.stands_out and named(kind)]
    if len(kinds) > 1:
        names = ", ".join(kind.name for kind in kinds)
        raise AdarError(f"{source}: several sources in one folder; pass --format, one of {names}")
    chosen = (named(kinds[0]) if kinds else []) or data
    if not chosen:
        raise AdarError(f"{source}: no file of interactions in this folder; name the file itself")
    contents = Counter((posixpath.dirname(file.relative), file.name) for file in chosen)
    twice = [name for (_, name), times in contents.items() if times > 1]
    if twice:
        raise AdarError(f"{source}: {twice[0]} is there both compressed and not; remove one of the two")
    return chosen


def _recognize(file: _Listed, encoding: str | None) -> Format:
    """The format of a file by its name, or by its first lines if the name does not settle it."""
    by_name = next((format for format in FORMATS.values() if format.has_sure_name(file.name)), None)
    if by_name is None:
        return _recognize_lines(file, head(file.address, encoding))
    dialects = [format for format in FORMATS.values() if format.dialect_of is by_name]
    lines = head(file.address, encoding) if dialects else []
    fitting = (dialect for dialect in dialects if dialect.recognize(file.name, lines) is Match.CERTAIN)
    return next(fitting, by_name)


def _recognize_lines(file: _Listed, lines: list[str]) -> Format:
    possible = []
    for format in FORMATS.values():
        match = Match.NO if format.dialect_of else format.recognize(file.name, lines)
        if match is Match.CERTAIN:
            return format
        if match is Match.POSSIBLE:
            possible.append(format.name)
    if lines[0].startswith("["):
        raise AdarError(f"{file.address}: is a JSON array; write an object a line, with pandas by lines=True")
    words = {len(line.split()) for line in lines}
    hint = f" between {' and '.join(possible)}" if len(possible) > 1 else ""
    how = f"pass --format, one of {', '.join(FORMATS)}"
    if words in ({3}, {4}):
        columns = "user=1,item=2,rating=3" + (",timestamp=4" if words == {4} else "")
        how += f"; if it is a table, --separator ' ' --header none --columns {columns}"
    else:
        how += "; if it is a table, pass its --separator"
    raise AdarError(f"{file.address}: cannot tell its format from {one_line(lines[0], 60)!r}{hint}; {how}")
