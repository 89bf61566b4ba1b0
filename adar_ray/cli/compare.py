"""`compare`: models, samplers and baselines against each other."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from adar_ray.cli.command import command
from adar_ray.cli.output import message, show
from adar_ray.cli.train import workers_option
from adar_ray.limits import MOST_REPEATS, MOST_TRIALS

if TYPE_CHECKING:
    from adar_ray.comparison.folder import Comparison


def _names(context: click.Context, parameter: click.Parameter, value: str) -> list[str]:
    return [name.strip() for name in value.split(",") if name.strip()]


def _hint(out: str, **arguments: Any) -> str:
    from adar_ray.comparison.folder import PLAN
    from adar_ray.storage import Folder

    return "the same command continues" if Folder.at(out).exists(PLAN) else "nothing was written"


@command("compare", hint=_hint)
@click.argument("data")
@click.option("--out", required=True, help="Address of the comparison's folder.")
@click.option("--models", default="lightgcn", show_default=True, callback=_names, help="Separated by commas.")
@click.option(
    "--samplers",
    default="uniform,adar",
    show_default=True,
    callback=_names,
    help="Each model is trained with each of them.",
)
@click.option(
    "--baselines",
    default="popularity,itemknn,ease,als",
    show_default=True,
    callback=_names,
    help="'' for none.",
)
@click.option(
    "--seeds",
    type=click.IntRange(1, MOST_REPEATS),
    default=3,
    show_default=True,
    help="Runs of each model with each sampler.",
)
@click.option(
    "--trials",
    type=click.IntRange(0, MOST_TRIALS),
    default=0,
    show_default=True,
    help="Tune each model with each sampler, and each baseline, with this many on validation.",
)
@click.option(
    "--set", "settings", multiple=True, metavar="SECTION.KEY=VALUE", help="Override a key in all runs."
)
@workers_option("Ray Train workers of each run, as for train.")
@click.option(
    "--reference",
    help="What the others are tested against, such as ease or lightgcn-uniform.  "
    "[default: the baseline that is best on validation; without baselines the first model and sampler]",
)
@click.option("--test", is_flag=True, help="Measure on test as well: once all is decided.")
def compare_command(data: str, out: str, as_json: bool, **options: Any) -> None:
    """Compare models, samplers and baselines on the dataset DATA.

    What the folder holds already is used again, so the same command continues an interrupted comparison.
    """
    from adar_ray.comparison.compare import compare
    from adar_ray.memory import keep_freed_memory
    from adar_ray.reporting.progress import ComparisonProgress

    keep_freed_memory()
    with ComparisonProgress() as progress:
        comparison = compare(data, out, **options, on_progress=progress)
    show_comparison(out, comparison, as_json)


def show_comparison(address: str, comparison: Comparison, as_json: bool) -> None:
    """Print what came of the comparison at an address."""
    from adar_ray.comparison.folder import LATEX, MARKDOWN, REPORT
    from adar_ray.comparison.tables import notes, table, tuning_notes, tuning_table, verdict

    if as_json:
        show(comparison.model_dump(), True)
        return
    for split in comparison.splits:
        show(table(comparison, split), False, title=split)
        for note in filter(None, (verdict(comparison, split), *notes(comparison, split))):
            message(note)
    if comparison.tuned:
        show(tuning_table(comparison), False, title="tuning")
        for note in tuning_notes(comparison):
            message(note)
    message(f"{address}: {REPORT}, {MARKDOWN}, {LATEX}, and the figures of each user in users/")
