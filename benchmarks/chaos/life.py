"""One command from its first start to its end, whatever happens to it on the way."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from benchmarks.chaos.processes import Command, Seen, marked, wait_until
from benchmarks.chaos.promises import BrokenError, check_words, next_words

KILLED = 128 + signal.SIGKILL
START_SECONDS = 120.0
END_SECONDS = 300.0  # of a command that nothing disturbs any more, on a busy machine
ORPHAN_SECONDS = 10.0
ORPHAN_SECONDS_KILLED = 90.0  # Ray's agents notice only after a while that their driver has been killed
TWIN_SECONDS = 60.0
RAY_SECONDS = 8.0  # that Ray takes to start
IGNORED_SECONDS = 10.0  # after which a command that finishes has not heard what should end it


@dataclass
class Fault:
    """What was broken, and what came of it.

    Attributes:
        process: what was running.
        kind: what was done to it.
        moment: when.
        outcome: what the command did then.
        seconds: how much longer everything took than undisturbed; faults of one life share it equally.
        lost: the promise that was not kept; empty if all were.
    """

    process: str
    kind: str
    moment: str
    outcome: str = ""
    seconds: float = 0.0
    lost: str = ""


@dataclass(frozen=True)
class Work:
    """A command, and how to tell whether what it writes is right.

    Attributes:
        name: for people.
        words: its words, in which `{source}`, `{data}` and `{out}` are addresses.
        units: what it does one after the other, such as epochs, and `done` counts them in its folder.
        check_part: what is there before the end agrees with the undisturbed folder.
        check_whole: what is there in the end does.
        same_as: what has the same result when nothing disturbs it; by default itself.
        uses_ray: whether it starts Ray, or needs a cluster.
        steps: of the job that `{job}` is, if its words submit one.
    """

    name: str
    words: Sequence[str]
    units: int
    done: Callable[[Path], int]
    check_part: Callable[[Path, Path], None]
    check_whole: Callable[[Path, Path], None]
    same_as: Work | None = None
    uses_ray: bool = False
    steps: Sequence[str] = ()


@dataclass(frozen=True)
class Kind:
    """A kind of fault.

    Attributes:
        strike: does it.
        statuses: those that the command may end with because of it; it goes on if there are none.
        ends_within: seconds after which it has to have ended; None if it may go on as well.
    """

    name: str
    strike: Callable[[Life], None]
    statuses: Sequence[int] = ()
    ends_within: float | None = None


@dataclass(frozen=True)
class Place:
    """Where a command runs.

    Attributes:
        environment, prefix: see `Command`.
        left: what is not allowed to be there once a command has ended, given its mark.
        pause: seconds between two looks at what it has written.
    """

    environment: Mapping[str, str] = field(default_factory=dict)
    prefix: Sequence[str] | None = None
    left: Callable[[str], list[Seen]] = marked
    pause: float = 0.02

    @property
    def uses_ray(self) -> bool:
        return self.prefix is not None


@dataclass(frozen=True)
class Whole:
    """The undisturbed result of a work, and the seconds that it took, in all and for a unit."""

    folder: Path
    seconds: float
    unit_seconds: float


class Life:
    """Starts a command, strikes it, starts it again as a user would, and checks the promises each time.

    Args:
        folder: for the messages of its commands. Its name marks its processes.
        addresses: what the words of the work are filled with.
        look: returns a folder with what is at `addresses["out"]` now.
        faults: where this life's are added.
    """

    def __init__(
        self,
        work: Work,
        place: Place,
        folder: Path,
        addresses: Mapping[str, str],
        look: Callable[[], Path],
        whole: Whole,
        random: Random,
        faults: list[Fault],
    ) -> None:
        self.work, self.place, self.folder, self.mark = work, place, folder, folder.name
        self.out, self.look = addresses["out"], look
        self.whole, self.random, self.faults = whole, random, faults
        self.words = [word.format(**addresses) for word in work.words]
        self.commands: list[Command] = []
        self._excused: Sequence[int] = ()  # the statuses with which the command may end once
        self._may_be_told = False
        self.command = self.start(self.words)

    def start(self, words: Sequence[str]) -> Command:
        """Starts a command of this life's; the caller decides whether it is the one that counts."""
        log = self.folder / f"{len(self.commands):02d}"
        command = Command(words, log, self.mark, self.place.environment, self.place.prefix)
        self.commands.append(command)
        return command

    def suffer(self, kinds: Sequence[Kind], *, rests: bool = False, after: int = 0) -> bool:
        """Strikes the command at random moments, in this order, and lets it finish.

        Args:
            rests: whether to stop after the last of them, of which the command ends.
            after: units that are done before the first.

        Returns:
            Whether it rests, not having finished.

        Raises:
            BrokenError: a promise was not kept after the last of the faults.
        """
        for number, kind in enumerate(kinds, 1):
            moment = self._moment(after)
            if moment is None:
                return False
            fault = Fault(self.work.name, kind.name, moment)
            self.faults.append(fault)
            kind.strike(self)
            self._excused = kind.statuses
            if kind.ends_within is None:
                fault.outcome = "went on"
                continue
            began = time.monotonic()
            if self.command.wait(kind.ends_within) is None:
                raise BrokenError(f"had not ended after {kind.ends_within:g} s")
            took = time.monotonic() - began
            fault.outcome = "had finished"
            if self.command.status == 0 and took > IGNORED_SECONDS:
                raise BrokenError(f"finished {took:.0f} s later as if nothing had been")
            words = self._words_again()
            fault.outcome += f" after {took:.1f} s"
            if words is None:
                return False
            if rests and number == len(kinds):
                return True
            self.command = self.start(words)
        deadline = time.monotonic() + END_SECONDS
        while self.command.wait(max(deadline - time.monotonic(), 0)) is not None:
            words = self._words_again()
            if words is None:
                return False
            self.command = self.start(words)
        raise BrokenError(f"had not finished after {END_SECONDS:g} s")

    def check_whole(self) -> None:
        self._check_left()
        self.work.check_whole(self.look(), self.whole.folder)

    def _moment(self, after: int) -> str | None:
        """Waits for a random moment; returns it in words, or None if the command finishes before."""
        folder, began = self.look(), time.monotonic()
        wanted = max(after, self.work.done(folder) + self.random.randint(0, self.work.units // 3))
        pause = self.random.uniform(0, self.whole.unit_seconds)
        if self.place.uses_ray and not wanted:  # which takes a while to start
            pause += self.random.uniform(0, RAY_SECONDS)
        at_write = self.random.random() < 0.3
        deadline = began + END_SECONDS

        def is_there() -> bool:
            return self.command.status is not None or (
                self.command.is_ready and self.work.done(self.look()) >= wanted
            )

        while True:
            if not wait_until(is_there, deadline - time.monotonic(), self.place.pause):
                raise BrokenError(f"had come no further after {END_SECONDS:g} s")
            if self.command.status is None:
                self.command.wait(pause)
                if at_write and not self.place.uses_ray:
                    wait_until(lambda: self.command.status is not None or _is_written(folder), pause)
            if self.command.status is None:
                done = self.work.done(self.look())
                written = ", within a write" if at_write and _is_written(folder) else ""
                return f"{done} of {self.work.units} done, {time.monotonic() - began:.2f} s on{written}"
            words = self._words_again()
            if words is None:
                return None
            self.command = self.start(words)

    def _words_again(self) -> list[str] | None:
        """With which words a user starts the command again that has ended; None if it has finished."""
        command, status = self.command, self.command.status
        if status == 0:
            self.check_whole()
            return None
        message = "" if status == KILLED else check_words(command, is_job=bool(self.work.steps))
        named = next_words(message)
        if "holds a finished run" in message:  # it was killed after the end; whoever looks at it tidies up
            named = ["train", "--resume", self.words[self.words.index("--out") + 1]]
        is_new_head = "submit it again" in message
        if is_new_head:
            named = [*self.words]
        is_told = (self._may_be_told or is_new_head) and status == 1 and named is not None
        if status in self._excused:
            self._excused = ()
            self.faults[-1].outcome = f"ended with status {status}"
        elif not is_told:
            raise BrokenError(f"ended with status {status}: {message or command.messages[-1:]}")
        self._check_left()
        folder = self.look()
        self.work.check_part(folder, self.whole.folder)
        if "nothing was written" in message and folder.exists() and any(folder.iterdir()):
            raise BrokenError(f"said that nothing was written, and {next(folder.iterdir()).name} is there")
        # Who is not told what to do tries the same again, and may be told then.
        self._may_be_told = named is None
        return named or self.words

    def _check_left(self) -> None:
        """Nothing that it has started is left."""
        seconds = ORPHAN_SECONDS if self.command.status != KILLED else ORPHAN_SECONDS_KILLED
        if not wait_until(lambda: not self.place.left(self.mark), seconds, 0.1):
            titles = sorted(
                {seen.title.split(" ")[0].rpartition("/")[2] for seen in self.place.left(self.mark)}
            )
            raise BrokenError(f"processes were left: {', '.join(titles)[:200]}")

    def end(self) -> None:
        """Ends all of its processes."""
        for command in self.commands:
            command.end()


def _is_written(folder: Path) -> bool:
    """Whether a file is being written somewhere in a folder."""
    # Unlike a glob, a walk passes over what is removed meanwhile.
    entries = (name for _, folders, files in os.walk(folder) for name in folders + files)
    return any(name.startswith(".") and name.endswith(".partial") for name in entries)


def signal_of(name: str, number: signal.Signals, statuses: Sequence[int], within: float) -> Kind:
    """A signal to the command, which ends of it."""
    return Kind(f"{name} of the driver", lambda life: life.command.send(number), statuses, within)


def _pause(life: Life) -> None:
    life.command.send(signal.SIGSTOP)
    time.sleep(life.random.uniform(0.2, 2.0))
    life.command.send(signal.SIGCONT)


def _twin(life: Life) -> None:
    """Starts the same a second time: one of the two has to be refused."""
    first, twin = life.command, life.start(life.random.choice((life.words, life.command.words)))
    if not wait_until(lambda: twin.status is not None or first.status == 1, TWIN_SECONDS):
        raise BrokenError(f"two in one folder, and none was refused within {TWIN_SECONDS:g} s")
    refused = twin
    if first.status == 1:  # the second was quicker
        life.command, refused = twin, first
    if refused.status == 1:
        message = check_words(refused)
        if not any(words in message for words in ("in use by", "holds a", "already exists", "taken it over")):
            raise BrokenError(f"a second driver was refused with: {message}")
    elif refused.status:
        raise BrokenError(f"a second driver ended with status {refused.status}")


KILL = signal_of("SIGKILL", signal.SIGKILL, (KILLED,), 10)
TERMINATE = signal_of("SIGTERM", signal.SIGTERM, (143, 130), 30)  # 130 before and after the training
INTERRUPT = Kind("Ctrl-C", lambda life: life.command.send(signal.SIGINT, group=True), (130,), 30)
PAUSE = Kind("SIGSTOP for a while", _pause)
TWIN = Kind("a second driver", _twin)
