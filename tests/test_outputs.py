"""Folders that appear when they are complete: where they are put, what they replace, what failures leave."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from adar_ray.documents import to_record, to_sealed_yaml
from adar_ray.errors import AdarError
from adar_ray.lease import read_holder
from adar_ray.outputs import (
    Kind,
    check_replaceable,
    forget_replaced,
    new_folder,
    new_scratch,
    put_back,
    replacing,
    set_aside,
)
from adar_ray.storage import Folder

MARK = "made.json"
KIND = Kind(MARK, ("part", "old", "new", "slow", "quick", "replaced"))


def make(out: str | Path, content: str = "new", *, replace: bool = False, during=lambda folder: None) -> None:
    with new_folder(out, replace=replace, kind=KIND) as folder:
        folder.write_bytes("part/1", content.encode())
        folder.write_bytes(content, b"")
        during(folder)
        folder.write_bytes(MARK, mark(content))


def mark(content: str) -> bytes:
    return to_record({"content": content})


def message_of(call) -> str:
    with pytest.raises(AdarError) as caught:
        call()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def contents(folder: Path) -> dict[str, str]:
    """All files, hidden ones too."""
    return {str(p.relative_to(folder)): p.read_text() for p in sorted(folder.rglob("*")) if p.is_file()}


def made(content: str) -> dict[str, str]:
    return {MARK: mark(content).decode(), "part/1": content, content: ""}


def fail(folder: Folder) -> None:
    folder.write_bytes("half", b"")
    raise RuntimeError("failed")


@pytest.fixture(params=["plain", "link", "link to a link", "dangling link", "here", "mounted", "bound"])
def place(request, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """An address whose folder is empty or absent, and where its files are to be."""
    beside, out = tmp_path / "beside", tmp_path / "out"
    if request.param == "plain":
        yield out, out
    elif request.param == "here":
        out.mkdir()
        monkeypatch.chdir(out)
        yield ".", out
    elif "link" in request.param:
        (tmp_path / "elsewhere").mkdir()
        if request.param != "dangling link":
            beside = tmp_path / "elsewhere" / "beside"
            beside.mkdir()
        last = tmp_path / "out-link"
        last.symlink_to(beside)
        if request.param == "link to a link":
            out.symlink_to(last)
            yield out, beside
        else:
            yield last, beside
        assert last.is_symlink()
    else:
        if sys.platform != "linux" or os.geteuid() != 0:
            pytest.skip("only root can mount, and only on Linux")
        for folder in (beside, out):
            folder.mkdir()
        options = ["--bind", str(beside)] if request.param == "bound" else ["-t", "tmpfs", "tmpfs"]
        if subprocess.run(["mount", *options, str(out)], capture_output=True).returncode:
            pytest.skip("nothing can be mounted here")
        yield out, out
        subprocess.run(["umount", "-l", str(out)], check=True)


def test_the_life_of_a_folder(place, tmp_path: Path) -> None:
    address, files = place
    with pytest.raises(RuntimeError):
        make(address, during=fail)
    assert not files.exists() or not os.listdir(files)
    make(address, "old")
    assert contents(files) == made("old")
    inode = files.stat().st_ino
    assert "already exists; add --replace" in message_of(lambda: make(address))
    with pytest.raises(RuntimeError):
        make(address, replace=True, during=fail)
    assert contents(files) == made("old")
    make(address, replace=True)
    assert contents(files) == made("new")
    assert (files.stat().st_ino == inode) == Folder.at(address).must_stay
    assert not [name for name in os.listdir(tmp_path) if name.startswith(".")]


def test_what_came_meanwhile_is_not_lost(place, tmp_path: Path) -> None:
    address, files = place

    def meanwhile(folder: Folder) -> None:
        files.mkdir(exist_ok=True)
        (files / "precious.txt").write_text("of somebody else")

    for replace in (False, True):
        message = message_of(lambda r=replace: make(address, replace=r, during=meanwhile))
        assert ("holds no made.json" if replace else "already exists") in message
        assert contents(files) == {"precious.txt": "of somebody else"}
        assert not [name for name in os.listdir(tmp_path) if name.startswith(".")]


@pytest.mark.parametrize("first", ["file", "loop"])
def test_what_is_no_folder_is_refused(first: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.write_text("mine") if first == "file" else out.symlink_to(out)
    for replace in (False, True):
        assert message_of(lambda r=replace: make(out, replace=r)).startswith(f"{out}: ")
    assert os.listdir(tmp_path) == ["out"]


def test_of_two_at_once_the_later_one_is_refused(place) -> None:
    address, files = place
    message = message_of(lambda: make(address, "slow", during=lambda folder: make(address, "quick")))
    assert "already exists" in message
    assert contents(files) == made("quick")


def test_of_two_that_replace_the_later_one_wins(place) -> None:
    address, files = place
    make(address, "old")
    make(address, "slow", replace=True, during=lambda folder: make(address, "quick", replace=True))
    assert contents(files) == made("slow")


FILL = """
import sys, time
from adar_ray.outputs import new_folder
from tests.test_outputs import KIND
with new_folder(sys.argv[1], replace=True, kind=KIND) as folder:
    folder.write_bytes("half", b"")
    print("begun", flush=True)
    time.sleep(60)
