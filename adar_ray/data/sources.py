"""What a source of interactions consists of: its files, their format, and the columns they keep."""

from __future__ import annotations

import fnmatch
import posixpath
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import pyarrow.fs as pafs

from adar_ray.data.columns import match_columns
from adar_ray.data.files import head, unreadable
from adar_ray.data.formats import FORMATS
from adar_ray.data.formats.base import Format, Match, split_in
from adar_ray.errors import AdarError
from adar_ray.storage import resolve

_DATA_NAMES = re.compile(r"(?!readme|license|_).*\.(inter|csv|tsv|txt|dat|data|jsonl?|ndjson|parquet|pq)")


@dataclass(frozen=True)
class SourceFile:
    """One file of a source. `find_files` makes them; they travel to the tasks that read them.

    `columns` maps user, item, rating and timestamp, as far as the source has them, to the file's own names.
    """

    path: str
    format: Format
    split: str | None
    columns: dict[str, str]

    @property
    def has_time(self) -> bool:
        """Whether `timestamp` is the source's own, not the position in the file."""
        return "timestamp" in self.columns

    @property
    def has_rating(self) -> bool:
        return "rating" in self.columns


def find_files(
    source: str, format: str | None = None, columns: dict[str, str] | None = None
) -> list[SourceFile]:
    """List the interaction files of a file, folder, glob or address, sorted by path and all of one format.

    Args:
        source: the file, folder, glob or address.
        format: a name in `FORMATS`; recognized if None.
        columns: the file's own names, where they are unusual: {"user": "reviewerID", "item": "asin"}.

    Raises:
        AdarError: there is no such file, or its format or columns are unknown or ambiguous.
    """
    if format is not None and format not in FORMATS:
        raise AdarError(f"unknown format {format!r}; the known ones are {', '.join(FORMATS)}")
    wanted = FORMATS[format] if format is not None else None
    paths, is_folder = _list(source)
    if is_folder:
        paths = _choose(source, paths, wanted)
    formats = {path: wanted or _recognize(path) for path in paths}
    if len({found.name for found in formats.values()}) > 1:
        kinds = ", ".join(f"{_name(path)} ({found.name})" for path, found in list(formats.items())[:5])
        raise AdarError(f"{source}: files of different formats: {kinds}; name one file, a glob or --format")
    first, found = next(iter(formats.items()))
    matched = match_columns(first, found.column_names(first), columns)
    return [
        SourceFile(path, found, split_in(_name(path)) if found.names_tell_split else None, matched)
        for path in paths
    ]


def _list(source: str) -> tuple[list[str], bool]:
    """Addresses of the files that `source` names, sorted, and whether it is a folder."""
    base, query = _without_query(source)
    is_local = "://" not in source
    root, pattern = base, "*"
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
            return [path if is_local else source], False
        found = filesystem.get_file_info(pafs.FileSelector(path, recursive="/" in pattern))
    except OSError as error:
        raise unreadable(source, error) from error
    addresses = []
    for info in found:
        relative = posixpath.relpath(info.path, path)
        if info.is_file and not info.base_name.startswith(".") and _matches(relative, pattern):
            # Arrow decodes an address; fsspec takes it literally.
            name = relative if isinstance(filesystem, pafs.PyFileSystem) else quote(relative)
            addresses.append(info.path if is_local else f"{root.rstrip('/')}/{name}{query}")
    if not addresses:
        raise AdarError(f"{source}: no file there; check the address")
    return sorted(addresses), root == base


def _matches(relative: str, pattern: str) -> bool:
    names, patterns = relative.split("/"), pattern.split("/")
    return len(names) == len(patterns) and all(map(fnmatch.fnmatchcase, names, patterns))


def _without_query(address: str) -> tuple[str, str]:
    """An address and its options (s3://bucket/folder?region=...); a local path has none."""
    found = re.search(r"\?\w+=", address) if "://" in address else None
    return (address[: found.start()], address[found.start() :]) if found else (address, "")


def _name(path: str) -> str:
    """File name in lower case, without the ending of a compression."""
    name = _without_query(path)[0].rpartition("/")[2].lower()
    return re.sub(r"\.(gz|zst|bz2)$", "", name)


def _choose(source: str, paths: list[str], wanted: Format | None) -> list[str]:
    """The files of a folder that hold interactions."""
    data = [path for path in paths if _DATA_NAMES.fullmatch(_name(path))]

    def named(format: Format) -> list[str]:
        return [path for path in data if format.has_name(_name(path))]

    kinds = [wanted] if wanted else [kind for kind in FORMATS.values() if kind.stands_out and named(kind)]
    if len(kinds) > 1:
        names = ", ".join(kind.name for kind in kinds)
        raise AdarError(f"{source}: several sources in one folder; pass --format, one of {names}")
    chosen = (named(kinds[0]) if kinds else []) or data
    if not chosen:
        raise AdarError(f"{source}: no file of interactions in this folder; name the file itself")
    twice = [name for name, times in Counter(map(_name, chosen)).items() if times > 1]
    if twice:
        raise AdarError(f"{source}: {twice[0]} is there both compressed and not; remove one of the two")
    return chosen


def _recognize(path: str) -> Format:
    """The format of a file by its name, or by its first lines if the name does not settle it."""
    name = _name(path)
    by_name = next((format for format in FORMATS.values() if format.has_sure_name(name)), None)
    if by_name is None:
        return _recognize_lines(path, name)
    for dialect in FORMATS.values():
        if dialect.dialect_of is by_name and dialect.recognize(name, head(path)) is Match.CERTAIN:
            return dialect
    return by_name


def _recognize_lines(path: str, name: str) -> Format:
    lines = head(path)
    possible = []
    for format in FORMATS.values():
        match = Match.NO if format.dialect_of else format.recognize(name, lines)
        if match is Match.CERTAIN:
            return format
        if match is Match.POSSIBLE:
            possible.append(format.name)
    hint = f" between {' and '.join(possible)}" if possible else ""
    raise AdarError(f"{path}: cannot tell its format{hint}; pass --format, one of {', '.join(FORMATS)}")
