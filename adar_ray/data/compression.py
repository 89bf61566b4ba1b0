"""Files as they are inside: decompressed, whatever their names say."""

from __future__ import annotations

import lzma
import posixpath
import re
import zipfile
import zlib
from typing import BinaryIO, Protocol, cast

import pyarrow as pa
import pyarrow.fs as pafs

from adar_ray.errors import AdarError, one_line
from adar_ray.storage import resolve

# What a compressed file begins with.
_SIGNATURES = (
    (rb"\x1f\x8b", "gzip"),
    (rb"BZh[1-9](1AY&SY|\x17rE8P)", "bz2"),
    (rb"\x28\xb5\x2f\xfd", "zstd"),
    (rb"\x04\x22\x4d\x18", "lz4"),
    (rb"\xfd7zXZ\x00", "xz"),
    (rb"PK(\x03\x04|\x05\x06)", "zip"),
)
_SIGNATURE_BYTES = 16
_ENDINGS = re.compile(r"\.(gz|gzip|bz2|zst|zstd|lz4|xz|zip)$")

READ_ERRORS = (OSError, EOFError, lzma.LZMAError, zipfile.BadZipFile, zlib.error, NotImplementedError)
"""What reading a damaged stream can raise."""


class EmptyFileError(AdarError):
    """A file without content."""

    def __init__(self, path: str) -> None:
        super().__init__(f"{path}: the file is empty; remove it or fetch it again")


class Stream(Protocol):
    """What `open_stream` returns."""

    def read(self, size: int, /) -> bytes: ...

    def close(self) -> None: ...


def open_file(path: str) -> pa.NativeFile:
    """Open a file for random access. It must exist and not be empty."""
    filesystem, inner = resolve(path)
    try:
        info = filesystem.get_file_info(inner)
        if info.type == pafs.FileType.NotFound:
            raise AdarError(f"{path}: no such file or folder; check the address")
        if info.size == 0:
            raise EmptyFileError(path)
        return filesystem.open_input_file(inner)
    except OSError as error:
        raise unreadable(path, error) from error


def open_stream(path: str) -> Stream:
    """Open a file as a stream of its content. Its first bytes tell how it is compressed, if at all."""
    file = open_file(path)
    try:
        kind = _compression(file.read(_SIGNATURE_BYTES))
        file.seek(0)
    except OSError as error:
        raise unreadable(path, error) from error
    if kind == "zip":
        return cast(Stream, _open_member(path, file))
    if kind == "xz":
        return cast(Stream, lzma.open(cast(BinaryIO, file)))
    return cast(Stream, pa.CompressedInputStream(file, kind) if kind else file)


def content_name(address: str, name: str) -> str:
    """The name of a file's content, in lower case: a zip's is inside if its own tells nothing.

    Args:
        name: of the file; an address may hold options behind it.
    """
    plain = plain_name(name)
    if name.lower().endswith(".zip") and "." not in plain:
        archive = _open_zip(address, open_file(address))
        return posixpath.basename(_only_member(address, archive).filename).lower()
    return plain


def plain_name(path: str) -> str:
    """The last part of a path, in lower case and without the ending of a compression."""
    return _ENDINGS.sub("", posixpath.basename(path).lower())


def unreadable(path: str, error: OSError) -> AdarError:
    return AdarError(f"{path}: cannot be read ({one_line(error)}); check the address and your access to it")


def _compression(start: bytes) -> str | None:
    return next((kind for signature, kind in _SIGNATURES if re.match(signature, start)), None)


def _open_zip(path: str, file: pa.NativeFile) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(cast(BinaryIO, file))
    except READ_ERRORS as error:
        raise AdarError(f"{path}: cut off or damaged ({one_line(error)}); fetch the file again") from error


def _only_member(path: str, archive: zipfile.ZipFile) -> zipfile.ZipInfo:
    members = [member for member in archive.infolist() if not member.is_dir()]
    if len(members) != 1:
        raise AdarError(f"{path}: holds {len(members)} files; unpack it, and name the file or the folder")
    return members[0]


def _open_member(path: str, file: pa.NativeFile) -> BinaryIO:
    archive = _open_zip(path, file)
    member = _only_member(path, archive)
    if not member.file_size:
        raise EmptyFileError(path)
    try:
        return cast(BinaryIO, archive.open(member))
    except (RuntimeError, *READ_ERRORS) as error:  # RuntimeError: it is encrypted
        raise AdarError(f"{path}: cannot be unpacked ({one_line(error)}); unpack it first") from error