"""


@pytest.mark.parametrize("stays", [False, True])
def test_what_a_killed_process_was_filling_is_removed(tmp_path: Path, stays: bool) -> None:
    """And nothing that somebody may still be filling."""
    out, parent = tmp_path / "out+", tmp_path  # a name that is no pattern
    if stays:
        parent = tmp_path / "target"
        parent.mkdir()
        out.symlink_to(parent)
    with contextlib.ExitStack() as stack:
        fillers = []
        for _ in range(3):
            command = [sys.executable, "-c", FILL, out]
            filler = stack.enter_context(subprocess.Popen(command, stdout=subprocess.PIPE))
            stack.callback(filler.kill)
            assert filler.stdout.readline() == b"begun\n"
            fillers.append(filler)
        by_process = {read_holder(folder).pid: folder for folder in map(Folder.at, parent.glob(".*.partial"))}
        killed, far, alive = (by_process[filler.pid] for filler in fillers)
        holder = read_holder(far).model_copy(update={"machine": "far away"})
        far.write_record("lease.json", holder)
        for filler in fillers[:2]:
            filler.kill()
            filler.wait()
        make(out)
        assert [folder.exists() for folder in (killed, far, alive)] == [False, True, True]
        assert sorted(name for name in os.listdir(out) if ".partial" not in name) == [MARK, "new", "part"]


@pytest.mark.parametrize("stays", [False, True])
def test_a_failure_leaves_no_folders_that_were_not_there(tmp_path: Path, stays: bool) -> None:
    (tmp_path / "there").mkdir()
    out = tmp_path / "there" / "new" / "newer" / "out"
    if stays:
        (tmp_path / "link").symlink_to(out)
    with pytest.raises(RuntimeError):
        make(tmp_path / "link" if stays else out, during=fail)
    assert not os.listdir(tmp_path / "there")


def test_where_the_mark_is_everything_else_is_there_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However far the replacement of a folder that must stay has come."""
    (tmp_path / "target").mkdir()
    (tmp_path / "out").symlink_to("target")
    make(tmp_path / "out", "old")
    rename, seen = Path.rename, []

    def rename_and_look(self: Path, to: Path) -> Path:
        moved = rename(self, to)
        seen.append({name for name in os.listdir(tmp_path / "target") if ".partial" not in name})
        return moved

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", rename_and_look)
        make(tmp_path / "out", replace=True)
    assert contents(tmp_path / "target") == made("new")
    assert set() in seen
    assert [names for names in seen if MARK in names] == [{MARK, "new", "part"}]


def test_a_folder_above_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(tmp_path / "out", "old")
    monkeypatch.chdir(tmp_path / "out" / "part")
    make("..", replace=True)
    assert contents(tmp_path / "out") == made("new")


