"""Jobs on a Ray cluster: `job submit`, `job status`, `job logs`, `job stop` and `job list`."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import click

from adar_ray.cli.command import command
from adar_ray.cli.output import message, show
from adar_ray.errors import INTERRUPTED, AdarError, one_line

if TYPE_CHECKING:
    from adar_ray.cluster.client import Attempt, Cluster

F = TypeVar("F", bound=Callable[..., None])

LISTED = ("job", "status", "owner", "attempts", "started", "message")


def _address(function: F) -> F:
    return click.option(
        "--address",
        help="The dashboard of the head, such as http://HEAD:8265. Default: RAY_API_SERVER_ADDRESS, else "
        "RAY_ADDRESS if it starts with http, else http://127.0.0.1:8265.",
    )(function)


@command("submit", hint=lambda **arguments: "`adar-ray job list` shows whether it was submitted")
@click.argument("job_file", metavar="JOB", type=click.Path(dir_okay=False))
@click.option("--name", help="Name of the job, which identifies it. Default: the name of the file.")
@click.option("--wait", is_flag=True, help="Show the log, and exit with the status of the job.")
@click.option(
    "--set",
    "settings",
    multiple=True,
    metavar="KEY=VALUE",
    help="Override a key of the job, such as storage=s3://bucket/adar or workers.number=8, or a key of the "
    "configuration of its train and tune steps, such as train.epochs=60.",
)
@_address
def submit_command(
    job_file: str, name: str | None, wait: bool, settings: tuple[str, ...], address: str | None, as_json: bool
) -> None:
    """Submit JOB, a file such as jobs/train.yaml, to a cluster.

    A job whose name is waiting, running or has succeeded is not submitted again. A job that failed or was
    stopped is, and resumes from its last checkpoint.
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
        message(f"job {name} already exists ({attempt.status}); nothing was submitted")
    elif attempt.number > 1:
        message(f"job {name} resumes: attempt {attempt.number}")
    if wait:
        attempt = _follow(cluster, attempt, functools.partial(message, newline=False))
    elif is_new:
        message(f"follow it with `adar-ray job logs -f {name}`, stop it with `adar-ray job stop {name}`")
    show({**attempt.summary().to_dict(), "submitted": is_new}, as_json)
    if wait:
        sys.exit(attempt.exit_status)


def _check_usage(job_file: str, words: list[str]) -> None:
    """Refuse a step here that would be wrong usage on the cluster."""
    root = click.get_current_context().find_root()
    assert isinstance(root.command, click.Group)
    name, *arguments = words
    try:
        # With its parent: a command keeps the names of its help option from the first context it sees.
        root.command.commands[name].make_context(name, arguments, parent=root)
    except click.UsageError as error:
        raise AdarError(f"{job_file}: {name}: {one_line(error.format_message())}") from error


def _follow(cluster: Cluster, attempt: Attempt, write: Callable[[str], None]) -> Attempt:
    try:
        return cluster.follow(attempt, write)
    except KeyboardInterrupt:
        name = attempt.name
        message(
            f"adar-ray: interrupted; job {name} keeps running: follow it again with "
            f"`adar-ray job logs -f {name}`, stop it with `adar-ray job stop {name}`"
        )
        sys.exit(INTERRUPTED)


@command("status")
@click.argument("name")
@_address
def status_command(name: str, address: str | None, as_json: bool) -> None:
    """Show the status of the job NAME, and how far it has come: step, epoch, validation metric."""
    from adar_ray.cluster.client import Cluster

    cluster = Cluster(address)
    attempt = cluster.find(name)
    show(attempt.summary().to_dict() | cluster.progress(attempt), as_json)


@command("logs")
@click.argument("name")
@click.option("-f", "--follow", is_flag=True, help="Follow the log until the job ends.")
@_address
def logs_command(name: str, follow: bool, address: str | None, as_json: bool) -> None:
    """Print the log of the job NAME. With -f, exit with the status of the job."""
    from adar_ray.cluster.client import Cluster

    if follow and as_json:
        raise click.UsageError("--json prints the whole log at once; drop -f")
    cluster = Cluster(address)
    attempt = cluster.find(name)
    if follow:
        attempt = _follow(cluster, attempt, functools.partial(click.echo, nl=False))
        message(f"job {name}: {attempt.status}")
        sys.exit(attempt.exit_status)
    if as_json:
        show({"job": name, "log": cluster.log(attempt)}, True)
    else:
        click.echo(cluster.log(attempt), nl=False)


@command("stop", hint=lambda name, **arguments: f"`adar-ray job status {name}` shows whether it has stopped")
@click.argument("name")
@_address
def stop_command(name: str, address: str | None, as_json: bool) -> None:
    """Stop the job NAME and wait until it has stopped. Submit it again to resume.

    A job that has not started yet is not waited for: it will be stopped as soon as it starts.
    """
    from adar_ray.cluster.client import Cluster

    cluster = Cluster(address)
    attempt = cluster.find(name)
    if attempt.has_ended:
        message(f"job {name} has already ended ({attempt.status})")
    attempt = cluster.stop(attempt)
    if not attempt.has_ended:
        message(
            f"job {name} has not started: it will be stopped as soon as it starts, or when the head gives up "
            "on it; until then, submit it under another --name"
        )
    show(attempt.summary().to_dict(), as_json)


@command("list")
@click.option("--owner", help="Only jobs of this owner.")
@click.option(
    "--label", "labels", multiple=True, metavar="NAME=VALUE", help="Only jobs with this label; repeatable."
)
@_address
def list_command(owner: str | None, labels: tuple[str, ...], address: str | None, as_json: bool) -> None:
    """List the jobs of a cluster, newest first."""
    from adar_ray.cluster.client import Cluster

    for label in labels:
        if "=" not in label:
            raise click.UsageError(f"--label {label}: write it as NAME=VALUE, such as team=search")
    wanted = dict(label.split("=", 1) for label in labels)
    rows = [attempt.summary().to_dict() for attempt in Cluster(address).jobs(owner, wanted)]
    if not rows:
        message("no jobs" if owner is None and not labels else "no such jobs")
    if not as_json:  # the rest has no room beside the others; `job status` shows it
        rows = [{name: row[name] for name in LISTED} for row in rows]
    show(rows, as_json)


job = click.Group(
    "job",
    help="Submit, follow and stop jobs on a Ray cluster.",
    commands=[submit_command, status_command, logs_command, stop_command, list_command],
)
