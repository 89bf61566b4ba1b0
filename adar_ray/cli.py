"""The command line: parses, calls the library, prints. Results go to stdout, all else to stderr."""

from __future__ import annotations

import functools
import json
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from adar_ray.errors import AdarError, one_line

INTERRUPTED = 130


def main() -> None:
    """Entry point of `adar-ray`."""
    # A job that a scheduler ends tidies up as one that is interrupted at the keyboard does; and whoever
    # sends either signal means it, also where a shell started us in the background, deaf to the keyboard.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, lambda number, frame: signal.raise_signal(signal.SIGINT))
    cli()


def command(
    group: click.Group, name: str, hint: Callable[..., str] = lambda **arguments: "nothing was written"
) -> Callable:
    """A command that turns errors into one line and an exit status.

    `hint` is given the command's arguments and says, of one that was interrupted, how to go on.
    """

    def decorate(function: Callable[..., Any]) -> click.Command:
        @group.command(name, help=function.__doc__)
        @click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of a table.")
        @click.option("--debug", is_flag=True, help="Show the traceback of an error.")
        @functools.wraps(function)
        def run(debug: bool, as_json: bool, **arguments: Any) -> None:
            try:
                function(as_json=as_json, **arguments)
            except click.ClickException:
                raise  # click's own: wrong usage
            except KeyboardInterrupt:
                _fail(f"interrupted; {hint(**arguments)}", debug, INTERRUPTED)
            except AdarError as error:
                _fail(str(error), debug)
            except OSError as error:
                from adar_ray.storage import describe_os_error

                where = f"{error.filename}: " if error.filename else ""
                _fail(f"{where}{describe_os_error(error)}", debug)
            except Exception as error:
                _fail(f"{type(error).__name__}: {one_line(error)} (--debug shows where)", debug)

        return run

    return decorate


def _fail(message: str, debug: bool, status: int = 1) -> None:
    if debug:
        traceback.print_exc()
    click.echo(f"adar-ray: {message}", err=True)
    sys.exit(status)


def _show(result: dict[str, Any] | list[dict[str, Any]], as_json: bool, title: str | None = None) -> None:
    """Prints rows as a table, a mapping as a table of two columns, or either as JSON."""
    if as_json:
        click.echo(json.dumps(result))
        return
    rows = result if isinstance(result, list) else [{"": k, " ": v} for k, v in result.items()]
    columns = list(dict.fromkeys(key for row in rows for key in row))
    numeric = {column for column in columns if any(isinstance(row.get(column), (int, float)) for row in rows)}
    table = Table(
        title=title and escape(title),
        title_justify="left",
        show_header=any(column.strip() for column in columns),
    )
    for column in columns:
        table.add_column(escape(column), justify="right" if column in numeric else "left", overflow="fold")
    for row in rows:
        table.add_row(*(escape(_cell(row.get(column))) for column in columns))
    console = Console()
    if not console.is_terminal:
        console.width = max(console.width, 200)
    console.print(table)


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4f}" if abs(value) < 100 else f"{value:,.1f}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def _message(text: str) -> None:
    click.echo(text, err=True)


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="adar-ray")
def cli() -> None:
    """Train recommenders with adaptive diffusion negatives (ADAR), distributed on Ray."""


# Data.


@cli.group()
def data() -> None:
    """Public data sets, and made-up ones."""


@command(data, "list")
def data_list(as_json: bool) -> None:
    """List the public data sets that `fetch` knows."""
    from adar_ray.data.catalog import CATALOG

    rows = [
        {
            "name": known.name,
            "what": known.title,
            "counts": known.counts,
            "size": f"{known.size / 1e6:,.1f} MB" if known.size else "unknown",
            "license": known.license,
            "source": known.homepage,
        }
        for known in CATALOG.values()
    ]
    _show(rows, as_json)


@command(data, "fetch", hint=lambda **arguments: "run it again to go on with the download")
@click.argument("name")
def data_fetch(name: str, as_json: bool) -> None:
    """Fetch the data set NAME into the cache and print where it lies."""
    from adar_ray.data.catalog import CATALOG
    from adar_ray.data.fetch import fetch
    from adar_ray.reporting.progress import DownloadProgress

    with DownloadProgress() as progress:
        path = fetch(name, report=progress)
    _message(f"to prepare it: {CATALOG[name].prepare_command(str(path))}")
    if as_json:
        _show({"name": name, "path": str(path)}, True)
    else:
        click.echo(path)


