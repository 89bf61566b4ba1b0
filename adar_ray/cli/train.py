"""`train`: train a model, or resume a run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import click

from adar_ray.cli.command import command, refuse_all_but_resume, refuse_trust, resume_hint, trust_option
from adar_ray.cli.output import message, show
from adar_ray.errors import AdarError
from adar_ray.workers import WorkerRange

if TYPE_CHECKING:
    from adar_ray.training.run import Run


def workers_option(explanation: str) -> Callable[[Any], Any]:
    """The option `--workers`."""

    def parse(context: click.Context, parameter: click.Parameter, value: str | None) -> int | str | None:
        try:
            return None if value is None else WorkerRange.parse(value).asked
        except AdarError as error:
            raise click.UsageError(str(error)) from error

    return click.option("--workers", metavar="N|LEAST:MOST", callback=parse, help=explanation)


@command("train", hint=resume_hint("config.yaml", "train", "continue"))
@click.option("--data", "data_address", help="Address of a dataset; with --resume, if it has moved.")
@click.option("--out", help="Address of the new run folder.")
@click.option("--config", "config_file", help="YAML file with the configuration.")
@click.option("--set", "settings", multiple=True, metavar="SECTION.KEY=VALUE", help="Override a key.")
@workers_option(
    "Ray Train workers; 0 trains in this process; 1:4 takes as many as there is room for.  "
    "[default: 0, on a cluster 1; those of the run]"
)
@click.option(
    "--init-from", metavar="RUN", help="Begin with the vectors that RUN has of the same users and items."
)
@click.option(
    "--resume", metavar="RUN", help="Resume an unfinished run; --data, --set and --workers change it."
)
@trust_option("the run of --resume or --init-from")
@click.option("--replace", is_flag=True, help="Overwrite the run at --out.")
@click.option("--show-config", is_flag=True, help="Print the configuration with explanations, and exit.")
def train_command(
    as_json: bool,
    data_address: str | None,
    out: str | None,
    config_file: str | None,
    settings: tuple[str, ...],
    workers: int | str | None,
    init_from: str | None,
    resume: str | None,
    trust: bool,
    replace: bool,
    show_config: bool,
) -> None:
    """Train a model, or resume an unfinished run."""
    if resume is not None:
        refuse_all_but_resume(
            "run", data_address="--data", settings="--set", workers="--workers", trust="--trust"
        )
        from adar_ray.training.run import Run

        _finish(Run.open(resume, trust=trust), as_json, data=data_address, settings=settings, workers=workers)
        return
    refuse_trust(trust and init_from is None, "--resume or --init-from")
    from adar_ray.config import explained, load_config

    config = load_config(config_file, settings)
    if show_config:
        click.echo(explained(config), nl=False)
        return
    if not data_address or not out:
        raise click.UsageError("give --data and --out, or --resume")
    from adar_ray.training.trainer import new_run

    run = new_run(
        data_address, out, config, workers=workers, init_from=init_from, trust=trust, replace=replace
    )
    _finish(run, as_json)


def _finish(
    run: Run,
    as_json: bool,
    *,
    data: str | None = None,
    settings: Sequence[str] = (),
    workers: int | str | None = None,
) -> None:
    """Train a run to its end, with the changes that `resume` takes, and show it."""
    from adar_ray.memory import keep_freed_memory
    from adar_ray.reporting.progress import TrainingProgress
    from adar_ray.reporting.tables import popularity_warning, side_by_side
    from adar_ray.training.trainer import resume, revised

    keep_freed_memory()
    planned = revised(run, settings, workers)
    train = planned.config.train
    with TrainingProgress(train.epochs, train.metric) as progress:
        if run.result() is not None:
            progress.line(f"{run.folder}: is already finished")
        elif planned.info.workers:
            progress.line(f"starting {planned.info.workers} Ray Train workers")
        else:
            progress.line("training in this process")
        run = resume(
            run,
            data=data,
            settings=settings,
            workers=workers,
            on_epoch=progress.on_epoch,
            on_step=progress.on_step,
            on_note=lambda note: progress.line(f"note: {note}"),
        )
    if warning := popularity_warning(run):
        message(f"warning: {warning}")
    show(side_by_side([run])[0], as_json)
