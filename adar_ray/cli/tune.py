"""`tune`: search a space, or resume a search."""

from __future__ import annotations

from functools import partial
from typing import Any

import click

from adar_ray.cli.command import (
    Duration,
    command,
    refuse_all_but_resume,
    refuse_trust,
    resume_hint,
    trust_option,
)
from adar_ray.cli.output import show
from adar_ray.limits import MOST_REPEATS, MOST_TRIALS, MOST_WORKERS


@command("tune", hint=resume_hint("search.yaml", "tune", "continue"))
@click.option("--data", "data_address", help="Address of a dataset with validation interactions.")
@click.option("--space", "space_file", help="YAML file with the space, such as tune_spaces/score_aware.yaml.")
@click.option("--out", help="Address of the new search folder.")
@click.option(
    "--set", "settings", multiple=True, metavar="SECTION.KEY=VALUE", help="Override a key in all trials."
)
@click.option(
    "--trials", type=click.IntRange(1, MOST_TRIALS), help="Maximum number of trials. Default: the space's."
)
@click.option(
    "--time",
    "seconds",
    type=Duration(),
    help="Maximum duration, such as 90s, 30m or 2h. Default: the space's.",
)
@click.option(
    "--concurrent", type=click.IntRange(1, MOST_WORKERS), help="Trials at a time. Default: as many as fit."
)
@click.option(
    "--workers-per-trial",
    "workers",
    type=click.IntRange(1, MOST_WORKERS),
    default=1,
    show_default=True,
    help="Ray Train workers per trial.",
)
@click.option(
    "--retries",
    type=click.IntRange(0, MOST_REPEATS),
    default=1,
    show_default=True,
    help="Retries of a failed trial.",
)
@click.option(
    "--seeds",
    type=click.IntRange(0, MOST_REPEATS),
    default=1,
    show_default=True,
    help="Seeds to train and test the best configuration with; 0 skips this.",
)
@click.option("--resume", metavar="SEARCH", help="Resume a search, with other --trials or --time if given.")
@trust_option("the resumed search")
@click.option("--replace", is_flag=True, help="Overwrite the search at --out.")
def tune_command(
    as_json: bool,
    data_address: str | None,
    space_file: str | None,
    out: str | None,
    resume: str | None,
    trust: bool,
    **options: Any,
) -> None:
    """Search a space for the best configuration, and test that one."""
    if resume is not None:
        refuse_all_but_resume("search", trials="--trials", seconds="--time", trust="--trust")
        from adar_ray.tuning.search import resume_search

        limits = {name: options[name] for name in ("trials", "seconds")}
        search = partial(resume_search, resume, trust=trust, **limits)
    elif data_address and space_file and out:
        refuse_trust(trust)
        from adar_ray.tuning.search import tune

        search = partial(tune, data_address, space_file, out, **options)
    else:
        raise click.UsageError("give --data, --space and --out, or --resume")
    from adar_ray.tuning.folder import Search, summary
    from adar_ray.tuning.progress import ProgressDisplay

    with ProgressDisplay() as progress:
        folder = search(on_progress=progress)
    show(summary(Search.open(folder.address, trust=True)), as_json)  # nothing here runs its code
