"""Datasets: `prepare`, and `data list`, `data fetch` and `data synthetic`."""

from __future__ import annotations

import sys
import textwrap
from typing import TYPE_CHECKING, Any

import click

from adar_ray.cli.command import command
from adar_ray.cli.output import message, show
from adar_ray.data.options import HEADERS, NULL_WORDS, TIMESTAMP_UNITS
from adar_ray.errors import AdarError
from adar_ray.limits import LARGEST_RATING, LARGEST_SEED, LONGEST_HISTORY, MOST_IDS, MOST_ROWS
from adar_ray.ray_address import ray_address

if TYPE_CHECKING:
    from adar_ray.data.dataset import Dataset


@command("list")
def list_command(as_json: bool) -> None:
    """List the public data sets that `fetch` can download."""
    from adar_ray.data.catalog import CATALOG

    rows = [
        {
            "name": entry.name,
            "what": entry.title,
            "counts": entry.counts,
            "size": f"{entry.size / 1e6:,.1f} MB" if entry.size else "unknown",
            "license": entry.license,
            "source": entry.homepage,
        }
        for entry in CATALOG.values()
    ]
    if as_json:
        show(rows, True)
        return
    for row in rows:  # a table would break names and addresses on a terminal of 80 columns
        told = f"{row['what']}: {row['counts']}", f"download: {row['size']}", f"license: {row['license']}"
        lines = (textwrap.fill(text, 80, initial_indent=" " * 4, subsequent_indent=" " * 6) for text in told)
        click.echo("\n".join([row["name"], *lines, f"    {row['source']}\n"]))


@command("fetch", hint=lambda **arguments: "run it again to continue the download")
@click.argument("name")
def fetch_command(name: str, as_json: bool) -> None:
    """Download the data set NAME into the cache and print its path."""
    from adar_ray.data.catalog import CATALOG
    from adar_ray.data.fetch import fetch
    from adar_ray.reporting.progress import DownloadProgress

    with DownloadProgress() as progress:
        path = fetch(name, report=progress)
    message(f"to prepare it: {CATALOG[name].prepare_command(str(path))}")
    if as_json:
        show({"name": name, "path": str(path)}, True)
    else:
        click.echo(path)


@command("synthetic")
@click.option("--users", type=click.IntRange(1, MOST_IDS), required=True, help="Number of users.")
@click.option("--items", type=click.IntRange(2, MOST_IDS), required=True, help="Number of items.")
@click.option(
    "--interactions", type=click.IntRange(1, MOST_ROWS), required=True, help="Number of interactions."
)
@click.option(
    "--seed", type=click.IntRange(0, LARGEST_SEED), default=0, show_default=True, help="Random seed."
)
@click.option("--out", required=True, help="Address of the new dataset.")
@click.option("--replace", is_flag=True, help="Overwrite the dataset at --out.")
def synthetic_command(as_json: bool, **arguments: Any) -> None:
    """Generate a dataset: users with tastes, and the interactions that follow from them."""
    from adar_ray.data.synthetic import synthesize
    from adar_ray.reporting.progress import StageProgress

    with StageProgress() as progress:
        dataset = synthesize(**arguments, on_progress=progress)
    _show_dataset(dataset, as_json)


data = click.Group(
    "data",
    help="Download public data sets, or generate synthetic datasets.",
    commands=[list_command, fetch_command, synthetic_command],
)


class _FormatName(click.ParamType):
    """A format of a source. Loads the formats only when they are needed: importing Arrow takes a while."""

    name = "format"

    def get_metavar(self, param: click.Parameter, ctx: click.Context) -> str:
        from adar_ray.data.formats import FORMATS

        return f"[{'|'.join(FORMATS)}]"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        from adar_ray.data.formats import FORMATS

        return str(click.Choice(list(FORMATS)).convert(value, param, ctx))