@command(data, "synthetic")
@click.option("--users", type=click.IntRange(1), required=True, help="Number of users.")
@click.option("--items", type=click.IntRange(2), required=True, help="Number of items.")
@click.option("--interactions", type=click.IntRange(1), required=True, help="Number of interactions.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Of the made-up world.")
@click.option("--out", required=True, help="Address of the dataset.")
@click.option("--replace", is_flag=True, help="Overwrite what lies there.")
def data_synthetic(as_json: bool, **arguments: Any) -> None:
    """Make up a world of users with tastes, and the interactions that follow from it."""
    from adar_ray.data.synthetic import synthesize
    from adar_ray.reporting.progress import StageProgress

    with StageProgress() as progress:
        dataset = synthesize(**arguments, on_progress=progress)
    _show_dataset(dataset, as_json)


@command(cli, "prepare")
@click.argument("source")
@click.option("--out", required=True, help="Address of the dataset.")
@click.option("--format", "format_", help="Format of the source; recognized by itself where possible.")
@click.option("--columns", help="Where a table keeps what: user=...,item=...,timestamp=...,rating=...")
@click.option("--min-rating", type=float, help="Drop interactions rated lower.")
@click.option(
    "--core", type=click.IntRange(0), default=0, help="Drop users and items with fewer interactions."
)
@click.option(
    "--split",
    type=click.Choice(["leave-one-out", "ratio", "temporal", "given"]),
    help="Default: given where the source has a split, else leave-one-out.",
)
@click.option("--test-fraction", type=click.FloatRange(0, 1, True, True), default=0.2, show_default=True)
@click.option(
    "--valid-fraction",
    type=click.FloatRange(0, 1, max_open=True),
    default=0.1,
    show_default=True,
    help="Of training.",
)
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Of a random split.")
@click.option(
    "--sequence-length",
    type=click.IntRange(1),
    default=50,
    show_default=True,
    help="Longest history of a row for sequential models.",
)
@click.option(
    "--sequence-stride",
    type=click.IntRange(1),
    help="Items between a user's rows; 1: a row for every item. Default: as many as a history has.",
)
@click.option("--name", help="Name of the dataset; default: that of the source.")
@click.option("--replace", is_flag=True, help="Overwrite what lies there.")
def prepare_command(as_json: bool, format_: str | None, columns: str | None, **arguments: Any) -> None:
    """Turn SOURCE (a file, a folder, a glob or an address) into a dataset."""
    from adar_ray.data.prepare import prepare
    from adar_ray.reporting.progress import StageProgress

    with StageProgress() as progress:
        dataset = prepare(format=format_, columns=_parse_columns(columns), on_progress=progress, **arguments)
    for note in dataset.manifest["notes"]:
        _message(f"note: {note}")
    _show_dataset(dataset, as_json)


def _parse_columns(columns: str | None) -> dict[str, str] | None:
    if columns is None:
        return None
    pairs = [part.partition("=") for part in columns.split(",")]
    wrong = [
        key for key, equals, value in pairs if not value or key not in ("user", "item", "timestamp", "rating")
    ]
    if wrong:
        raise AdarError(
            f"--columns {columns}: {wrong[0]!r} is none of user=, item=, timestamp=, rating=; "
            "give it as user=NAME,item=NAME"
        )
    return {key: value for key, _, value in pairs}


def _show_dataset(dataset: Any, as_json: bool) -> None:
    counts = dataset.manifest["counts"]
    _show(
        {"dataset": dataset.folder.address, "split": dataset.manifest["split"]["protocol"], **counts}, as_json
    )


# Training.


def _how_to_resume(out: str | None, resume_run: str | None, **arguments: Any) -> str:
    from adar_ray.storage import Folder

    address = resume_run or out
    if address is None or not Folder.at(address).exists("config.yaml"):
        return "nothing was written"
    return f"go on after the last finished epoch with `adar-ray train --resume {address}`"


