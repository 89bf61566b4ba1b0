"""A quick share of `python -m benchmarks.chaos`: what is broken in real processes changes no result."""

from __future__ import annotations

import contextlib
import json
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest

from benchmarks.chaos import alone, damage
from benchmarks.chaos.lab import ALONE, Lab, training
from benchmarks.chaos.life import KILL, TWIN, Fault
from benchmarks.chaos.processes import wait_until
from benchmarks.chaos.promises import BrokenError, check_epochs, check_files, check_run, next_words

pytestmark = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="looks at processes in /proc")


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    lab = Lab(tmp_path_factory.mktemp("chaos"))
    yield lab
    lab.close()


@pytest.mark.parametrize("name", ["mf", "lightgcn"])
def test_a_training_that_is_killed_ends_as_if_it_had_not_been(lab: Lab, name: str) -> None:
    faults: list[Fault] = []
    with lab.life(training(name), ALONE, f"killed-{name}", Random(0), faults) as life:
        life.suffer([KILL])
    assert [(fault.kind, fault.lost) for fault in faults] == [(KILL.name, "")]


def test_a_flipped_bit_of_a_checkpoint_changes_nothing(lab: Lab) -> None:
    faults: list[Fault] = []
    with lab.life(training("mf"), ALONE, "flipped", Random(1), faults) as life:
        assert life.suffer([KILL], rests=True, after=1)
        run = Path(life.out)
        parts = sorted(run.glob("checkpoints/*/*.safetensors"))
        alone.damaged(life, parts[-1:], ["train", "--resume", str(run)])
        life.check_whole()
    assert len(faults) == 2
    assert not [fault for fault in faults if fault.lost]


def test_a_training_that_is_killed_within_an_epoch_goes_on_from_there(lab: Lab) -> None:
    faults: list[Fault] = []
    with lab.life(training("mf"), ALONE, "within", Random(2), faults) as life:
        run = Path(life.out)

        def newest() -> tuple[str, int]:
            """The newest checkpoint, and how many steps of an epoch have been done."""
            names = sorted(path.name for path in run.glob("checkpoints/*") if path.name[0].isdigit())
            with contextlib.suppress(FileNotFoundError, IndexError):  # there is none, or it is not complete
                return names[-1], json.loads((run / "checkpoints" / names[-1] / "state.json").read_text())[
                    "step"
                ]
            return "", 0

        assert wait_until(lambda: newest()[1] in (20, 40), 60)  # of 90 or so
        life.command.send(signal.SIGKILL)
        life.command.wait(10)
        name, step = newest()
        assert step > 0
        for other in (run / "checkpoints").iterdir():  # nothing else is left to go on from
            if other.is_dir() and other.name != name:
                shutil.rmtree(other)
        life.command = life.start(["train", "--resume", life.out])
        assert life.command.wait(60) == 0, life.command.messages
        life.check_whole()
    assert not faults


def test_of_two_trainings_in_one_folder_one_is_refused(lab: Lab) -> None:
    faults: list[Fault] = []
    with lab.life(training("mf"), ALONE, "twice", Random(3), faults) as life:
        life.suffer([TWIN])
    assert [(fault.kind, fault.lost) for fault in faults] == [(TWIN.name, "")]


# The checks themselves.


def test_damage_changes_a_file_and_can_be_undone(tmp_path: Path) -> None:
    path = tmp_path / "file"
    kinds = set()
    for seed in range(60):
        path.write_bytes(b"some content of a file")
        found = damage.damage(Random(seed), path)
        assert not path.exists() or path.read_bytes() != found.before
        found.undo()
        assert path.read_bytes() == b"some content of a file"
        kinds.add(found.kind)
    assert kinds == {*damage.KINDS}


def _write_run(run: Path, losses: list[float], weights: bytes = b"w", **more: bytes) -> Path:
    (run / "model").mkdir(parents=True)
    (run / "model" / "weights.safetensors").write_bytes(weights)
    lines = [{"epoch": n, "loss": loss, "time": id(loss)} for n, loss in enumerate(losses, 1)]
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    for name, content in more.items():
        (run / name).write_bytes(content)
    return run


def test_a_run_that_differs_is_told(tmp_path: Path) -> None:
    whole = _write_run(tmp_path / "whole", [3.0, 2.0])
    check_run(_write_run(tmp_path / "same", [3.0, 2.0]), whole)
    check_epochs(_write_run(tmp_path / "part", [3.0]), whole)
    with pytest.raises(BrokenError, match="epoch 2 differs in loss"):
        check_epochs(_write_run(tmp_path / "loss", [3.0, 2.5]), whole)
    with pytest.raises(BrokenError, match=r"metrics\.jsonl differs"):
        check_run(tmp_path / "part", whole)
    with pytest.raises(BrokenError, match=r"model/weights\.safetensors differs"):
        check_run(_write_run(tmp_path / "weights", [3.0, 2.0], b"x"), whole)
    with pytest.raises(BrokenError, match=r"\.a\.partial was left behind"):
        check_files(_write_run(tmp_path / "stray", [3.0, 2.0], **{".a.partial": b""}), whole)
    doubled = _write_run(tmp_path / "doubled", [3.0])
    (doubled / "metrics.jsonl").write_text((doubled / "metrics.jsonl").read_text() * 2)
    with pytest.raises(BrokenError, match=r"has the epochs \[1, 1\]"):
        check_epochs(doubled, whole)


def test_the_command_that_a_message_names() -> None:
    told = "interrupted; continue with `adar-ray train --resume /a/run`, or not"
    assert next_words(told) == ["train", "--resume", "/a/run"]
    assert next_words("nothing was written") is None
