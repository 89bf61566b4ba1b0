"""Folders that appear when they are complete, and what they replace."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import re
import shutil
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

import pyarrow.fs as pafs

from adar_ray.documents import is_sealed
from adar_ray.errors import AdarError, one_line
from adar_ray.lease import LEASE, read_holder, sign
from adar_ray.storage import Folder, describe_os_error

logger = logging.getLogger(__name__)

REPLACED = "replaced"
_COMING = ".coming.partial"
"""On an object store it shows whose files these are while the mark is not in its place yet."""


@dataclass(frozen=True)
class Kind:
    """What a folder of some kind holds.

    Attributes:
        mark: a record or YAML document, which shows that this program made the folder.
        others: patterns of the names of everything else.
    """

    mark: str
    others: tuple[str, ...]


@contextlib.contextmanager
def new_folder(address: str | Path, *, replace: bool, kind: Kind) -> Iterator[Folder]:
    """Yield a folder to fill, whose content appears at `address` only when it is complete.

    A local folder is filled under another name next to the address and renamed at the end. A folder that must
    stay, and one on an object store, is filled under a hidden name inside itself; at the end its files are
    moved up, the mark last. If the body fails, nothing is left. What is left of processes that were killed on
    this machine while they filled one for the same address is removed.

    Args:
        address: where the folder is to be.
        replace: whether to replace a folder that holds files.
        kind: what the body writes. A folder is replaced only if it is of the same kind.

    Raises:
        AdarError: the folder holds files and may not be replaced, at the start or at the end, or it cannot be
            written.
    """
    final = Folder.at(address)
    try:
        _check(final, replace, kind)
        stays = final.must_stay
        around, name = (final, "") if stays else _beside(final)
        _remove_partials(around, name)
        target = around.folder(_partial_name(name))
        missing = missing_folders(target)
        try:
            sign(target)
            yield target
            _check(final, replace, kind)
            if not stays:
                target.delete(LEASE)
                _rename(Path(target.path), Path(final.path).resolve(), replace)
            elif final.is_local:
                _swap(target, final, replace, kind.mark)
            else:
                _move_up(target, final, replace, kind.mark)
        except BaseException:
            with contextlib.suppress(OSError):
                target.remove()
            for folder in missing:
                with contextlib.suppress(OSError):
                    folder.rmdir()
            raise
    except OSError as error:
        raise AdarError(f"{final}: {describe_os_error(error)}; nothing was written") from error


def new_scratch(folder: Folder) -> Folder:
    """A new name in a folder for files of Ray's own; those that killed processes have left are removed.

    The caller is the only one who writes there.
    """
    for name in folder.content():
        if re.fullmatch(r"ray-[0-9a-f]{8}", name):
            with contextlib.suppress(OSError):
                folder.delete(name)
    return folder.folder(f"ray-{uuid.uuid4().hex[:8]}")


def check_replaceable(folder: Folder, kind: Kind) -> None:
    """Raise AdarError if a folder has content that this program did not make, or not as this kind.

    People have a `config.yaml` of their own, but no such checksum at its end.
    """
    names, problem, known = folder.content(), None, (kind.mark, *kind.others)
    strangers = [name for name in names if not any(fnmatchcase(name, pattern) for pattern in known)]
    places = (folder, folder.folder(REPLACED), folder.folder(_COMING))
    if names and not any(_is_marked(place, kind.mark) for place in places):
        problem = f"it holds no {kind.mark} of adar-ray's; choose another folder"
    elif strangers:
        stranger = one_line(strangers[0], 100)
        problem = f"it holds {stranger} as well; move that elsewhere, or choose another folder"
    if problem is not None:
        raise AdarError(f"{folder}: cannot be replaced because {problem}")


def _is_marked(folder: Folder, mark: str) -> bool:
    is_file = folder.filesystem.get_file_info(folder.join(mark)).is_file
    return is_file and is_sealed(folder.read_bytes(mark))


def _check(folder: Folder, replace: bool, kind: Kind) -> None:
    if not replace and not folder.is_empty():
        raise _already_exists(folder)
    check_replaceable(folder, kind)


def _already_exists(folder: Folder | Path) -> AdarError:
    return AdarError(f"{folder}: already exists; add --replace (in Python, replace=True) to overwrite it")


def _partial_name(name: str = "") -> str:
    return f".{name}{uuid.uuid4().hex[:8]}.partial"


def _beside(final: Folder) -> tuple[Folder, str]:
    """The folder that a folder is in, and how a `_partial_name` for it begins."""
    path = Path(final.path).resolve()
    return Folder.at(path.parent), f"{path.name}."


def _remove_partials(folder: Folder, name: str) -> None:
    """Remove the folders with a `_partial_name` whose processes have certainly died."""
    with contextlib.suppress(OSError):  # a folder that is not there yet, or that may be written but not read
        for info in folder.filesystem.get_file_info(pafs.FileSelector(folder.path)):
            if re.fullmatch(rf"\.{re.escape(name)}[0-9a-f]{{8}}\.partial", info.base_name):
                partial = folder.folder(info.base_name)
                with contextlib.suppress(OSError, AdarError):  # a damaged lease tells nothing
                    holder = read_holder(partial)
                    if holder is not None and holder.is_dead:
                        partial.remove()


def missing_folders(target: Folder) -> list[Path]:
    """The folders on this machine that `target` would bring into being, itself first."""
    path = Path(target.path).resolve()
    return [folder for folder in (path, *path.parents) if target.is_local and not folder.exists()]


def _rename(new: Path, final: Path, replace: bool) -> None:
    """Rename a folder. One that has the name is set aside until the new one is in place."""
    aside = new.with_name(_partial_name())
    if replace and final.exists():
        final.rename(aside)
    try:
        new.rename(final)  # fails if there is content, so nothing that came meanwhile is lost
    except OSError as error:
        if aside.exists():
            aside.rename(final)
        if error.errno in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
            raise _already_exists(final) from error
        raise
    shutil.rmtree(aside, ignore_errors=True)


def _swap(new: Folder, final: Folder, replace: bool, mark: str) -> None:
    """Move the content of a folder out and new content in; put everything back if something fails.

    A reader does not find `mark` until all others are there.
    """
    aside = final.folder(".old.partial")
    try:
        os.mkdir(aside.path)
    except FileExistsError as error:
        raise AdarError(
            f"{final}: another process is replacing its content, or died while it did; what was there is in "
            f"{aside}: move it back or remove it"
        ) from error
    moved: list[tuple[Path, Path]] = []
    try:
        old, files = _mark_last(final.content(), mark), _mark_last(new.content(), mark)
        if old and not replace:
            raise _already_exists(final)
        for name, source, target in (
            *((name, final, aside) for name in reversed(old)),
            *((name, new, final) for name in files),
        ):
            Path(source.join(name)).rename(target.join(name))
            moved.append((Path(target.join(name)), Path(source.join(name))))
    except BaseException:
        for there, back in reversed(moved):
            there.rename(back)
        os.rmdir(aside.path)
        raise
    for folder in (aside, new):
        shutil.rmtree(folder.path, ignore_errors=True)


def _move_up(new: Folder, final: Folder, replace: bool, mark: str) -> None:
    """Move objects from a folder to the one that it is in, and remove what they replace.

    The old mark stays until the new one takes its place, and a copy of the new one is there meanwhile, so
    that the command can be repeated with `replace` if this is killed half-way.
    """
    inside, coming, files = new.path[len(final.path) + 1 :], final.folder(_COMING), new.files()
    try:
        coming.write_bytes(mark, new.read_bytes(mark))
        for names in ([name for name in files if name != mark], [mark]):
            final.move_objects({f"{inside}/{name}": name for name in names})
    except BaseException:
        if not replace:
            for name in set(files) & set(final.files()):
                final.delete(name)
            coming.remove()
        raise
    coming.remove()
    new.remove()
    for name in set(final.files()) - set(files):
        final.delete(name)


def _mark_last(names: list[str], mark: str) -> list[str]:
    return sorted(names, key=lambda name: name == mark)


@contextlib.contextmanager
def replacing(folder: Folder, mark: str) -> Iterator[None]:
    """Set the content of a folder aside, and put it back if what is to take its place cannot even begin."""
    set_aside(folder, mark)
    try:
        yield
    except BaseException:
        put_back(folder, mark)
        raise


def set_aside(folder: Folder, mark: str) -> None:
    """Move the content of a folder into `replaced/` in it, where it stays until something new is complete.

    If `replaced/` is there already, with `mark` in it, the rest is what was to take its place: that goes.
    """
    names = [name for name in _mark_last(folder.content(), mark) if name != REPLACED]
    is_set_aside = folder.exists(f"{REPLACED}/{mark}")
    for name in names:
        if is_set_aside:
            folder.delete(name)
        else:
            folder.move(name, f"{REPLACED}/{name}")


def put_back(folder: Folder, mark: str) -> bool:
    """Undo `set_aside`, and remove what is in the folder now; do nothing if nothing is set aside.

    Returns:
        Whether something was.
    """
    replaced = folder.folder(REPLACED)
    if not replaced.exists():
        return False
    for name in folder.content():
        if name != REPLACED:
            folder.delete(name)
    for name in reversed(_mark_last(replaced.content(), mark)):
        folder.move(f"{REPLACED}/{name}", name)
    replaced.remove()
    logger.warning("%s: what was to be replaced is back", folder)
    return True


def forget_replaced(folder: Folder) -> None:
    """Remove what `set_aside` kept."""
    folder.folder(REPLACED).remove()