def test_content_that_cannot_be_replaced_is_put_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "target").mkdir()
    (tmp_path / "out").symlink_to("target")
    make(tmp_path / "out", "old")
    rename = Path.rename

    def full(self: Path, to: Path) -> Path:
        if self.name == MARK and self.read_bytes() == mark("new"):
            raise OSError(28, "No space left on device")
        return rename(self, to)

    monkeypatch.setattr(Path, "rename", full)
    assert "the disk is full" in message_of(lambda: make(tmp_path / "out", replace=True))
    assert contents(tmp_path / "target") == made("old")
    assert sorted(os.listdir(tmp_path / "target")) == sorted([MARK, "old", "part"])


def test_a_parent_without_permission(tmp_path: Path) -> None:
    """As another user than root, who may write everywhere."""
    if os.geteuid():
        pytest.skip("only root can become another user")
    for folder in (tmp_path, *tmp_path.parents):
        if not folder.stat().st_mode & 0o1:  # pytest keeps others out
            folder.chmod(0o755)
    closed, mine = tmp_path / "closed", tmp_path / "parent" / "mine"
    for folder in (closed, mine):
        folder.mkdir(parents=True)
    closed.chmod(0o700)
    os.chown(mine, 65534, 65534)
    child = os.fork()
    if not child:
        try:
            os.setuid(65534)
            for out in (tmp_path / "new", closed / "new"):
                message = message_of(lambda out=out: make(out))
                assert f"{out}: no permission" in message
            make(mine)
            make(mine, replace=True)
            os._exit(0)
        except BaseException:
            os._exit(1)
    assert os.waitpid(child, 0)[1] == 0
    assert sorted(os.listdir(tmp_path)) == ["closed", "parent"]
    assert contents(mine) == made("new")


