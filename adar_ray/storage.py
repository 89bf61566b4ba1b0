"""Folders at any address that pyarrow or fsspec can open: a path, `s3://`, `gs://`, ..."""

from __future__ import annotations

import contextlib
import errno
import fnmatch
import hashlib
import json
import shutil
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict, NonNegativeInt

from adar_ray.documents import parse_json, parse_record
from adar_ray.errors import AdarError, one_line

R = TypeVar("R", bound=BaseModel)


def resolve(address: str | Path) -> tuple[pafs.FileSystem, str]:
    """Return the file system and the path of an address.

    Raises:
        AdarError: no file system can open the address.
    """
    address = str(address)
    if "\0" in address:
        raise AdarError(f"{address}: an address cannot hold a zero byte")
    if "://" not in address:
        return pafs.LocalFileSystem(), str(Path(address).expanduser().absolute())
    try:
        return pafs.FileSystem.from_uri(address)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        pass  # not an Arrow file system; fsspec knows many more
    except OSError as error:
        raise AdarError(f"{address}: cannot be opened ({one_line(error)})") from error
    try:
        import fsspec

        filesystem, path = fsspec.core.url_to_fs(address)
    except (ImportError, ValueError) as error:
        raise AdarError(f"{address}: no file system for this address ({one_line(error)})") from error
    return pafs.PyFileSystem(pafs.FSSpecHandler(filesystem)), path


