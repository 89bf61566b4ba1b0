"""Which model is published: the new one, unless it is significantly worse than the one that is."""

from __future__ import annotations

import contextlib
from dataclasses import asdict
from pathlib import Path

from adar_ray.errors import AdarError
from adar_ray.inference.duel import Duel, duel
from adar_ray.inference.model import TrainedModel
from adar_ray.inference.recommend import INFO as RECOMMENDED
from adar_ray.lease import Lease, hold
from adar_ray.limits import MOST_VERSIONS, check_number
from adar_ray.significance import SIGNIFICANT
from adar_ray.storage import Folder
from adar_ray.training.published import (
    CREATED,
    HISTORY,
    PUBLISHED,
    VERSION,
    VERSIONS,
    Created,
    Decision,
    Published,
    now,
)
from adar_ray.training.run import MODEL, Run
from adar_ray.training.saved_model import SavedModel, read_info

FAILS = 0.5
"""A model that loses more than this part of the published one's figure has failed, whatever its age."""


def publish(
    run: str | Path | Run,
    to: str | Path,
    recommendations: str | None = None,
    *,
    keep: int = 7,
    max_age: float | None = None,
    force: bool = False,
    trust: bool = False,
) -> Decision:
    """Publishes a finished run's model, unless it is significantly worse than the published one.

    Both models rank the run's validation split (`duel`). The new one is significantly worse if its
    `train.metric` is lower, with a p below 0.05 in a paired t-test over users. `load(to)` loads what is
    published. If this process dies, that is the old model or the new one.

    Args:
        run: its model is copied, as the next version.
        to: address of the folder of published models.
        recommendations: address of the recommendations that this run made.
        keep: how many versions stay: the current one, and those that `rollback` reaches from it.
        max_age: seconds since the published model was published, after which a significantly worse one takes
            its place if it has at least half its figure.
        force: publish whatever the comparison says, or if there can be none.
        trust: whether custom components that the run and the published model name may run.

    Raises:
        AdarError: the run is not finished or has no validation metrics, or there are no such recommendations,
            or the published model cannot be compared with it, or another process publishes there.
    """
    check_number("--keep", keep, 2, MOST_VERSIONS)  # whoever has just begun to read one may go on
    run = Run.open(run, trust=trust)
    metric, result = run.config.train.metric, run.result()
    if result is None:
        raise AdarError(
            f"{run.folder}: is not finished; continue with `adar-ray train --resume {run.folder.in_shell}`"
        )
    if result.valid is None:
        raise AdarError(
            f"{run.folder}: has no validation metrics to judge it by; "
            "prepare its data again with a larger --valid-fraction or --core, or by leave-one-out"
        )
    if recommendations is not None:
        recommendations = Folder.at(recommendations).address
    weights = read_info(run.folder.folder(MODEL)).weights
    new = TrainedModel.load(run, trust=trust)
    published = Published.at(to)
    _check_folder(published)
    with hold(published.folder) as lease:
        # Whatever is damaged is found before anything changes.
        current, history, line = published.current(), published.history(), published.line()
        offered = run.folder.address, weights, recommendations
        same = current is not None and (current.run, current.weights, current.recommendations) == offered
        if current is not None and same and _is_whole(published, current.version):
            published.write_history(history)  # whoever published it may have been killed before that
            _forget(published, line[:keep])
            return current
        if recommendations is not None and not Folder.at(recommendations).exists(RECOMMENDED):
            raise AdarError(f"{recommendations}: holds no recommendations; give the --out of a `recommend`")
        is_in, why, outcome = _verdict(published, current, new, metric, max_age, force, trust)
        before = None if current is None else current.version
        decision = Decision(
            time=now(),
            decision="published" if is_in else "kept",
            why=why,
            version=_next(published, current) if is_in or before is None else before,
            before=before,
            run=run.folder.address,
            weights=weights,
            dataset=run.info.dataset,
            recommendations=recommendations,
            metric=metric,
            **({"new": result.valid[metric]} if outcome is None else asdict(outcome)),
        )
        if is_in:
            _put_in(published, lease, run, decision, history)
            _forget(published, [decision.version, *line][:keep])
        else:
            lease.check()
            published.write_history([*history, decision])
        return decision


def _check_folder(published: Published) -> None:
    """Refuse a folder of something else; in one of published models a first version may be half there."""
    others = set(published.folder.content()) - {PUBLISHED, HISTORY, CREATED, VERSIONS}
    if others and not published.is_there():
        raise AdarError(f"{published.folder}: is not empty, and nothing is published there; choose another")


