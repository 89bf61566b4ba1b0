"""Folders at any address that pyarrow or fsspec can open: a path, `s3://`, `gs://`, ..."""

from __future__ import annotations

import errno
import hashlib
import os
import re
import shlex
import shutil
import uuid
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict, NonNegativeInt

from adar_ray.documents import (
    LONGEST_JSON,
    LONGEST_LINES,
    LONGEST_YAML,
    damaged,
    parse_lines,
    parse_record,
    parse_sealed_yaml,
    to_lines,
    to_record,
    to_sealed_yaml,
)
from adar_ray.errors import AdarError, has_secret, one_line

R = TypeVar("R", bound=BaseModel)
_LARGEST_COPY = 5 * 10**9  # bytes that S3 copies in one request
# What is in a folder beside its content: what is being written, the owner, what ext4 puts into a new volume.
_NOT_CONTENT = re.compile(r"\..*\.partial|lease\.json|lost\+found")
# Spark prints file:/folder, which would be a path in the working directory.
_ONE_SLASH = re.compile(r"([A-Za-z][\w+.-]+):/(?!/)(.*)")


def split_options(address: str) -> tuple[str, str]:
    """Split an address into its place and the options of its file system.

    Options are at the end (`s3://bucket/folder?region=...&scheme=...`); a local path has none.
    """
    found = re.search(r"\?\w+=[^&]*(&\w+=[^&]*)*$", address) if "://" in address else None
    return (address[: found.start()], found.group()) if found else (address, "")


