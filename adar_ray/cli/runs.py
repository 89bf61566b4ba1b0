"""What to do with trained runs: `evaluate`, `recommend`, `similar`, `export`, `report` and `publish`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from adar_ray.cli.command import Duration, command, given_beside, new_items_option, trust_option
from adar_ray.cli.output import message, show
from adar_ray.errors import counted, one_line
from adar_ray.limits import LARGEST_K, MOST_VERSIONS

if TYPE_CHECKING:
    from adar_ray.inference.new_items import NewItems
    from adar_ray.inference.recommender import Recommender
    from adar_ray.training.records import Group

_LONGEST_TITLE = 60  # characters of a title in a table

_data = click.option(
    "--data", help="Where the dataset of a run that is not finished is now. A finished run needs none."
)


@command("evaluate")
@click.argument("run")
@_data
@trust_option("RUN")
@click.option("--split", type=click.Choice(["test", "valid", "train"]), default="test", show_default=True)
@click.option("--k", "ks", default="10,20,50", show_default=True, help="Cutoffs, separated by commas.")
@click.option("--metric", "own", metavar="MODULE:CALLABLE", multiple=True, help="A metric of your own, too.")
def evaluate_command(
    run: str, data: str | None, trust: bool, split: str, ks: str, own: tuple[str, ...], as_json: bool
) -> None:
    """Rank all items for every user and compute the metrics of RUN's model."""
    from adar_ray.inference.evaluate import evaluate
    from adar_ray.memory import keep_freed_memory
    from adar_ray.reporting.tables import GROUPED_BY, beside_popularity
    from adar_ray.training.run import Run

    keep_freed_memory()
    if not all(k.strip().isdecimal() and int(k) for k in ks.split(",")):
        raise click.BadParameter(
            f"{ks!r} is not a list of positive whole numbers such as 10,20", param_hint="--k"
        )
    cutoffs = sorted({int(k) for k in ks.split(",")})
    result = evaluate(run, split, cutoffs, metrics=own, data=data, trust=trust)
    if as_json:
        show(result.model_dump(), True)
        return
    if sentences := beside_popularity(Run.open(run, trust=True), result):  # nothing here runs its code
        message(f"{split}: {sentences}")
    names = dict.fromkeys(name.partition("@")[0] for name in result.metrics)
    rows = [
        {"metric": name, **{f"@{k}": result.metrics.get(f"{name}@{k}") for k in cutoffs}} for name in names
    ]
    show(rows, False, title=f"{run}: {split}, {counted(result.users, 'user')}")
    for name, groups in result.groups.items():
        show(_rows_of_groups(groups, cutoffs), False, title=GROUPED_BY[name])


def _rows_of_groups(groups: Sequence[Group], cutoffs: Sequence[int]) -> list[dict[str, Any]]:
    """A row per group, with the metrics that a terminal has room for."""
    k = 20 if 20 in cutoffs else cutoffs[0]
    names = [f"{name}@{k}" for name in ("recall", "ndcg", "share")]
    return [
        {
            "from": group.first,
            "to": group.last,
            "users": group.users,
            **{name: group.metrics[name] for name in names if name in group.metrics},
        }
        for group in groups
    ]


@command("recommend")
@click.argument("run")
@_data
@new_items_option
@trust_option("RUN")
@click.option("--k", type=click.IntRange(1, LARGEST_K), default=20, show_default=True, help="Items per user.")
@click.option("--user", "asked", multiple=True, help="Print the items of this user; may be repeated.")
@click.option("--out", help="Address of a new folder for Parquet files of all users' items.")
@click.option("--users", "users_file", help="With --out: address of a file of user ids, one a line.")
@click.option("--replace", is_flag=True, help="Overwrite the recommendations at --out.")
def recommend_command(
    run: str,
    data: str | None,
    new_items: str | None,
    trust: bool,
    k: int,
    asked: tuple[str, ...],
    out: str | None,
    users_file: str | None,
    replace: bool,
    as_json: bool,
) -> None:
    """Print the top items of a user; or write those of all users, or of the users in a file, to Parquet."""
    if bool(asked) == bool(out) or (asked and (users_file or replace)):
        raise click.UsageError("give one of --user, which prints items, and --out, which writes them")
    if not out:
        _print_recommendations(_load(run, data, new_items, trust), k, asked, as_json)
        return
    from adar_ray.inference.recommend import UNKNOWN_USERS, recommend
    from adar_ray.memory import keep_freed_memory
    from adar_ray.reporting.progress import StageProgress

    keep_freed_memory()
    users = None if users_file is None else _read_users(users_file)
    with StageProgress("users") as progress:
        result = recommend(
            run,
            out,
            k,
            users,
            replace=replace,
            data=data,
            new_items=new_items,
            trust=trust,
            on_progress=lambda done, total: progress("ranking", done),
        )
    _note_new_items(result.new_items)
    if result.repeated_users:
        message(f"note: {users_file}: repeated ids: {result.repeated_users:,}; each user is answered once")
    if result.unknown_users:
        message(
            f"note: {users_file}: ids that the model does not know: {len(result.unknown_users):,}; "
            f"{result.folder}/{UNKNOWN_USERS} lists them"
        )
    if result.untrained_users or result.untrained_items:
        message(
            f"note: without training interactions: {result.untrained_users:,} of these users and "
            f"{result.untrained_items:,} of all items; their scores mean little"
        )
    show(
        {
            "recommendations": result.folder.address,
            "items per user": k,
            "users": result.users,
            "unknown users": len(result.unknown_users),
        },
        as_json,
    )