@command(cli, "train", hint=_how_to_resume)
@click.option("--data", "data_address", help="A dataset.")
@click.option("--out", help="Address of the run folder.")
@click.option("--config", "config_file", help="YAML file of the configuration.")
@click.option("--set", "settings", multiple=True, metavar="SECTION.KEY=VALUE", help="Overrides a key.")
@click.option(
    "--workers",
    type=click.IntRange(0),
    default=1,
    show_default=True,
    help="Ray Train workers; 0: in this process, without Ray.",
)
@click.option("--resume", "resume_run", metavar="RUN", help="Go on with an unfinished run.")
@click.option("--replace", is_flag=True, help="Overwrite what lies at --out.")
@click.option("--show-config", is_flag=True, help="Print the configuration with its explanations, and stop.")
def train_command(
    as_json: bool,
    data_address: str | None,
    out: str | None,
    config_file: str | None,
    settings: tuple[str, ...],
    workers: int,
    resume_run: str | None,
    replace: bool,
    show_config: bool,
) -> None:
    """Train a model, or go on training one."""
    from adar_ray.config import explained, load_config

    if resume_run is not None:
        source = click.get_current_context().get_parameter_source("workers")
        if data_address or out or config_file or settings or replace or source is ParameterSource.COMMANDLINE:
            raise click.UsageError("--resume takes everything from the run; give it no other option")
        from adar_ray.training.run import Run

        _finish(Run.open(resume_run), as_json)
        return
    config = load_config(config_file, settings)
    if show_config:
        click.echo(explained(config), nl=False)
        return
    if not data_address or not out:
        raise click.UsageError("give --data and --out, or --resume")
    from adar_ray.training.trainer import new_run

    _finish(new_run(data_address, out, config, workers=workers, replace=replace), as_json)


def _finish(run: Any, as_json: bool) -> None:
    """Trains a run to its end, and shows it."""
    from adar_ray.reporting.progress import TrainingProgress
    from adar_ray.reporting.tables import compare
    from adar_ray.training.trainer import resume

    workers, train = run.info.workers, run.config.train
    with TrainingProgress(train.epochs, train.metric) as progress:
        if run.result() is not None:
            progress.line(f"{run.folder}: is finished already")
        else:
            progress.line(f"starting {workers} Ray Train workers" if workers else "training in this process")
        run = resume(run, on_epoch=progress.on_epoch, on_step=progress.on_step)
    _show(compare([run])[0], as_json)


# Tuning.


def _how_to_go_on(out: str | None, resume_from: str | None, **arguments: Any) -> str:
    from adar_ray.storage import Folder

    address = resume_from or out
    if address is None or not Folder.at(address).exists("search.yaml"):
        return "nothing was written"
    return f"go on with `adar-ray tune --resume {address}`"


@command(cli, "tune", hint=_how_to_go_on)
@click.option("--data", "data_address", help="A dataset with validation interactions.")
@click.option("--space", "space_file", help="YAML file of the space, such as tune_spaces/score_aware.yaml.")
@click.option("--out", help="Address of the search folder.")
@click.option("--set", "settings", multiple=True, metavar="SECTION.KEY=VALUE", help="For all trials.")
@click.option("--trials", type=click.IntRange(1), help="At most so many; default: the space's.")
@click.option("--time", "time_limit", help="At most so long, as 90s, 30m or 2h; default: the space's.")
@click.option("--concurrent", type=click.IntRange(1), help="Trials at a time; default: as many as fit.")
@click.option(
    "--workers-per-trial",
    type=click.IntRange(1),
    default=1,
    show_default=True,
    help="Ray Train workers of a trial.",
)
@click.option(
    "--retries", type=click.IntRange(0), default=1, show_default=True, help="Of a trial that fails."
)
@click.option(
    "--seeds",
    type=click.IntRange(0),
    default=1,
    show_default=True,
    help="Runs of the winner that are trained and tested; 0: none.",
)
@click.option("--resume", "resume_from", metavar="SEARCH", help="Go on with an unfinished search.")
@click.option("--replace", is_flag=True, help="Overwrite what lies at --out.")
def tune_command(
    as_json: bool,
    data_address: str | None,
    space_file: str | None,
    out: str | None,
    settings: tuple[str, ...],
    time_limit: str | None,
    workers_per_trial: int,
    resume_from: str | None,
    **options: Any,
) -> None:
    """Search a space for the best configuration, and test that one."""
    from adar_ray.reporting.progress import SearchProgress

    if resume_from is not None:
        given = [
            name
            for name in click.get_current_context().params
            if click.get_current_context().get_parameter_source(name) is ParameterSource.COMMANDLINE
        ]
        if set(given) - {"resume_from", "as_json", "debug"}:
            raise click.UsageError("--resume takes everything from the search; give it no other option")
    elif not data_address or not space_file or not out:
        raise click.UsageError("give --data, --space and --out, or --resume")
    from adar_ray.tuning.search import resume_search, tune_space
    from adar_ray.tuning.spaces import parse_duration

    with SearchProgress() as progress:
        if resume_from is not None:
            folder = resume_search(resume_from, on_progress=progress)
        else:
            folder = tune_space(
                data_address,
                space_file,
                out,
                settings=settings,
                seconds=parse_duration(time_limit) if time_limit else None,
                workers=workers_per_trial,
                on_progress=progress,
                **options,
            )
    _show_search(folder, as_json)