def resolve(address: str | Path) -> tuple[pafs.FileSystem, str]:
    """Return the file system and the path of an address.

    But for its options an address is taken literally: `#`, `%20`, spaces and accents are parts of names.

    Raises:
        AdarError: no file system can open the address.
    """
    if not isinstance(address, (str, os.PathLike)):
        raise AdarError(f"{type(address).__name__}: is no address; give a path or a URL as text")
    address = str(address)
    if has_secret(address):
        raise AdarError(
            f"{address}: an address with a secret in it would be in files and messages for all to read; give "
            "the secret to the environment, such as AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
        )
    if "\0" in address:
        raise AdarError(f"{address}: an address cannot hold a zero byte")
    if found := _ONE_SLASH.match(address):
        scheme, rest = found.groups()
        url = f"{scheme}://{'/' if scheme == 'file' else ''}{rest}"
        raise AdarError(f"{address}: lacks a slash for a URL; write {url}, or ./{address} for a path")
    if "://" not in address:
        local = Path(address).expanduser().absolute()
        # The way down and up again may be gone when the path is used.
        return pafs.LocalFileSystem(), str(local.resolve() if ".." in local.parts else local)
    place, options = split_options(address)
    scheme, _, rest = place.partition("://")
    host, slash, key = rest.partition("/")
    try:
        return pafs.FileSystem.from_uri(f"{scheme}://{quote(host, safe=':@%')}{slash}{quote(key)}{options}")
    except pa.ArrowNotImplementedError:
        pass
    except pa.ArrowInvalid as error:
        if "Unrecognized filesystem type" not in str(error):
            raise AdarError(f"{address}: is not a valid address ({one_line(error)}); correct it") from error
        # fsspec knows many more.
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
        if isinstance(filesystem, pafs.LocalFileSystem):
            return cls(path, filesystem, path)
        place, options = split_options(str(address))
        return cls(place.rstrip("/") + options, filesystem, path.rstrip("/"))

    @property
    def is_local(self) -> bool:
        return isinstance(self.filesystem, pafs.LocalFileSystem)

    def join(self, name: str) -> str:
        return f"{self.path}/{name}"

    def folder(self, name: str) -> Folder:
        place, options = (self.address, "") if self.is_local else split_options(self.address)
        return Folder(f"{place}/{name}{options}", self.filesystem, self.join(name))

    def __str__(self) -> str:
        return self.address

    @property
    def in_shell(self) -> str:
        """The address as a word of a command line."""
        return shlex.quote(self.address)

    def exists(self, name: str = "") -> bool:
        path = self.join(name) if name else self.path
        return self.filesystem.get_file_info(path).type != pafs.FileType.NotFound

    def content(self) -> list[str]:
        """Names of the files and folders in this folder, sorted; none if it is absent.

        Raises:
            AdarError: the address is a file, or cannot be read.
        """
        try:
            if self.filesystem.get_file_info(self.path).is_file:
                raise AdarError(f"{self}: is a file, not a folder; choose another name")
            found = self.filesystem.get_file_info(pafs.FileSelector(self.path, allow_not_found=True))
        except OSError as error:
            raise AdarError(f"{self}: {describe_os_error(error)}") from error
        names = [info.base_name for info in found]
        return sorted(name for name in names if not _NOT_CONTENT.fullmatch(name))

    def is_empty(self) -> bool:
        """Whether the folder is absent or has no content.

        Raises:
            AdarError: the address is a file, or cannot be read.
        """
        return not self.content()

    @property
    def must_stay(self) -> bool:
        """Whether only the content of the folder can be replaced, not the folder itself.

        That is so for a link, a mount point, a folder that the working directory is in, a folder whose parent
        cannot be written, and on an object store.
        """
        path = Path(self.path)
        if not self.is_local or path.is_symlink():
            return True
        real = path.resolve()
        if not real.is_dir():
            return False
        return (
            _is_mount_point(real)
            or _is_working_directory_in(real)
            or not os.access(real.parent, os.W_OK | os.X_OK)
        )

    def create(self, name: str = "") -> None:
        """Make sure that this folder is there, or the one in it with this name."""
        path = self.join(name) if name else self.path
        if self.is_local:  # a link may lead to a folder that is yet to come
            os.makedirs(os.path.realpath(path), exist_ok=True)
        else:
            self.filesystem.create_dir(path, recursive=True)

    def read_bytes(self, name: str, most: int | None = None) -> bytes:
        """The content of a file, or the first `most` bytes of it."""
        try:
            with self.filesystem.open_input_stream(self.join(name)) as stream:
                return stream.read(most)
        except OSError as error:
            if error.errno is not None:  # without one, a name would take the place of the message
                error.filename = error.filename or f"{self}/{name}"  # Arrow leaves it out
            raise

    def write_bytes(self, name: str, data: bytes | memoryview) -> None:
        """Replace the whole file: a reader sees the old content or the new, never a part of it."""
        path = self.join(name)
        self.create(name.rpartition("/")[0])
        if not self.is_local:  # object stores show a file only once it is complete
            with self.filesystem.open_output_stream(path) as stream:
                stream.write(data)
            return
        target = Path(path)
        partial = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}.partial")
        try:
            partial.write_bytes(data)
            partial.replace(target)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise

    def remove_partial(self, but: str = "") -> None:
        """Remove files, here and in the folders in it, that processes which were killed had begun to write.

        Args:
            but: the name of a file that others may be writing.
        """
        if self.is_local:
            for path in Path(self.path).rglob(".*.partial"):
                if path.is_file() and not path.name.startswith(f".{but}."):
                    path.unlink(missing_ok=True)

    # Documents that this program reads back: all are sealed.

    def read_record(self, name: str, record: type[R], remedy: str = "") -> R:
        """A record that `write_record` wrote.

        Args:
            remedy: what to do if it is damaged, for the message.

        Raises:
            AdarError: it is damaged, or not there.
        """
        return parse_record(self._read(name, LONGEST_JSON, remedy), f"{self}/{name}", record, remedy)

    def write_record(self, name: str, record: BaseModel) -> None:
        self.write_bytes(name, to_record(record.model_dump()))

    def read_lines(self, name: str, record: type[R], remedy: str = "") -> list[R]:
        """The records in JSON lines that `write_lines` wrote.

        Args:
            remedy: what to do if they are damaged, for the message.

        Raises:
            AdarError: they are damaged, or not there.
        """
        return parse_lines(self._read(name, LONGEST_LINES, remedy), f"{self}/{name}", record, remedy)

    def write_lines(self, name: str, contents: Iterable[Mapping[str, Any]]) -> None:
        self.write_bytes(name, to_lines(contents))

    def read_yaml(self, name: str, remedy: str = "") -> Any:
        """The content of a YAML file that `write_yaml` wrote.

        Args:
            remedy: what to do if it is damaged, for the message.

        Raises:
            AdarError: it is damaged, or not there.
        """
        return parse_sealed_yaml(self._read(name, LONGEST_YAML, remedy), f"{self}/{name}", remedy)

    def write_yaml(self, name: str, content: Any) -> None:
        self.write_bytes(name, to_sealed_yaml(content))

    def _read(self, name: str, longest: int, remedy: str) -> bytes:
        """The content of a document, or a byte more than the longest may have."""
        try:
            return self.read_bytes(name, longest + 1)
        except FileNotFoundError as error:
            raise damaged(f"{self}/{name}", "it is missing", remedy) from error
        except OSError as error:
            if self.filesystem.get_file_info(self.join(name)).type != pafs.FileType.Directory:
                raise  # nothing is wrong with it: the storage is out of reach, or reading is forbidden
            raise damaged(f"{self}/{name}", "it is not a file", remedy) from error

    # Tables.

    def read_table(self, name: str) -> pa.Table:
        # Not by read_table of pyarrow, whose scanner leaves threads that may abort Python when it ends.
        with self.filesystem.open_input_file(self.join(name)) as stream:
            return pq.ParquetFile(stream).read()

    def write_table(self, name: str, table: pa.Table, repetitive: list[str] | None = None) -> FileEntry:
        """Write a table as Parquet, compressed with zstd.

        Args:
            repetitive: the columns whose values repeat; all by default. Looking for repetition in others
                takes about as long as writing them, and more memory.
        """
        sink = pa.BufferOutputStream()
        pq.write_table(
            table, sink, compression="zstd", use_dictionary=True if repetitive is None else repetitive
        )
        data = sink.getvalue().to_pybytes()
        self.write_bytes(name, data)
        digest = hashlib.sha256(data).hexdigest()
        return FileEntry(name=name, rows=table.num_rows, bytes=len(data), sha256=digest)

    def files(self) -> list[str]:
        """Names of the files in this folder and in the folders in it, sorted."""
        selector = pafs.FileSelector(self.path, recursive=True, allow_not_found=True)
        found = self.filesystem.get_file_info(selector)
        names = [info.path[len(self.path) + 1 :] for info in found if info.is_file]
        return sorted(name for name in names if not _NOT_CONTENT.fullmatch(name.partition("/")[0]))

    def move(self, name: str, to: str) -> None:
        """Move a file or a folder to another name in this folder."""
        if self.is_local:
            self.create(to.rpartition("/")[0])
            Path(self.join(name)).rename(self.join(to))
        elif self.filesystem.get_file_info(self.join(name)).is_file:
            self.move_objects({name: to})
        else:
            files = self.folder(name).files()
            self.move_objects({f"{name}/{file}": f"{to}/{file}" for file in files})
            self.folder(name).remove()

    def move_objects(self, names: dict[str, str]) -> None:
        """Give objects of an object store other names, several at a time."""
        with ThreadPoolExecutor() as pool:
            list(pool.map(self._move_object, names.keys(), names.values()))

    def _move_object(self, name: str, to: str) -> None:
        source, target = self.join(name), self.join(to)
        if self.filesystem.get_file_info(source).size <= _LARGEST_COPY:
            self.filesystem.move(source, target)
            return
        with (
            self.filesystem.open_input_stream(source) as reader,
            self.filesystem.open_output_stream(target) as writer,
        ):
            shutil.copyfileobj(reader, writer, 1 << 24)
        self.filesystem.delete_file(source)

    def delete(self, name: str) -> None:
        """Remove a file or a folder in this folder."""
        path = self.join(name)
        if self.is_local and Path(path).is_symlink():
            Path(path).unlink()
        elif self.filesystem.get_file_info(path).is_file:
            self.filesystem.delete_file(path)
        else:
            self.filesystem.delete_dir(path)

    def remove(self) -> None:
        """Remove the folder, or its content where it must stay."""
        if not self.exists():
            return
        if self.is_local and self.must_stay:
            for name in self.content():
                self.delete(name)
        else:
            self.filesystem.delete_dir(self.path)


def _is_working_directory_in(path: Path) -> bool:
    try:
        return Path.cwd().is_relative_to(path)
    except FileNotFoundError:  # somebody has removed it
        return False


def _is_mount_point(path: Path) -> bool:
    if os.path.ismount(path):
        return True
    try:  # what is mounted from the same disk
        mounts = Path("/proc/self/mountinfo").read_bytes().splitlines()
    except OSError:
        return False
    escaped = re.sub(rb"[ \t\n\\]", lambda found: b"\\%03o" % ord(found.group()), os.fsencode(path))
    return any(line.split()[4] == escaped for line in mounts)


def describe_os_error(error: OSError) -> str:
    """Describe an operating-system error in words, with a remedy if there is one."""
    if error.errno == errno.ENOSPC or "No space left" in str(error):
        return "the disk is full; free some space and run the command again"
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return f"no permission for it ({one_line(error.strerror)}); get it, or choose another"
    if error.errno in (errno.ENOTDIR, errno.EEXIST):
        return "a part of this path is a file, not a folder; choose another"
    return one_line(error.strerror or error)