class FileEntry(BaseModel):
    """A written file, as a manifest lists it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    rows: NonNegativeInt
    bytes: NonNegativeInt
    sha256: str


@dataclass(frozen=True)
class Folder:
    """A folder at an address. File names are relative to it, with forward slashes."""

    address: str
    filesystem: pafs.FileSystem
    path: str

    @classmethod
    def at(cls, address: str | Path) -> Folder:
        filesystem, path = resolve(address)
        # A relative path means something else to a worker on another machine or in another folder.
        address = path if isinstance(filesystem, pafs.LocalFileSystem) else str(address).rstrip("/")
        return cls(address, filesystem, path.rstrip("/"))

    @property
    def is_local(self) -> bool:
        return isinstance(self.filesystem, pafs.LocalFileSystem)

    def join(self, name: str) -> str:
        return f"{self.path}/{name}"

    def folder(self, name: str) -> Folder:
        return Folder(f"{self.address}/{name}", self.filesystem, self.join(name))

    def __str__(self) -> str:
        return self.address

    def exists(self, name: str = "") -> bool:
        path = self.join(name) if name else self.path
        return self.filesystem.get_file_info(path).type != pafs.FileType.NotFound

    def is_empty(self) -> bool:
        """Whether the folder is absent or empty.

        Raises:
            AdarError: the address is a file.
        """
        if self.filesystem.get_file_info(self.path).is_file:
            raise AdarError(f"{self}: is a file, not a folder; choose another name")
        selector = pafs.FileSelector(self.path, allow_not_found=True)
        return not self.filesystem.get_file_info(selector)

    def read_bytes(self, name: str) -> bytes:
        with self.filesystem.open_input_stream(self.join(name)) as stream:
            return stream.read()

    def write_bytes(self, name: str, data: bytes) -> None:
        """Replace the whole file: a reader sees the old content or the new, never a part of it."""
        path = self.join(name)
        self.filesystem.create_dir(path.rpartition("/")[0], recursive=True)
        if not self.is_local:  # object stores show a file only once it is complete
            with self.filesystem.open_output_stream(path) as stream:
                stream.write(data)
            return
        partial = f"{path}.{uuid.uuid4().hex[:8]}.partial"
        try:
            with open(partial, "wb") as stream:
                stream.write(data)
            Path(partial).replace(path)
        except BaseException:
            Path(partial).unlink(missing_ok=True)
            raise

    def read_json(self, name: str, remedy: str = "") -> Any:
        """The content of a JSON file.

        Args:
            remedy: what to do if it is damaged, for the message.

        Raises:
            AdarError: it is damaged.
        """
        return parse_json(self.read_bytes(name), f"{self}/{name}", remedy)

    def read_record(self, name: str, record: type[R], remedy: str = "") -> R:
        """A JSON file as a record.

        Args:
            remedy: what to do if it is damaged, for the message.

        Raises:
            AdarError: it is damaged.
        """
        return parse_record(self.read_bytes(name), f"{self}/{name}", record, remedy)

    def write_json(self, name: str, value: Any) -> None:
        self.write_bytes(name, (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode())

    def read_table(self, name: str) -> pa.Table:
        with self.filesystem.open_input_file(self.join(name)) as stream:
            return pq.read_table(stream)

    def write_table(self, name: str, table: pa.Table) -> FileEntry:
        """Write a table as Parquet, compressed with zstd."""
        sink = pa.BufferOutputStream()
        pq.write_table(table, sink, compression="zstd")
        data = sink.getvalue().to_pybytes()
        self.write_bytes(name, data)
        digest = hashlib.sha256(data).hexdigest()
        return FileEntry(name=name, rows=table.num_rows, bytes=len(data), sha256=digest)

    def remove(self) -> None:
        if self.exists():
            self.filesystem.delete_dir(self.path)


@contextlib.contextmanager
def new_folder(address: str | Path, *, replace: bool, mark: str) -> Iterator[Folder]:
    """Yield a folder to fill, which appears at `address` only when it is complete.

    A local folder is filled under another name next to the address and renamed at the end. Object stores
    cannot rename a folder; there the folder counts as complete once the writer's last file, the manifest, is
    there. If the body fails, nothing is left.

    Args:
        address: where the folder is to be.
        replace: whether to replace a folder that holds files.
        mark: a pattern. A folder is replaced only if a file in it matches, which shows that this program
            made it.

    Raises:
        AdarError: the folder holds files and may not be replaced, or it cannot be written.
    """
    final = Folder.at(address)
    if not final.is_empty() and not replace:
        raise AdarError(f"{final}: already exists; add --replace to overwrite it")
    check_replaceable(final, mark)
    if not final.is_local:
        if replace:
            final.remove()
        target = final
    else:
        target = Folder.at(
            Path(final.path).parent / f".{Path(final.path).name}.{uuid.uuid4().hex[:8]}.partial"
        )
    try:
        target.filesystem.create_dir(target.path, recursive=True)
        yield target
        if target is not final:
            _rename_over(Path(target.path), Path(final.path))
    except BaseException as error:
        with contextlib.suppress(OSError):
            target.remove()
        if isinstance(error, OSError) and not isinstance(error, AdarError):
            raise AdarError(f"{final}: {describe_os_error(error)}; nothing was written") from error
        raise


def check_replaceable(folder: Folder, mark: str) -> None:
    """Raise AdarError if a folder holds files but none that matches `mark`: this program did not make it."""
    files = folder.filesystem.get_file_info(pafs.FileSelector(folder.path, allow_not_found=True))
    if files and not any(fnmatch.fnmatchcase(file.base_name, mark) for file in files):
        raise AdarError(f"{folder}: cannot be replaced because it holds no {mark}; choose another folder")


def _rename_over(new: Path, old: Path) -> None:
    """Rename a folder. One that has the name is set aside until the new one is in place."""
    aside = new.with_suffix(".old")
    if old.exists():
        old.rename(aside)
    new.rename(old)
    shutil.rmtree(aside, ignore_errors=True)


def describe_os_error(error: OSError) -> str:
    """Describe an operating-system error in words, with a remedy if there is one."""
    if error.errno == errno.ENOSPC or "No space left" in str(error):
        return "the disk is full; free some space and run the command again"
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return f"no permission to write there ({one_line(error.strerror)}); choose another folder"
    return one_line(error)
