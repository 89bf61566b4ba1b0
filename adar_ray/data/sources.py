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

from adar_ray.data.files import csv_records, head, json_object, open_parquet, python_dict, unreadable
from adar_ray.errors import AdarError, one_line
from adar_ray.storage import resolve

FORMATS: dict[str, str] = {
    "inter": "RecBole: tab-separated with a typed header (user_id:token item_id:token ...)",
    "ml-100k": "MovieLens 100K, u.data: user, item, rating, timestamp separated by tabs, no header",
    "ml-1m": "MovieLens 1M and 10M, ratings.dat: user::item::rating::timestamp",
    "ml-csv": "MovieLens 20M and later, ratings.csv: userId,movieId,rating,timestamp",
    "amazon-2014": "Amazon 2014, ratings_*.csv: user,item,rating,timestamp, no header",
    "amazon-2018": "Amazon 2018, ratings only: item,user,rating,timestamp, no header",
    "checkins": "Gowalla, *_totalCheckins.txt: user, time, latitude, longitude, item, tab-separated",
    "lastfm-1k": "Last.fm 1K: user, time, artist's id and name, track's id and name, separated by tabs",
    "user-items": "LightGCN, train.txt and test.txt: one line a user, `user item item ...`",
    "pairs": "SASRec: one line an interaction, `user item`, each user's in time order",
    "csv": "comma-separated with a header",
    "tsv": "tab-separated with a header",
    "parquet": "Parquet",
    "jsonl": "one JSON object a line",
    "pydict": "one Python dict a line, as in Steam's reviews: {u'username': u'...', ...}",
}

# Column names that need no --columns, compared in lower case without separators; the first found wins.
_USUAL_NAMES = {
    "user": ("userid", "user", "uid"),
    "item": ("itemid", "item", "iid", "movieid", "productid", "bookid", "artistid", "trackid", "songid"),
    "rating": ("rating",),
    "timestamp": ("timestamp", "time", "unixreviewtime"),
}
# The columns of files without a header, in the order that their publishers document:
# ml-100k, ml-1m: the README of each at https://files.grouplens.org/datasets/movielens/
# amazon-2014: https://cseweb.ucsd.edu/~jmcauley/datasets/amazon/links.html, "ratings only"
# amazon-2018: https://cseweb.ucsd.edu/~jmcauley/datasets/amazon_v2/, "ratings only"; here the item is first
# checkins: https://snap.stanford.edu/data/loc-gowalla.html
# lastfm-1k: http://ocelma.net/MusicRecommendationDataset/lastfm-1K.html; the item is the artist by name, as
#   the ids of MusicBrainz are empty in many lines and some tracks have no name
_RATING_COLUMNS = ["user", "item", "rating", "timestamp"]
FIXED_COLUMNS = {
    "ml-100k": _RATING_COLUMNS,
    "ml-1m": _RATING_COLUMNS,
    "amazon-2014": _RATING_COLUMNS,
    "amazon-2018": ["item", "user", "rating", "timestamp"],
    "checkins": ["user", "timestamp", "latitude", "longitude", "item"],
    "lastfm-1k": ["user", "timestamp", "artist id", "item", "track id", "track name"],
    "user-items": ["user", "item"],
    "pairs": ["user", "item"],
}
_LASTFM_1K = "userid-timestamp-artid-artname-traid-traname.tsv"
# The names of each format's files in a folder.
_FILE_NAMES = {
    "inter": ("*.inter",),
    "ml-100k": ("u.data",),
    "ml-1m": ("ratings.dat",),
    "ml-csv": ("ratings.csv",),
    "amazon-2014": ("ratings_*.csv",),
    "amazon-2018": ("*.csv",),
    "checkins": ("*_totalcheckins.txt",),
    "lastfm-1k": (_LASTFM_1K,),
    "user-items": ("train*.txt", "valid*.txt", "test*.txt"),
    "csv": ("*.csv",),
    "tsv": ("*.tsv", "user_artists.dat"),
    "parquet": ("*.parquet", "*.pq"),
    "jsonl": ("*.jsonl", "*.ndjson", "*.json"),
    "pydict": ("*.json",),
}
# The formats whose files are recognized in a folder with others: their names mean nothing else.
_TELLING = ("inter", "ml-100k", "ml-1m", "ml-csv", "checkins", "lastfm-1k", "user-items")
# The formats that a whole name, or its ending, gives away.
_BY_NAME = {"u.data": "ml-100k", "ratings.dat": "ml-1m", "inter": "inter", "csv": "csv", "tsv": "tsv"}
_BY_NAME |= {"parquet": "parquet", "pq": "parquet", "jsonl": "jsonl", "ndjson": "jsonl"}
_BY_NAME |= {_LASTFM_1K: "lastfm-1k", "user_artists.dat": "tsv"}
# What the first line of a file called .csv says of its format. At Amazon a user is A and more letters or
# digits, and a product has ten of them and begins with a digit or B.
_CSV_FIRST_LINES = {
    "ml-csv": r"userId,movieId,rating,timestamp",
    "amazon-2014": r"A[0-9A-Z]+,[0-9B][0-9A-Z]{9},[1-5]\.0,\d+",
    "amazon-2018": r"[0-9B][0-9A-Z]{9},A[0-9A-Z]+,[1-5]\.0,\d+",
}
_DATA_NAMES = re.compile(r"(?!readme|license|_).*\.(inter|csv|tsv|txt|dat|data|jsonl?|ndjson|parquet|pq)")
DELIMITERS = {"inter": "\t", "ml-100k": "\t", "ml-1m": "::", "csv": ",", "ml-csv": ",", "tsv": "\t"}
DELIMITERS |= {"amazon-2014": ",", "amazon-2018": ",", "checkins": "\t", "lastfm-1k": "\t"}
# Of the formats with an object a line, what reads one.
PARSERS = {"jsonl": json_object, "pydict": python_dict}