def _load(run: str, data: str | None, new_items: str | None, trust: bool) -> Recommender:
    from adar_ray.inference.recommender import load

    recommender = load(run, data=data, new_items=new_items, trust=trust)
    _note_new_items(recommender.trained.new_items)
    return recommender


def _note_new_items(new_items: NewItems | None) -> None:
    for note in [] if new_items is None else new_items.notes():
        message(f"note: {note}")


def _print_recommendations(recommender: Recommender, k: int, users: tuple[str, ...], as_json: bool) -> None:
    answers = recommender.recommend(users, k)
    rows = [
        {"user": user, "rank": rank, **_named(recommender, item, as_json), "score": score}
        for user, answer in answers.items()
        for rank, (item, score) in enumerate(answer, 1)
    ]
    show(rows, as_json)


def _named(recommender: Recommender, item: str, as_json: bool) -> dict[str, str | None]:
    """An item's id, and its title if items have titles; a table has one line for it."""
    if not recommender.has_titles:
        return {"item": item}
    title = recommender.title(item)
    return {"item": item, "title": title if as_json or title is None else one_line(title, _LONGEST_TITLE)}


def _read_users(address: str) -> list[str]:
    """The ids in a file that is read as sources are, one a line, without the spaces around them."""
    import pyarrow.compute as pc

    from adar_ray.data.files import lines_of

    lines = (pc.utf8_trim_whitespace(block) for block, _ in lines_of(address, block_bytes=1 << 20))
    return [user for block in lines for user in block.to_pylist() if user]


@command("similar")
@click.argument("run")
@_data
@new_items_option
@trust_option("RUN")
@click.option("--item", help="An item, to print the items most similar to it.")
@click.option("--user", help="A user, to print the users most similar to this one.")
@click.option("--k", type=click.IntRange(1, LARGEST_K), default=20, show_default=True, help="How many.")
def similar_command(
    run: str,
    data: str | None,
    new_items: str | None,
    trust: bool,
    item: str | None,
    user: str | None,
    k: int,
    as_json: bool,
) -> None:
    """Print the items, or users, whose vectors have the highest cosine with that of one."""
    if (item is None) == (user is None):
        raise click.UsageError("give either --item or --user")
    recommender = _load(run, data, new_items, trust)
    if item is not None:
        rows = [
            {**_named(recommender, id, as_json), "cosine": cosine}
            for id, cosine in recommender.similar_items(item, k)
        ]
    elif user is not None:
        rows = [{"user": id, "cosine": cosine} for id, cosine in recommender.similar_users(user, k)]
    show([{"rank": rank, **row} for rank, row in enumerate(rows, 1)], as_json)


@command("export")
@click.argument("run")
@_data
@new_items_option
@trust_option("RUN")
@click.option("--out", required=True, help="Address of a new folder for users.parquet and items.parquet.")
@click.option(
    "--format",
    "formats",
    type=click.Choice(["faiss", "onnx", "torch"]),
    multiple=True,
    help="Write an index, or a program that scores, next to the Parquet files; may be repeated.",
)
@click.option("--replace", is_flag=True, help="Overwrite the export at --out.")
def export_command(
    run: str,
    data: str | None,
    new_items: str | None,
    trust: bool,
    out: str,
    formats: tuple[str, ...],
    replace: bool,
    as_json: bool,
) -> None:
    """Write user and item vectors to Parquet, and the model to FAISS, ONNX or torch.export."""
    from adar_ray.inference.export import export

    exported = export(run, out, formats, replace=replace, data=data, new_items=new_items, trust=trust)
    _note_new_items(exported.new_items)
    show({"vectors": exported.folder.address}, as_json)