@pytest.mark.parametrize("fails_at", ["part/1", MARK])
def test_what_fails_on_an_object_store_leaves_nothing(
    fails_at: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, move = Folder.at(f"memory://{tmp_path}/out"), Folder._move_object

    def refuse(self: Folder, source: str, to: str) -> None:
        if to == fails_at:
            raise OSError(28, "No space left on device")
        move(self, source, to)

    with monkeypatch.context() as patch:
        patch.setattr(Folder, "_move_object", refuse)
        assert "the disk is full" in message_of(lambda: make(out.address))
    assert out.files() == []
    make(out.address)
    assert {name: out.read_bytes(name).decode() for name in out.files()} == made("new")


@pytest.mark.parametrize("dies_at", ["part/1", MARK])
def test_what_was_killed_on_an_object_store_can_be_replaced(
    dies_at: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = Folder.at(f"memory://{tmp_path}/out")
    move = Folder._move_object

    with monkeypatch.context() as patch:

        def die(self: Folder, source: str, to: str) -> None:
            if to == dies_at:
                for cleanup in ("delete", "remove"):
                    patch.setattr(Folder, cleanup, lambda *names: None)
                raise KeyboardInterrupt
            move(self, source, to)

        patch.setattr(Folder, "_move_object", die)
        with pytest.raises(KeyboardInterrupt):
            make(out.address, "old")
    assert out.files()
    assert MARK not in out.files()
    assert "already exists" in message_of(lambda: make(out.address))
    out.write_bytes("mine.txt", b"")
    assert "it holds mine.txt as well" in message_of(lambda: make(out.address, replace=True))
    out.delete("mine.txt")
    make(out.address, replace=True)
    assert {name: out.read_bytes(name).decode() for name in out.files()} == made("new")
    assert not out.exists(".coming.partial")


# What a longer work replaces.


@pytest.fixture(params=["", "memory://"])
def folder(request, tmp_path: Path):
    folder = Folder.at(f"{request.param}{tmp_path}/out")
    for name in ("part/1", "old"):
        folder.write_bytes(name, b"old")
    folder.write_bytes(MARK, mark("old"))
    yield folder
    folder.remove()


def test_what_is_set_aside_is_put_back(folder: Folder) -> None:
    set_aside(folder, MARK)
    assert folder.files() == [f"replaced/{name}" for name in sorted([MARK, "part/1", "old"])]
    folder.write_bytes("part/2", b"new")
    put_back(folder, MARK)
    assert folder.files() == sorted([MARK, "part/1", "old"])
    put_back(folder, MARK)
    assert folder.files() == sorted([MARK, "part/1", "old"])


def test_what_is_set_aside_stays_until_something_is_complete(folder: Folder) -> None:
    for _ in range(2):  # the second time what is incomplete is replaced
        set_aside(folder, MARK)
        folder.write_bytes(MARK, b"incomplete")
    set_aside(folder, MARK)
    assert folder.content() == ["replaced"]
    assert folder.read_bytes(f"replaced/{MARK}") == mark("old")
    folder.write_bytes(MARK, b"new")
    forget_replaced(folder)
    assert folder.files() == [MARK]


def test_what_cannot_begin_replaces_nothing(folder: Folder) -> None:
    before = folder.files()
    with pytest.raises(RuntimeError), replacing(folder, MARK):
        fail(folder)
    assert folder.files() == before


def test_a_folder_that_died_between_old_and_new_can_be_replaced(folder: Folder) -> None:
    set_aside(folder, MARK)
    check_replaceable(folder, KIND)


@pytest.mark.parametrize("name", ["config.yaml", "dataset.json"])
def test_only_what_this_program_made_is_replaced(name: str, tmp_path: Path) -> None:
    """The names of its files are those that other programs give to theirs."""
    kind = Kind(name, ("part",))
    sealed = to_sealed_yaml({"a": 1}) if name == "config.yaml" else mark("1")
    for content, may_be in (
        (b"", False),
        (b"a: 1\n", False),
        (sealed[:-20], False),
        (sealed, True),
        (sealed.replace(b"1", b"2", 1), True),  # edited
    ):
        folder = Folder.at(tmp_path / "out")
        folder.write_bytes(name, content)
        if may_be:
            check_replaceable(folder, kind)
        else:
            assert f"holds no {name} of adar-ray's" in message_of(
                lambda folder=folder: check_replaceable(folder, kind)
            )
    for mine in ("part/1", "mine.py"):
        folder.write_bytes(mine, b"")
    assert "it holds mine.py as well" in message_of(lambda: check_replaceable(folder, kind))


def test_setting_aside_goes_on_where_it_died(folder: Folder) -> None:
    folder.move("part", "replaced/part")
    set_aside(folder, MARK)
    assert folder.files() == [f"replaced/{name}" for name in sorted([MARK, "part/1", "old"])]


@pytest.mark.parametrize("change", [set_aside, put_back])
@pytest.mark.parametrize("moves", [0, 1, 2])
def test_nothing_is_lost_where_setting_aside_or_putting_back_is_cut_off(
    change, moves: int, folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever comes next sets aside first."""
    whole, move = folder.files(), Folder.move
    if change is put_back:
        set_aside(folder, MARK)
    left = {"moves": moves}

    def die(self: Folder, name: str, to: str) -> None:
        if not left["moves"]:
            raise KeyboardInterrupt
        left["moves"] -= 1
        move(self, name, to)

    with monkeypatch.context() as patch:
        patch.setattr(Folder, "move", die)
        with pytest.raises(KeyboardInterrupt):
            change(folder, MARK)
    set_aside(folder, MARK)
    assert folder.files() == [f"replaced/{name}" for name in whole]
    put_back(folder, MARK)
    assert folder.files() == whole
    assert folder.read_bytes("part/1") == b"old"


def test_scratch_of_killed_processes_is_removed(tmp_path: Path) -> None:
    for name in ("ray-0a1b2c3d", "ray-of-light", "00001"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_bytes(b"")
    scratch = new_scratch(Folder.at(tmp_path))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["00001", "ray-of-light"]
    assert not scratch.exists()
    assert scratch.path.startswith(f"{tmp_path}/ray-")
