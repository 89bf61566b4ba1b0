"""The text of a source's files: chunks of whole lines, in UTF-8 and in bounded memory.

Whatever is wrong with a file is an AdarError that names the file and the line.
"""

from __future__ import annotations

import codecs
import itertools
from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from adar_ray.data.ahead import read_ahead
from adar_ray.data.bad_rows import BadRows
from adar_ray.data.compression import READ_ERRORS, EmptyFileError, open_file, open_stream
from adar_ray.errors import AdarError, one_line

NOT_UTF8 = "not UTF-8 (--encoding reads others)"
UTF8 = "utf-8"
_BOMS = (  # the longer ones first: UTF-32's begins like UTF-16's
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
    (codecs.BOM_UTF8, UTF8),
)
# A placeholder stands where the content of a file has not been fetched.
_PLACEHOLDERS = {
    b"version https://git-lfs.github.com/": "a Git LFS pointer; fetch the content with `git lfs pull`",
    b"/annex/objects/": "a git-annex pointer; fetch the content with `git annex get`",
}
_START_BYTES = 1 << 12
_HEAD_BYTES = 1 << 16
_LONGEST_LINE = 1 << 26


def bad_line(path: str, number: int, problem: str, remedy: str) -> AdarError:
    return AdarError(f"{path}: line {number}: {problem}; {remedy}")


def chunks(path: str, block_bytes: int, encoding: str | None = None) -> Iterator[tuple[int, bytes]]:
    """Yield whole lines of a text file, about `block_bytes` at a time, with the number of the first.

    Lines end with a line feed, whatever ends them in the file. The bytes are UTF-8, unless a file that should
    be UTF-8 is not: that is left to whoever reads the lines.

    Args:
        encoding: of the file; None for UTF-8. A byte order mark wins.
    """
    for number, chunk in read_ahead(_line_chunks(path, block_bytes, encoding)):
        at = chunk.find(b"\0")
        if at >= 0:
            line = number + chunk.count(b"\n", 0, at)
            raise bad_line(path, line, "not text (a NUL byte)", "unpack an archive, or pass its --encoding")
        yield number, chunk


def _line_chunks(path: str, block_bytes: int, encoding: str | None) -> Iterator[tuple[int, bytes]]:
    number, rest, size = 1, list[bytes](), 0  # the pieces of a line that has not ended, and their size
    for block in _text_blocks(path, block_bytes, encoding):
        head, newline, tail = block.rpartition(b"\n")
        if newline:
            chunk = b"".join([*rest, head, newline])
            yield number, chunk
            number, rest, size = number + chunk.count(b"\n"), [], 0
        rest.append(tail)
        size += len(tail)
        if size > _LONGEST_LINE:
            raise bad_line(path, number, f"longer than {_LONGEST_LINE:,} bytes", "pass the right --format")
    if size:
        yield number, b"".join(rest)


def _text_blocks(path: str, block_bytes: int, encoding: str | None) -> Iterator[bytes]:
    """The blocks of a file without its byte order mark, in UTF-8, and with line feeds."""
    blocks = _raw_blocks(path, block_bytes)
    start = next(blocks, b"")
    for beginning, what in _PLACEHOLDERS.items():
        if start.startswith(beginning):
            raise AdarError(f"{path}: is {what}")
    mark, encoding = next((bom for bom in _BOMS if start.startswith(bom[0])), (b"", encoding or UTF8))
    decoder = None
    if codecs.lookup(encoding).name == UTF8:
        start = start[len(mark) :]
    else:
        decoder = codecs.getincrementaldecoder(encoding)()
    line, ends_in_returns = 1, None
    # Decisions need the whole start; what is read in one piece afterwards need not be larger than asked for.
    pieces = (start[at : at + block_bytes] for at in range(0, len(start), block_bytes))
    for block in itertools.chain(pieces, blocks):
        if decoder is not None:
            try:
                block = decoder.decode(block).encode()
            except UnicodeError as error:
                problem = f"not {encoding} ({one_line(error, 120)})"
                raise bad_line(path, line, problem, "pass the right --encoding") from None
        if ends_in_returns is None:  # old Macs ended lines with a carriage return alone
            ends_in_returns = b"\r" in start and b"\n" not in start
        if ends_in_returns:
            block = block.replace(b"\r", b"\n")
        line += block.count(b"\n")
        yield block
    if decoder is not None and decoder.getstate()[0]:
        raise bad_line(path, line, f"cut off within a character of {encoding}", "fetch the file again")


def _raw_blocks(path: str, block_bytes: int) -> Iterator[bytes]:
    """The bytes of a file, decompressed: first its start, then the rest, `block_bytes` at a time."""
    stream, line = open_stream(path), 1
    try:
        block = stream.read(max(_START_BYTES, block_bytes))
        while block:
            yield block
            line += block.count(b"\n")
            block = stream.read(block_bytes)
    except READ_ERRORS as error:
        problem = f"cut off or damaged ({one_line(error)})"
        raise bad_line(path, line, problem, "fetch the file again") from error
    finally:
        stream.close()


def head(path: str, encoding: str | None = None) -> list[str]:
    """The first lines of a file that are not blank."""
    _, chunk = next(_line_chunks(path, _HEAD_BYTES, encoding), (1, b""))
    lines = [line.rstrip("\r") for line in chunk.decode(errors="replace").split("\n")[:1000] if line.strip()]
    if not lines:
        raise EmptyFileError(path)
    return lines


def lines_of(
    path: str, block_bytes: int, encoding: str | None = None, bad: BadRows | None = None
) -> Iterator[tuple[pa.Array, np.ndarray]]:
    """Yield blocks of lines that are not blank, with their numbers.

    Args:
        bad: takes lines that are not UTF-8; by default, the first one is an error.
    """
    bad = bad or BadRows(path)
    is_empty = True
    for first, chunk in chunks(path, block_bytes, encoding):
        try:
            text = chunk.decode()
        except UnicodeDecodeError:
            text = _utf8_lines(chunk, first, bad)
        lines = pc.ascii_rtrim(pc.split_pattern(pa.array([text]), "\n").flatten(), "\r")
        is_filled = pc.not_equal(pc.ascii_trim(lines, " "), "")
        if pc.any(is_filled).as_py():
            is_empty = False
            yield lines.filter(is_filled), first + np.flatnonzero(is_filled)
    if is_empty:
        raise EmptyFileError(path)


def _utf8_lines(chunk: bytes, first: int, bad: BadRows) -> str:
    """The chunk with a blank line in place of each that is not UTF-8."""
    lines = []
    for number, line in enumerate(chunk.split(b"\n"), first):
        try:
            lines.append(line.decode())
        except UnicodeDecodeError:
            bad.add(number, NOT_UTF8, line.decode(errors="replace"))
            lines.append("")
    return "\n".join(lines)


def open_parquet(path: str) -> pq.ParquetFile:
    file = open_file(path)
    try:
        return pq.ParquetFile(file, buffer_size=1 << 20)
    except (pa.ArrowException, OSError) as error:
        problem = f"not a Parquet file, or a damaged one ({one_line(error)}); fetch it again or pass --format"
        raise AdarError(f"{path}: {problem}") from error