@command("prepare")
@click.argument("source")
@click.option("--out", required=True, help="Address of the new dataset.")
@click.option("--format", "format_", type=_FormatName(), help="Default: what the files show.")
@click.option(
    "--columns",
    help="Columns of a table, by name, or by number without a header: user=NAME,item=NAME,timestamp=NAME,"
    "rating=NAME,weight=NAME. timestamp= goes without times; a weight is how much a row counts in training.",
)
@click.option(
    "--separator",
    callback=lambda context, option, text: None if text is None else text.replace(r"\t", "\t"),
    help=r"What separates the fields of a line; \t is a tab. A space stands for any white space.",
)
@click.option(
    "--header",
    type=click.Choice(HEADERS),
    help="Whether the first line names the columns. Default: what the files show.",
)
@click.option(
    "--encoding", help="Encoding of the text, such as cp1252. Default: UTF-8, or its byte order mark."
)
@click.option(
    "--null-words",
    metavar="WORDS",
    default=",".join(NULL_WORDS),
    show_default=True,
    help="Ids that stand for no value, separated by commas.",
)
@click.option(
    "--timestamp-unit",
    type=click.Choice(TIMESTAMP_UNITS),
    help="What numbers in the column of times count. Default: what their size shows.",
)
@click.option(
    "--timestamp-format", help="How times are written, such as '%d/%m/%Y %H:%M'. Default: ISO 8601."
)
@click.option(
    "--max-bad-rows",
    type=click.IntRange(0, MOST_ROWS),
    default=0,
    show_default=True,
    help="Rows that may be skipped because they cannot be read; bad_rows.jsonl lists them.",
)
@click.option(
    "--titles",
    metavar="FILE",
    help="File of items and their titles; '' for none. Default: what lies beside SOURCE, as in MovieLens.",
)
@click.option(
    "--items", metavar="FILE", help="File of items and their features, such as categories, for twotower."
)
@click.option(
    "--item-columns",
    metavar="NAME=KIND,...",
    help="Columns of --items to read, each with categories or number. Default: all but titles, with what "
    "their values show.",
)
@click.option(
    "--repeat",
    type=click.Choice(["first", "last", "keep", "sum"]),
    default="first",
    show_default=True,
    help="Which of a user's interactions with one item to keep; keep keeps them all, sum the last with the "
    "sum of their weights, or their number.",
)
@click.option(
    "--min-rating",
    type=click.FloatRange(-LARGEST_RATING, LARGEST_RATING),
    help="Drop interactions with a lower rating.",
)
@click.option(
    "--core",
    type=click.IntRange(0, MOST_ROWS),
    default=0,
    help="Drop users and items with fewer interactions.",
)
@click.option(
    "--split",
    type=click.Choice(["leave-one-out", "ratio", "temporal", "given"]),
    help="Default: given if the source has a split, else leave-one-out.",
)
@click.option(
    "--test-fraction",
    type=click.FloatRange(0, 1, True, True),
    default=0.2,
    show_default=True,
    help="Share of the interactions for test.",
)
@click.option(
    "--valid-fraction",
    type=click.FloatRange(0, 1, max_open=True),
    default=0.1,
    show_default=True,
    help="Share of the training interactions for validation.",
)
@click.option(
    "--seed",
    type=click.IntRange(0, LARGEST_SEED),
    default=0,
    show_default=True,
    help="Seed of a random split.",
)
@click.option(
    "--sequence-length",
    type=click.IntRange(1, LONGEST_HISTORY),
    default=50,
    show_default=True,
    help="Longest history in a row for sequential models.",
)
@click.option(
    "--sequence-stride",
    type=click.IntRange(1, LONGEST_HISTORY),
    help="Items between the rows of a user; 1 makes a row for every item. Default: the sequence length.",
)
@click.option("--name", help="Name of the dataset. Default: the name of the source.")
@click.option("--replace", is_flag=True, help="Overwrite the dataset at --out.")
def prepare_command(
    as_json: bool,
    format_: str | None,
    columns: str | None,
    item_columns: str | None,
    null_words: str,
    **arguments: Any,
) -> None:
    """Turn SOURCE (a file, a folder, a glob or an address) into a dataset."""
    if ray_address() is None:  # Ray Data needs pandas
        _let_arrow_find_no_pandas()
    from adar_ray.data.prepare import prepare
    from adar_ray.reporting.progress import StageProgress

    with StageProgress() as progress:
        dataset = prepare(
            format=format_,
            columns=_parse_columns(columns),
            item_columns=_parse_item_columns(item_columns),
            null_words=[word for word in null_words.split(",") if word],
            on_progress=progress,
            **arguments,
        )
    for note in dataset.manifest.notes:
        message(f"note: {note}")
    _show_dataset(dataset, as_json)


class _NoPandas:
    """An importer that finds no pandas, and leaves all else to the others."""

    def find_spec(self, name: str, path: object = None, target: object = None) -> None:
        if name == "pandas":
            raise ModuleNotFoundError(name)


def _let_arrow_find_no_pandas() -> None:
    """Saves 0.2 s and 40 MB: Arrow looks for pandas once, at its first array, and otherwise loads it."""
    import pyarrow as pa

    importer = _NoPandas()
    sys.meta_path.insert(0, importer)
    try:
        pa.array([0])
    finally:
        sys.meta_path.remove(importer)


def _parse_columns(columns: str | None) -> dict[str, str] | None:
    if columns is None:
        return None
    known = ("user", "item", "timestamp", "rating", "weight")
    pairs = [part.partition("=") for part in columns.split(",")]
    for key, equals, _ in pairs:
        if not equals or key not in known:
            raise AdarError(
                f"--columns {columns}: {key!r} is not one of user=NAME, item=NAME, timestamp=NAME, "
                "rating=NAME, weight=NAME; separate several by commas"
            )
    _refuse_twice("--columns", columns, [key for key, _, _ in pairs])
    return {key: value for key, _, value in pairs}


def _refuse_twice(flag: str, value: str, keys: list[str]) -> None:
    for key in keys:
        if keys.count(key) > 1:
            raise AdarError(f"{flag} {value}: {key!r} is given twice")


def _parse_item_columns(columns: str | None) -> dict[str, str] | None:
    if columns is None:
        return None
    pairs = [part.rpartition("=") for part in columns.split(",")]
    for name, _, kind in pairs:
        if not name:
            raise AdarError(
                f"--item-columns {columns}: {kind!r} is not NAME=KIND, such as genres=categories or "
                "year=number; separate several by commas"
            )
    _refuse_twice("--item-columns", columns, [name for name, _, _ in pairs])
    return {name: kind for name, _, kind in pairs}


def _show_dataset(dataset: Dataset, as_json: bool) -> None:
    from adar_ray.data.manifest import SyntheticSource

    manifest = dataset.manifest
    counts = manifest.counts.model_dump()
    rows = {} if isinstance(manifest.source, SyntheticSource) else manifest.source.rows.model_dump()
    if not as_json:
        rows = {f"rows {name.replace('_', ' ')}": count for name, count in rows.items() if count}
    shown = {"dataset": dataset.folder.address, "split": manifest.split.protocol, **counts}
    show(shown | ({"rows": rows} if as_json and rows else rows), as_json)