def _show_search(folder: Any, as_json: bool) -> None:
    from adar_ray.tuning.folder import summary

    _show(summary(folder), as_json)


# Use.


@command(cli, "evaluate")
@click.argument("run")
@click.option("--split", type=click.Choice(["test", "valid", "train"]), default="test", show_default=True)
@click.option("--k", "ks", default="10,20,50", show_default=True, help="Cut-offs, separated by commas.")
def evaluate_command(run: str, split: str, ks: str, as_json: bool) -> None:
    """Rank every item for every user and measure RUN's model."""
    from adar_ray.inference.evaluate import evaluate

    if not all(k.strip().isdecimal() and int(k) for k in ks.split(",")):
        raise click.BadParameter(f"{ks!r} is no list of whole numbers such as 10,20", param_hint="--k")
    cut_offs = sorted({int(k) for k in ks.split(",")})
    result = evaluate(run, split, cut_offs)
    if as_json:
        _show(result.model_dump(), True)
        return
    names = dict.fromkeys(name.partition("@")[0] for name in result.metrics)
    rows = [{"metric": name, **{f"@{k}": result.metrics[f"{name}@{k}"] for k in cut_offs}} for name in names]
    _show(rows, False, title=f"{run}: {split}, {result.users:,} users")


@command(cli, "recommend")
@click.argument("run")
@click.option("--k", type=click.IntRange(1), default=20, show_default=True, help="Items a user.")
@click.option("--out", required=True, help="Address of a folder for the Parquet files.")
@click.option("--users", "users_file", type=click.Path(dir_okay=False), help="File of user ids, one a line.")
@click.option("--replace", is_flag=True, help="Overwrite what lies there.")
def recommend_command(
    run: str, k: int, out: str, users_file: str | None, replace: bool, as_json: bool
) -> None:
    """Write the top items of all users, or of those in a file, to Parquet."""
    from adar_ray.inference.recommend import recommend
    from adar_ray.reporting.progress import StageProgress

    users = None
    if users_file is not None:
        users = [line for line in Path(users_file).read_text(encoding="utf-8").splitlines() if line]
        if not users:
            raise AdarError(f"{users_file}: holds no user ids")
    with StageProgress("users") as progress:
        folder = recommend(
            run, out, k, users, replace=replace, on_progress=lambda done, total: progress("ranking", done)
        )
    _show({"recommendations": folder.address, "items a user": k}, as_json)


@command(cli, "export")
@click.argument("run")
@click.option("--out", required=True, help="Address of a folder for users.parquet and items.parquet.")
@click.option("--replace", is_flag=True, help="Overwrite what lies there.")
def export_command(run: str, out: str, replace: bool, as_json: bool) -> None:
    """Write user and item vectors to Parquet."""
    from adar_ray.inference.export import export

    _show({"vectors": export(run, out, replace=replace).address}, as_json)


@command(cli, "report")
@click.argument("runs", nargs=-1, required=True)
def report_command(runs: tuple[str, ...], as_json: bool) -> None:
    """Show RUNS side by side."""
    from adar_ray.reporting.tables import compare

    rows = compare(runs)
    if as_json:
        _show(rows, True)
        return
    # Runs as columns, which stay readable on a narrow terminal.
    addresses = [row.pop("run") for row in rows]
    names = dict.fromkeys(name for row in rows for name in row)
    _show(
        [
            {"run": name, **{a: row.get(name) for a, row in zip(addresses, rows, strict=True)}}
            for name in names
        ],
        False,
    )


@command(cli, "publish")
@click.argument("run")
@click.option("--to", required=True, help="Address of the folder whose published.json says what is in place.")
@click.option("--recommendations", help="Address of what `recommend` wrote with this run.")
def publish_command(run: str, to: str, recommendations: str | None, as_json: bool) -> None:
    """Put RUN's model in place, unless the one in place is better on validation."""
    from adar_ray.inference.publish import publish

    result = publish(run, to, recommendations)
    if not result["published"]:
        metric, value, offered = result["metric"], result["value"], result["offered"]
        _message(f"not published: {metric} {offered:.4f} is below the {value:.4f} of what is in place")
    _show(result, as_json)


# Jobs on a cluster.


def _address(function: Callable) -> Callable:
    return click.option(
        "--address",
        help="The head's dashboard, http://HEAD:8265 or https://...; default: RAY_API_SERVER_ADDRESS, else "
        "RAY_ADDRESS where that is one, else http://127.0.0.1:8265.",
    )(function)


