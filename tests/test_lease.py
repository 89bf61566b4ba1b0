"""One writer a folder: who gets the lease, who is refused, and what a dead holder leaves."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from adar_ray import lease
from adar_ray.documents import to_record
from adar_ray.errors import AdarError
from adar_ray.lease import Lease, hold, read_holder
from adar_ray.storage import Folder

HOLD = """
import sys, time
from adar_ray.lease import hold
from adar_ray.storage import Folder
with hold(Folder.at(sys.argv[1])):
    print("held", flush=True)
    time.sleep(600)
"""


def message_of(call) -> str:
    with pytest.raises(AdarError) as caught:
        call()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def take(folder: Folder) -> None:
    with hold(folder) as mine:
        mine.check()


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder.at(tmp_path / "run")


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Heartbeats and expiry in tenths of a second."""
    monkeypatch.setattr(lease, "BEAT_SECONDS", 0.1)
    monkeypatch.setattr(lease, "EXPIRY_SECONDS", 0.6)
    monkeypatch.setattr(lease, "_POLL_SECONDS", 0.05)


@pytest.fixture
def other(folder: Folder) -> Iterator[subprocess.Popen]:
    """Another process, which holds the folder."""
    process = subprocess.Popen([sys.executable, "-c", HOLD, folder.path], stdout=subprocess.PIPE)
    assert process.stdout.readline() == b"held\n"
    yield process
    process.kill()
    process.communicate()


def elsewhere(folder: Folder) -> None:
    """Makes the holder one of another machine, on which this process id belongs to something else."""
    holder = read_holder(folder)
    folder.write_record("lease.json", holder.model_copy(update={"host": "far", "machine": "far away"}))


def test_a_lease_is_there_while_it_is_held(folder: Folder) -> None:
    with hold(folder) as mine:
        mine.check()
        assert read_holder(folder).pid == os.getpid()
        assert folder.is_empty()
    assert not folder.exists()
    folder.write_bytes("x", b"")
    for error in (ValueError, KeyboardInterrupt):
        with pytest.raises(error), hold(folder):
            raise error
        assert os.listdir(folder.path) == ["x"]


def test_the_second_process_is_told_who_holds_it(folder: Folder, other: subprocess.Popen) -> None:
    started = time.monotonic()
    message = message_of(lambda: take(folder))
    assert f"{folder}: in use by process {other.pid} on {os.uname().nodename}, since 20" in message
    assert f"kill {other.pid}" in message
    assert time.monotonic() - started < 5
    assert read_holder(folder).pid == other.pid


def test_a_process_is_not_told_to_end_itself(folder: Folder) -> None:
    with hold(folder):
        message = message_of(lambda: take(folder))
    assert message.startswith(f"{folder}: in use by process {os.getpid()} on {os.uname().nodename}, since 20")
    assert message.endswith(", which is this process; wait until it is done there")


@pytest.mark.parametrize("reaped", [False, True])
def test_the_lease_of_a_killed_process_is_free_at_once(
    folder: Folder, other: subprocess.Popen, reaped: bool
) -> None:
    other.send_signal(signal.SIGKILL)
    if reaped:
        other.wait()
    else:
        os.waitid(os.P_PID, other.pid, os.WEXITED | os.WNOWAIT)
    assert read_holder(folder).is_dead
    take(folder)


def test_a_process_that_has_got_the_id_of_a_dead_one_holds_nothing(
    folder: Folder, other: subprocess.Popen
) -> None:
    holder = read_holder(folder)
    folder.write_record("lease.json", holder.model_copy(update={"started": holder.started - 1}))
    take(folder)


@pytest.mark.usefixtures("quick")
def test_a_holder_elsewhere_lives_as_long_as_its_heart_beats(folder: Folder, caplog) -> None:
    with hold(folder):
        elsewhere(folder)
        assert "process" in message_of(lambda: take(folder))
        assert f"{folder}: process {os.getpid()} on far" in caplog.text
        assert "waiting up to 0.6 s" in caplog.text


