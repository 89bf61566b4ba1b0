"""The folder of published models: its versions, the small file that names the current one, and a history.

Which version is current changes with one file, which is replaced as a whole. A version counts once its
`version.json` is there, which is written last and removed first.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AwareDatetime, Field, PlainSerializer

from adar_ray.errors import AdarError, counted
from adar_ray.significance import p_phrase
from adar_ray.storage import Folder
from adar_ray.training.records import Record

PUBLISHED = "published.json"
HISTORY = "history.jsonl"
CREATED = "created.json"
VERSIONS = "versions"
VERSION = "version.json"
_REMEDY = "restore it, or remove it to publish any run"

Moment = Annotated[AwareDatetime, PlainSerializer(datetime.isoformat)]
Name = Annotated[str, Field(pattern=r"^\d{6}$")]
"""Of a version: its number."""


class Decision(Record):
    """What `publish` or `rollback` decided: a line of `history.jsonl`.

    The one that made a version is in the version, as `version.json`. The last one that changed which version
    is current is `published.json`.

    Attributes:
        time: of the decision, UTC.
        why: in words.
        version: the current one from then on.
        before: the current one until then; None if there was none.
        run: address of the run that was offered or, after `rolled back`, that the version is of.
        weights: the SHA-256 of its weights.
        dataset: address of the dataset that it was trained on.
        recommendations: address of the recommendations that it made, if they are known.
        metric: validation metric that decides.
        new, old: what the offered model and the published one reach, on the offered one's validation split.
            `old` is None where there was no comparison, both are after `rolled back`.
        users: how many both have been asked about.
        p: two-sided, of the paired t-test over these users.
    """

    time: Moment
    decision: Literal["published", "kept", "rolled back"]
    why: str
    version: Name
    before: Name | None
    run: str
    weights: str
    dataset: str
    recommendations: str | None
    metric: str
    new: float | None = None
    old: float | None = None
    users: int | None = None
    p: float | None = None

    def __str__(self) -> str:
        """All of it that matters, in one line."""
        figures = ""
        if self.new is not None:
            figures = f"{self.metric} {self.new:.4f}"
        if self.old is not None and self.users is not None:
            p = "" if self.p is None else f", {p_phrase(self.p)}"
            figures += f" against {self.old:.4f} of {self.before} ({counted(self.users, 'user')}{p})"
        what = "rolled back to" if self.decision == "rolled back" else self.decision
        return f"{what} {self.version}: {'; '.join(filter(None, (figures, self.why)))}"


class Created(Record):
    """`created.json`: when the folder was made before anything was published there."""

    time: Moment


@dataclass(frozen=True)
class Published:
    """A folder of published models."""

    folder: Folder

    @classmethod
    def at(cls, address: str | Path) -> Published:
        return cls(Folder.at(address))

    def current(self) -> Decision | None:
        """What is published; None if nothing is.

        Raises:
            AdarError: the file that says so is damaged.
        """
        if not self.folder.exists(PUBLISHED):
            return None
        return self.folder.read_record(PUBLISHED, Decision, _REMEDY)

    def is_there(self) -> bool:
        """Whether the folder is one of published models, even if it holds none yet."""
        return self.folder.exists(CREATED) or self.folder.exists(PUBLISHED)

    def model(self) -> Folder | None:
        """The folder of the published model; None if nothing is published."""
        current = self.current()
        return None if current is None else self.version(current.version)

    def names(self) -> list[str]:
        """The versions whose folders are there, also those that are not complete."""
        names = self.folder.folder(VERSIONS).content()
        return [name for name in names if re.fullmatch(r"\d{6}", name)]

    def version(self, name: str) -> Folder:
        return self.folder.folder(f"{VERSIONS}/{name}")

    def has(self, name: str) -> bool:
        """Whether a version is there as a whole."""
        return self.version(name).exists(VERSION)

    def made(self, name: str) -> Decision:
        """The decision that made a version.

        Raises:
            AdarError: the version is not there, or damaged.
        """
        folder = self.version(name)
        if not self.has(name):
            raise AdarError(f"{folder}: is not there; restore it, or publish a run with --force")
        return folder.read_record(VERSION, Decision, "restore it, or publish a run with --force")

    def line(self) -> list[str]:
        """The versions that `rollback` reaches one after the other, the current one first.

        It ends before one that is no longer kept. Where the current one is missing, or a record is damaged,
        it is not known which come next: all others follow, the newest first.
        """
        current, found = self.current(), list[str]()
        name = None if current is None else current.version
        try:
            while name is not None and (self.has(name) or not found):
                before = self.made(name).before
                found.append(name)
                name = before
        except AdarError:
            found += sorted(set(self.names()) - set(found), key=int, reverse=True)
        return found

    def history(self) -> list[Decision]:
        """All decisions, oldest first.

        Raises:
            AdarError: the file is damaged.
        """
        current, decisions = self.current(), list[Decision]()
        if self.folder.exists(HISTORY):
            decisions = self.folder.read_lines(
                HISTORY, Decision, "restore it, or remove it to begin a new one"
            )
        # Whoever made it may have been killed before it was in the history.
        if current is not None and current not in decisions:
            decisions.append(current)
        return decisions

    def write_history(self, decisions: list[Decision]) -> None:
        self.folder.write_lines(HISTORY, [decision.model_dump() for decision in decisions])

    def write_current(self, decision: Decision, history: list[Decision]) -> None:
        """Makes another version the current one.

        Args:
            history: all decisions before this one.
        """
        self.folder.write_record(PUBLISHED, decision)
        self.write_history([*history, decision])


def now() -> datetime:
    """The time in UTC, to the second."""
    return datetime.now(timezone.utc).replace(microsecond=0)