@command(cli, "submit", hint=lambda **arguments: "`adar-ray list` says whether it was submitted")
@click.argument("job_file", metavar="JOB", type=click.Path(dir_okay=False))
@click.option("--name", help="Name of the job, and its key: one name is one job. Default: that of the file.")
@click.option("--wait", is_flag=True, help="Show the job's log, and end with the job's own exit status.")
@click.option(
    "--set",
    "settings",
    multiple=True,
    metavar="KEY=VALUE",
    help="Overrides a key of the job, such as storage=s3://bucket/adar or workers.number=8; or, as "
    "section.key, one of the configuration of its train and tune steps, such as train.epochs=60.",
)
@_address
def submit_command(
    job_file: str, name: str | None, wait: bool, settings: tuple[str, ...], address: str | None, as_json: bool
) -> None:
    """Submit JOB, a file such as jobs/train.yaml, to a cluster.

    A name that waits, runs or has succeeded is not submitted again. One that has failed or was stopped is,
    and goes on from its last checkpoint.
    """
    from adar_ray.cluster.client import Cluster
    from adar_ray.cluster.job import Job, check_name

    name = check_name(name or Path(job_file).stem)
    job = Job.load(job_file, settings)
    for words in job.commands(name):
        _check_usage(job_file, words)
    cluster = Cluster(address)
    attempt, is_new = cluster.submit(job, name)
    if not is_new:
        _message(f"job {name} is there already ({attempt.status}); nothing was submitted")
    elif attempt.number > 1:
        _message(f"job {name} goes on where it was: attempt {attempt.number}")
    if wait:
        attempt = _follow(cluster, attempt, _message_part)
    elif is_new:
        _message(f"follow it with `adar-ray logs -f {name}`, stop it with `adar-ray stop {name}`")
    _show({**attempt.row(), "submitted": is_new}, as_json)
    if wait:
        sys.exit(attempt.exit_status)


def _check_usage(job_file: str, words: list[str]) -> None:
    """Refuses here what would be wrong usage in the cluster."""
    name, *arguments = words
    try:
        cli.commands[name].make_context(name, arguments)
    except click.UsageError as error:
        raise AdarError(f"{job_file}: {name}: {one_line(error.format_message())}") from error


def _message_part(text: str) -> None:
    click.echo(text, err=True, nl=False)


def _follow(cluster: Any, attempt: Any, write: Callable[[str], None]) -> Any:
    try:
        return cluster.follow(attempt, write)
    except KeyboardInterrupt:
        name = attempt.name
        _message(
            f"adar-ray: interrupted; job {name} goes on: follow it again with `adar-ray logs -f {name}`, "
            f"stop it with `adar-ray stop {name}`"
        )
        sys.exit(INTERRUPTED)


@command(cli, "status")
@click.argument("name")
@_address
def status_command(name: str, address: str | None, as_json: bool) -> None:
    """Show how the job NAME stands."""
    from adar_ray.cluster.client import Cluster

    _show(Cluster(address).find(name).row(), as_json)


@command(cli, "logs")
@click.argument("name")
@click.option("-f", "--follow", is_flag=True, help="Go on until the job has ended.")
@_address
def logs_command(name: str, follow: bool, address: str | None, as_json: bool) -> None:
    """Print what the job NAME has written."""
    from adar_ray.cluster.client import Cluster

    if follow and as_json:
        raise click.UsageError("--json prints a whole log at once; leave out -f")
    cluster = Cluster(address)
    attempt = cluster.find(name)
    if follow:
        attempt = _follow(cluster, attempt, functools.partial(click.echo, nl=False))
        _message(f"job {name}: {attempt.status}")
    elif as_json:
        _show({"job": name, "log": cluster.log(attempt)}, True)
    else:
        click.echo(cluster.log(attempt), nl=False)


@command(cli, "stop", hint=lambda name, **arguments: f"`adar-ray status {name}` says whether it has stopped")
@click.argument("name")
@_address
def stop_command(name: str, address: str | None, as_json: bool) -> None:
    """Stop the job NAME, and wait until it has stopped. Submitted again, it goes on."""
    from adar_ray.cluster.client import Cluster

    cluster = Cluster(address)
    attempt = cluster.find(name)
    if attempt.has_ended:
        _message(f"job {name} has ended already ({attempt.status})")
    _show(cluster.stop(attempt).row(), as_json)


@command(cli, "list")
@_address
def list_command(address: str | None, as_json: bool) -> None:
    """List the jobs of a cluster, the youngest first."""
    from adar_ray.cluster.client import Cluster

    jobs = Cluster(address).list()
    if not jobs:
        _message("there are no jobs")
    _show([attempt.row() for attempt in jobs], as_json)