@pytest.mark.usefixtures("quick")
def test_the_heart_beats_again_after_an_error_of_the_storages_client(
    folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    class ServiceError(Exception):
        pass

    failed = threading.Event()

    def fail(*_: object) -> None:
        failed.set()
        raise ServiceError

    with hold(folder):
        with monkeypatch.context() as patch:
            patch.setattr(lease, "_write", fail)
            assert failed.wait(10)
        before, deadline = read_holder(folder).beat, time.monotonic() + 10
        while read_holder(folder).beat == before:
            assert time.monotonic() < deadline
            time.sleep(0.05)


@pytest.mark.usefixtures("quick")
def test_a_holder_elsewhere_that_is_silent_has_lost_it(folder: Folder, other: subprocess.Popen) -> None:
    other.kill()
    other.wait()
    elsewhere(folder)
    started = time.monotonic()
    take(folder)
    assert time.monotonic() - started >= 0.6


@pytest.mark.usefixtures("quick")
def test_whoever_has_lost_it_finds_out_and_does_not_take_it_back(folder: Folder) -> None:
    with hold(folder) as mine:
        mine.check()
        taker = read_holder(folder).model_copy(update={"id": "another", "pid": 1, "host": "far"})
        folder.write_record("lease.json", taker)
        time.sleep(0.3)  # heartbeats
        message = message_of(mine.check)
        assert "process 1 on far" in message
        assert "has taken it over; this process stops and writes nothing more" in message
    assert read_holder(folder).id == "another"
    folder.delete("lease.json")
    assert "lease.json is gone" in message_of(mine.check)


def test_of_many_at_the_same_moment_one_can_write(folder: Folder) -> None:
    """Some may be refused only when they look again."""
    begin, tried, looked = (threading.Barrier(8, timeout=60) for _ in range(3))
    wrote: list[Lease] = []

    def attempt() -> None:
        with contextlib.ExitStack() as stack:
            mine = None
            begin.wait()
            with contextlib.suppress(AdarError):
                mine = stack.enter_context(hold(folder))
            tried.wait()  # nobody lets go before all have tried
            with contextlib.suppress(AdarError):
                if mine is not None:
                    mine.check()
                    wrote.append(mine)
            looked.wait()

    threads = [threading.Thread(target=attempt) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(wrote) == 1  # who wrote last has it


def test_whoever_is_overtaken_while_it_takes_the_lease_is_refused(
    folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two that have seen no lease write their own; the first one looks again before it begins."""
    monkeypatch.setattr(lease, "_SETTLE_SECONDS", 0.5)

    def overtake() -> None:
        deadline = time.monotonic() + 60
        while (first := read_holder(folder)) is None and time.monotonic() < deadline:
            time.sleep(0.01)
        folder.write_record("lease.json", first.model_copy(update={"id": "another", "host": "far"}))

    other, began = threading.Thread(target=overtake), []
    other.start()
    with pytest.raises(AdarError, match=r"in use by process \d+ on far"), hold(folder):
        began.append(True)
    other.join()
    assert not began
    assert read_holder(folder).id == "another"


def test_a_process_that_is_about_to_die_is_waited_for(folder: Folder, other: subprocess.Popen) -> None:
    """One that has been killed takes a moment to end."""
    threading.Timer(0.2, other.kill).start()
    take(folder)


@pytest.mark.usefixtures("quick")
def test_what_a_holder_elsewhere_lets_go_is_free(folder: Folder, other: subprocess.Popen) -> None:
    elsewhere(folder)
    other.kill()
    threading.Timer(0.2, folder.delete, ["lease.json"]).start()
    take(folder)


@pytest.mark.usefixtures("quick")
def test_nobody_waits_longer_for_a_holder_than_it_takes_to_expire(
    folder: Folder, other: subprocess.Popen
) -> None:
    waiter = threading.Thread(target=lease.wait_until_free, args=[folder], daemon=True)
    waiter.start()
    waiter.join(0.1)
    assert waiter.is_alive()
    waiter.join(10)
    assert not waiter.is_alive()
    assert read_holder(folder).pid == other.pid


@pytest.mark.usefixtures("quick")
def test_waiting_for_the_end_of_a_holder(folder: Folder, other: subprocess.Popen, caplog) -> None:
    threading.Timer(0.2, other.kill).start()
    lease.wait_until_free(folder)
    take(folder)
    assert f"in use by process {other.pid}" in caplog.text
    lease.wait_until_free(folder)  # of nobody


def test_a_damaged_lease(folder: Folder) -> None:
    for content in (b"", b"{}", b"[1", b'{"id": 5}', to_record({"id": 5})):
        folder.write_bytes("lease.json", content)
        assert f"{folder}/lease.json: is damaged" in message_of(lambda: take(folder))


def test_what_a_killed_holder_had_begun_to_write_is_removed(tmp_path: Path) -> None:
    folder = Folder.at(tmp_path)
    begun = tmp_path / "checkpoints" / "00001" / ".state.json.1a2b3c4d.partial"
    begun.parent.mkdir(parents=True)
    begun.write_bytes(b"half of it")
    contender = tmp_path / f".{lease.LEASE}.1a2b3c4d.partial"
    contender.write_bytes(b"")
    (begun.parent / "state.json").write_bytes(b"whole")
    with hold(folder):
        assert not begun.exists()
        assert contender.exists()
        assert (begun.parent / "state.json").read_bytes() == b"whole"