@command("report")
@click.argument("runs", nargs=-1, required=True)
@click.option("--html", metavar="FILE.html", help="Address of a page to write, with curves and all metrics.")
def report_command(runs: tuple[str, ...], html: str | None, as_json: bool) -> None:
    """Compare RUNS side by side, or show the results of a search or of a comparison."""
    from adar_ray.comparison.folder import PLAN
    from adar_ray.reporting.run_report import run_report
    from adar_ray.reporting.tables import dataset_warning, popularity_warning, side_by_side
    from adar_ray.storage import Folder
    from adar_ray.tuning.folder import SEARCH

    for mark, what, show_folder in (
        (PLAN, "comparison", _report_comparison),
        (SEARCH, "search", _report_search),
    ):
        if found := next((run for run in runs if Folder.at(run).exists(mark)), None):
            if len(runs) > 1:
                raise click.UsageError(f"{found} is a {what}: give it alone, or name runs in it")
            show_folder(found, html, as_json)
            return
    rows = side_by_side(runs)
    if html is not None:
        _write_page(html, run_report(runs))
    for warning in filter(None, (dataset_warning(runs), *map(popularity_warning, runs))):
        message(f"warning: {warning}")
    if as_json:
        show(rows, True)
        return
    # One column per run: readable on a narrow terminal.
    addresses = [row.pop("run") for row in rows]
    names = dict.fromkeys(name for row in rows for name in row)
    columns = list(zip(addresses, rows, strict=True))
    show([{"run": name, **{run: row.get(name) for run, row in columns}} for name in names], False)


def _report_comparison(address: str, html: str | None, as_json: bool) -> None:
    from adar_ray.cli.compare import show_comparison
    from adar_ray.comparison.report import page_of, read_comparison
    from adar_ray.storage import Folder

    folder = Folder.at(address)
    plan, comparison = read_comparison(folder)
    if html is not None:
        _write_page(html, page_of(folder, plan, comparison))
    show_comparison(address, comparison, as_json)


def _report_search(address: str, html: str | None, as_json: bool) -> None:
    from adar_ray.tuning.folder import Search, summary
    from adar_ray.tuning.report.search_report import page_of

    search = Search.open(address, trust=True)  # nothing here runs its code
    if html is not None:
        _write_page(html, page_of(search, search.read_trials()))
    show(summary(search), as_json)


def _write_page(address: str, content: str) -> None:
    from adar_ray.storage import Folder

    if not address.endswith(".html"):
        raise click.BadParameter(f"{address!r} does not end with .html", param_hint="--html")
    file = Folder.at(address)
    folder, _, name = file.path.rpartition("/")
    Folder(folder, file.filesystem, folder).write_bytes(name, content.encode())
    message(f"the page is {file}")


@command("publish")
@click.argument("run", required=False)
@click.option("--to", required=True, help="Address of the folder of published models.")
@click.option("--recommendations", help="Address of the recommendations that this run made.")
@click.option(
    "--keep",
    type=click.IntRange(2, MOST_VERSIONS),
    default=7,
    show_default=True,
    help="Versions that stay: the current one, and those before it that --rollback reaches.",
)
@click.option(
    "--max-age",
    type=Duration(),
    help="Such as 7d: once the published model is older, a significantly worse one takes its place if it has "
    "at least half its figure.",
)
@click.option("--force", is_flag=True, help="Publish whatever the comparison says, or if there can be none.")
@click.option("--rollback", is_flag=True, help="Instead of RUN: go back to the version before.")
@click.option(
    "--create",
    is_flag=True,
    help="Instead of RUN: make the folder if it is not there, for a first run to start --init-from.",
)
@trust_option("RUN and the published model")
def publish_command(
    run: str | None,
    to: str,
    recommendations: str | None,
    keep: int,
    max_age: float | None,
    force: bool,
    rollback: bool,
    create: bool,
    trust: bool,
    as_json: bool,
) -> None:
    """Publish RUN's model, unless it is significantly worse than the published one.

    Both models rank RUN's validation split. The new one stays out if its train.metric is lower and a paired
    t-test over users has a p below 0.05. What is published is a version of its own, and history.jsonl has
    every decision.
    """
    from adar_ray.inference import publish as publishing
    from adar_ray.memory import keep_freed_memory

    if (run is not None) + rollback + create != 1:
        raise click.UsageError("give either a RUN to publish, --rollback or --create")
    if run is not None:
        keep_freed_memory()
        began = publishing.now()
        decision = publishing.publish(
            run, to, recommendations, keep=keep, max_age=max_age, force=force, trust=trust
        )
        is_old = decision.time < began
        said = f"{run}: is already published, as {decision.version}" if is_old else str(decision)
    elif given_beside("to", "rollback", "create"):
        raise click.UsageError(f"--{'create' if create else 'rollback'} goes with --to alone; drop the rest")
    elif create:
        publishing.create(to)
        show({"published": to}, as_json)
        return
    else:
        decision = publishing.rollback(to)
        said = str(decision)
    message(said)
    show(decision.model_dump(), as_json)