def create(to: str | Path) -> None:
    """Makes a folder of published models, with none in it yet, for a first run to begin with.

    One that is there already stays as it is.

    Args:
        to: address of the folder.

    Raises:
        AdarError: there is something else.
    """
    published = Published.at(to)
    if published.is_there():
        return
    _check_folder(published)
    published.folder.write_record(CREATED, Created(time=now()))


def rollback(to: str | Path) -> Decision:
    """Makes the previous version current again.

    The next model that is offered is compared with that one.

    Args:
        to: address of the folder of published models.

    Raises:
        AdarError: there is none, or it is no longer kept, or damaged, or another process publishes there.
    """
    published = Published.at(to)
    _current(published)
    with hold(published.folder) as lease:
        current, history = _current(published), published.history()
        before = published.made(current.version).before
        if before is None or not published.has(before):
            raise AdarError(
                f"{published.folder}: keeps no version before the current one; publish a run of your choice "
                "with --force"
            )
        _check(published, before)
        decision = published.made(before).model_copy(
            update={
                "time": now(),
                "decision": "rolled back",
                "why": f"replaces {current.version}",
                "before": current.version,
                **dict.fromkeys(("new", "old", "users", "p")),
            }
        )
        lease.check()
        published.write_current(decision, history)
        return decision


def _current(published: Published) -> Decision:
    """The decision that made the current version current; raises AdarError if there is none."""
    current = published.current()
    if current is None:
        raise AdarError(
            f"{published.folder}: nothing is published there; give the --to of `adar-ray publish`"
        )
    return current


def judge(outcome: Duel, age: float, max_age: float | None) -> tuple[bool, str]:
    """Whether the new model goes in, and why.

    Args:
        age: seconds since the old one was published.
    """
    if outcome.new >= outcome.old:
        return True, "it is not worse"
    if outcome.p is None or outcome.p >= SIGNIFICANT:
        return True, "it is not significantly worse"
    if max_age is None or age <= max_age:
        return False, "the new one is significantly worse"
    if outcome.old - outcome.new > FAILS * abs(outcome.old):  # the user's own metric may be below 0
        return False, "the new one has failed: it has less than half the figure"
    return True, f"it is significantly worse, but the other is {age / 86400:.1f} days old"


def _verdict(
    published: Published,
    current: Decision | None,
    new: TrainedModel,
    metric: str,
    max_age: float | None,
    force: bool,
    trust: bool,
) -> tuple[bool, str, Duel | None]:
    """Whether a model goes in, why, and what the comparison with the current one gave."""
    if current is None:
        return True, "it is the first", None
    try:
        age = (now() - published.made(current.version).time).total_seconds()
        old = TrainedModel.load(published.version(current.version).address, trust=trust)
        outcome = duel(new, old, metric)
    except AdarError as error:
        if not force:
            raise AdarError(f"{error}; --force publishes without a comparison") from error
        return True, f"by force, without a comparison ({error})", None
    is_in, why = judge(outcome, age, max_age)
    return (is_in, why, outcome) if is_in or not force else (True, "by force", outcome)


def _next(published: Published, current: Decision | None) -> str:
    """The name of the next version, which no other has, not even a current one whose folder is gone."""
    names = [*published.names(), "0" if current is None else current.version]
    return f"{max(map(int, names)) + 1:06d}"


def _put_in(
    published: Published, lease: Lease, run: Run, decision: Decision, history: list[Decision]
) -> None:
    """Copies a run's model as a new version and makes it the current one."""
    source, version = run.folder.folder(MODEL), published.version(decision.version)
    try:
        for name in source.files():
            version.write_bytes(name, source.read_bytes(name))
        _check(published, decision.version)
        version.write_record(VERSION, decision)
        lease.check()
    except BaseException:
        with contextlib.suppress(OSError):
            version.remove()
        raise
    published.write_current(decision, history)


def _is_whole(published: Published, name: str) -> bool:
    """Whether a version has its record and its model."""
    try:
        published.made(name)
        _check(published, name)
    except AdarError:
        return False
    return True


def _check(published: Published, name: str) -> None:
    """Refuses a version that is damaged."""
    version = published.version(name)
    if SavedModel.open(version, trust=True) is None:  # nothing here runs its code
        raise AdarError(f"{version}: lacks files of a model; publish a run with --force")


def _forget(published: Published, kept: list[str]) -> None:
    """Removes all versions but those that are to stay."""
    for name in set(published.names()) - set(kept):
        version = published.version(name)
        if version.exists(VERSION):
            version.delete(VERSION)
        version.remove()