@dataclass(frozen=True)
class SourceFile:
    """One file of a source. `find_files` makes them; they travel to the tasks that read them.

    `columns` names the file's column for each of user, item, rating and timestamp that the source has.
    """

    path: str
    format: str
    split: str | None = None
    columns: dict[str, str] | None = None

    @property
    def has_time(self) -> bool:
        """Whether `timestamp` is the source's own, not the position in the file."""
        return "timestamp" in (self.columns or {})

    @property
    def has_rating(self) -> bool:
        return "rating" in (self.columns or {})


def find_files(
    source: str, format: str | None = None, columns: dict[str, str] | None = None
) -> list[SourceFile]:
    """The interaction files of a file, folder, glob or address, sorted by path and all of one format.

    `columns` gives names for what the file calls otherwise: {"user": "reviewerID", "item": "asin"}.
    """
    if format is not None and format not in FORMATS:
        raise AdarError(f"unknown format {format!r}; the known ones are {', '.join(FORMATS)}")
    paths, is_folder = _list(source)
    if is_folder:
        paths = _choose(source, paths, format)
    formats = {path: format or _recognize(path) for path in paths}
    if len(set(formats.values())) > 1:
        kinds = ", ".join(f"{_name(path)} ({kind})" for path, kind in list(formats.items())[:5])
        raise AdarError(f"{source}: files of different formats: {kinds}; name one file, a glob or --format")
    first, format = next(iter(formats.items()))
    columns = match_columns(first, column_names(first, format), columns)
    return [
        SourceFile(path, format, _split(path) if format == "user-items" else None, columns) for path in paths
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


def _choose(source: str, paths: list[str], format: str | None) -> list[str]:
    """The files of a folder that hold interactions."""
    data = [path for path in paths if _DATA_NAMES.fullmatch(_name(path))]
    named = {
        format: [path for path in data if any(fnmatch.fnmatchcase(_name(path), name) for name in names)]
        for format, names in _FILE_NAMES.items()
    }
    kinds = [format] if format else [kind for kind in _TELLING if named[kind]]
    if len(kinds) > 1:
        raise AdarError(f"{source}: several sources in a folder; pass --format, one of {', '.join(kinds)}")
    chosen = (named.get(kinds[0]) if kinds else None) or data
    if not chosen:
        raise AdarError(f"{source}: no file of interactions in this folder; name the file itself")
    twice = [name for name, times in Counter(map(_name, chosen)).items() if times > 1]
    if twice:
        raise AdarError(f"{source}: {twice[0]} is there compressed and not; remove one of the two")
    return chosen


def _split(path: str) -> str | None:
    """The split that the name of a file gives."""
    found = re.match("train|valid|test", _name(path))
    return found[0] if found else None


def _recognize(path: str) -> str:
    """The format of a file by its name, or by its first lines where the name says nothing."""
    name = _name(path)
    format = _BY_NAME.get(name) or _BY_NAME.get(name.rpartition(".")[2])
    if format is None:
        return _recognize_lines(path, head(path))
    if format == "csv":
        first = head(path)[0]
        return next((kind for kind, line in _CSV_FIRST_LINES.items() if re.fullmatch(line, first)), format)
    return format


def _recognize_lines(path: str, lines: list[str]) -> str:
    def all_match(pattern: str) -> bool:
        return all(re.fullmatch(pattern, line) for line in lines)

    hint = ""
    if lines[0].startswith("PAR1"):
        return "parquet"
    if re.fullmatch(r"\S+:(token|float)(_seq)?(\t\S+:(token|float)(_seq)?)+", lines[0]):
        return "inter"
    if all_match(r"\d+::\d+::[\d.]+::\d+"):
        return "ml-1m"
    if all_match(r"\d+\t\d+\t[\d.]+\t\d+"):
        return "ml-100k"
    if all_match(r"\w+\t\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ(\t[\d.E-]+){2}\t\w+"):
        return "checkins"
    if re.fullmatch(r"\{\s*u?'.*\}", lines[0]):
        return "pydict"
    if re.fullmatch(r"\{.*\}", lines[0]):
        return "jsonl"
    if all_match(r"\s*\d+(\s+\d+)*\s*"):
        users = [line.split()[0] for line in lines]
        is_split = _split(path) is not None
        could_be_pairs = all(len(line.split()) == 2 for line in lines)
        # A line a user names no user twice; pairs do as soon as somebody has a second item.
        if not could_be_pairs or (is_split and len(set(users)) == len(users)):
            return "user-items"
        if not is_split and len(set(users)) < len(users):
            return "pairs"
        hint = " between user-items and pairs"
    raise AdarError(f"{path}: cannot tell its format{hint}; pass --format, one of {', '.join(FORMATS)}")


def column_names(path: str, format: str) -> list[str]:
    """The columns of a file, without their types."""
    if format in FIXED_COLUMNS:
        return FIXED_COLUMNS[format]
    if format == "parquet":
        return open_parquet(path).schema_arrow.names
    first = head(path)[0]
    if format in PARSERS:
        return list(PARSERS[format](path, 1, first))
    if format == "inter":
        return [name.partition(":")[0] for name in first.split("\t")]
    return next(csv_records(path, DELIMITERS[format], strict=True))[1]


def match_columns(path: str, names: list[str], given: dict[str, str] | None) -> dict[str, str]:
    """The file's column for each canonical one: those given, and the usual names for the others."""
    given = given or {}
    for key in given:
        if key not in _USUAL_NAMES:
            raise AdarError(f"--columns: unknown key {key!r}; the keys are {', '.join(_USUAL_NAMES)}")
    plain = {re.sub(r"[\s_-]", "", name.lower()): name for name in reversed(names)}
    columns = {}
    for key, choices in _USUAL_NAMES.items():
        name = given.get(key) or next((plain[choice] for choice in choices if choice in plain), None)
        if name is not None:
            columns[key] = name
    for key in ("user", "item"):
        if key not in columns:
            there = one_line(", ".join(names))
            remedy = "say which, for instance --columns user=reviewerID,item=asin,timestamp=unixReviewTime"
            raise AdarError(f"{path}: no column for the {key} among {there}; {remedy}")
    check_columns(path, names, columns)
    return columns


def check_columns(path: str, names: list[str], columns: dict[str, str]) -> None:
    for name in columns.values():
        if names.count(name) != 1:
            problem = f"column {name!r} is there twice" if name in names else f"there is no column {name!r}"
            raise AdarError(f"{path}: {problem}; its columns are {one_line(', '.join(names))}; see --columns")
