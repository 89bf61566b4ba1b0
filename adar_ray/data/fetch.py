"""Fetch public data sets into a cache folder: downloads resume, are verified, and never appear half done."""

from __future__ import annotations

import contextlib
import difflib
import fcntl
import gzip
import hashlib
import http.client
import json
import logging
import os
import shutil
import socket
import ssl
import subprocess
import sys
import tarfile
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import IO, cast

from adar_ray.data.catalog import CATALOG, CatalogEntry, Download, Member, Source, Wheel
from adar_ray.documents import parse_json
from adar_ray.errors import AdarError, one_line
from adar_ray.storage import describe_os_error

logger = logging.getLogger(__name__)

Report = Callable[[int, "int | None"], None]
"""Told how many bytes of the current file have arrived, and how many it has if that is known."""

_Answer = http.client.HTTPResponse | urllib.error.HTTPError

_BLOCK = 1 << 18
_TIMEOUT = 30.0  # seconds without a byte
_WAITS = (0.5, 2.0, 4.0)  # seconds before each further try
_PIP_TIMEOUT = 900.0
_RECEIPT = ".fetched.json"
_MOST_UNPACKED = 100  # times the size of an archive; text shrinks to a tenth
_ANY_MAY_HOLD = 1 << 26  # bytes


class _SourceError(AdarError):
    """This source cannot provide the data set; the next one may."""


class _CutOffError(Exception):
    """The transfer broke in a way that another try may fix."""


def fetch(name: str, cache: Path | None = None, report: Report | None = None) -> Path:
    """Return the file or folder of a data set in the catalog, ready for `prepare`; download it unless cached.

    Args:
        name: a name in `catalog.CATALOG`.
        cache: where to keep data sets; the default is `cache_folder()`.
        report: told about the progress of downloads.

    Raises:
        AdarError: the name is unknown, or no source can provide the data set.
    """
    if name not in CATALOG:
        near = difflib.get_close_matches(name.lower(), CATALOG, n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise AdarError(f"no data set is called {name!r}: {hint}`adar-ray data list` shows all of them")
    return fetch_dataset(CATALOG[name], cache, report)


def fetch_dataset(dataset: CatalogEntry, cache: Path | None = None, report: Report | None = None) -> Path:
    """Like `fetch`, for a data set given by its description instead of its name."""
    if dataset.by_hand:
        raise AdarError(
            f"{dataset.name}: you have to accept its terms first: do so at {dataset.homepage}, unpack "
            f"{dataset.by_hand} from the download and run `{dataset.prepare_command(dataset.by_hand)}`"
        )
    cache = Path(cache) if cache is not None else cache_folder()
    folder = cache / dataset.name
    try:
        if not _is_complete(folder, dataset):
            cache.mkdir(parents=True, exist_ok=True)
            with _alone_in(cache):
                if not _is_complete(folder, dataset):  # another process may have fetched it meanwhile
                    _fetch_from_any(dataset, folder, report or (lambda done, total: None))
    except OSError as error:
        raise AdarError(f"{cache}: {describe_os_error(error)}") from error
    files = sorted(path for path in folder.iterdir() if path.name != _RECEIPT)
    return files[0] if len(files) == 1 else folder


def cache_folder() -> Path:
    """Return where data sets are kept: `$ADAR_RAY_CACHE`, or `adar-ray/data` in the user's cache folder."""
    if chosen := os.environ.get("ADAR_RAY_CACHE"):
        return Path(chosen).expanduser()
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "adar-ray" / "data"


@contextlib.contextmanager
def _alone_in(cache: Path) -> Iterator[None]:
    """Keeps out other processes that fetch into the same folder: they would write to the same files."""
    lock = os.open(cache, os.O_RDONLY)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            logger.warning("%s: another process fetches into it; waiting for its end", cache)
            fcntl.flock(lock, fcntl.LOCK_EX)
        except OSError as error:  # some network file systems have no locks
            logger.info("%s: cannot be locked (%s)", cache, error)
        yield
    finally:
        os.close(lock)


def _fetch_from_any(dataset: CatalogEntry, folder: Path, report: Report) -> None:
    reasons = []
    for source in dataset.sources:
        with tempfile.TemporaryDirectory(prefix=f".{dataset.name}.", dir=folder.parent) as scratch:
            filling = Path(scratch) / "files"
            filling.mkdir()
            partials = []
            try:
                for part in source:
                    if isinstance(part, Wheel):
                        _take_from_wheel(part, filling, Path(scratch), report)
                    else:
                        partials.append(folder.parent / f"{dataset.name}.{_file_name(part.url)}.partial")
                        _take_from_download(part, filling, partials[-1], report)
            except _SourceError as error:
                reasons.append(str(error))
                continue
            _write_receipt(filling, source)
            if folder.exists():
                shutil.rmtree(folder)
            filling.rename(folder)
            for partial in partials:
                partial.unlink(missing_ok=True)
            return
    raise AdarError(f"{dataset.name} could not be fetched: {'; '.join(reasons)}")


# What is in the cache


def _write_receipt(folder: Path, source: Source) -> None:
    files = {path.name: checksum(path, "sha256") for path in sorted(folder.iterdir())}
    receipt = {"source": repr(source), "files": files}
    (folder / _RECEIPT).write_text(json.dumps(receipt, indent=2) + "\n", encoding="utf-8")


def _is_complete(folder: Path, dataset: CatalogEntry) -> bool:
    """Whether the folder still holds, unchanged, what one of the data set's current sources provided."""
    try:
        receipt = parse_json((folder / _RECEIPT).read_bytes(), _RECEIPT)
        return receipt["source"] in map(repr, dataset.sources) and all(
            checksum(folder / name, "sha256") == value for name, value in receipt["files"].items()
        )
    except (FileNotFoundError, NotADirectoryError, AdarError, KeyError, TypeError, AttributeError):
        return False


def checksum(path: Path, algorithm: str) -> str:
    """Compute a file's checksum by `sha256`, `md5` or `git-blob`, the id under which git stores the file."""
    if algorithm == "git-blob":
        digest = hashlib.sha1(b"blob %d\0" % path.stat().st_size, usedforsecurity=False)
    else:
        digest = hashlib.new(algorithm, usedforsecurity=False)
    with path.open("rb") as stream:
        while block := stream.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def _is_as_published(path: Path, published: str) -> bool:
    algorithm, _, value = published.partition(":")
    return checksum(path, algorithm) == value


# Wheels


def _take_from_wheel(wheel: Wheel, into: Path, scratch: Path, report: Report) -> None:
    """Download with pip, which knows the user's index, mirror, proxy and credentials."""
    label = f"{wheel.package} {wheel.version} from the Python package index"
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-input", "--retries", "2"]
    # Wheels only: pip would run the code of a source archive to find out its name.
    command += ["--no-deps", "--only-binary=:all:", "--disable-pip-version-check"]
    command += ["--dest", str(scratch), f"{wheel.package}=={wheel.version}"]
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=_PIP_TIMEOUT
        )
    except subprocess.TimeoutExpired as error:
        raise _SourceError(f"{label}: no answer within {_PIP_TIMEOUT:.0f} seconds") from error
    found = list(scratch.glob("*.whl"))
    if done.returncode or not found:
        lines = done.stderr.splitlines()
        said = [line for line in lines if line.startswith("ERROR")] or lines or ["pip said nothing"]
        raise _SourceError(f"{label}: {one_line(said[-1])}")
    report(found[0].stat().st_size, found[0].stat().st_size)
    taken = _take_out(found[0], found[0].name, Member(wheel.member), into)
    if not _is_as_published(taken, f"sha256:{wheel.sha256}"):
        raise _SourceError(f"{label}: the checksum of {taken.name} is not the published one")


# Downloads


def _take_from_download(download: Download, into: Path, partial: Path, report: Report) -> None:
    _check_address(download.url)
    name = _file_name(download.url)
    _download(download, partial, report)
    if not download.members:
        # Copy, not move: if another part fails, this one need not be fetched again.
        shutil.copyfile(partial, into / name)
    try:
        for member in download.members:
            _take_out(partial, name, member, into)
    except _SourceError:
        # Without a published checksum, only this reveals a bad download. Keeping it would keep the error.
        partial.unlink()
        raise


def _download(download: Download, partial: Path, report: Report) -> None:
    """Download the whole file to `partial`, continuing what an earlier attempt left there."""
    published = download.checksum
    if published and partial.exists() and _is_as_published(partial, published):
        return
    for wait in (*_WAITS, None):
        try:
            _request_rest(download, partial, report)
            break
        except _CutOffError as error:
            if wait is None:
                kept = (
                    "; what has arrived is kept: run the command again to resume" if partial.exists() else ""
                )
                raise _SourceError(f"{download.url}: {error}{kept}") from error
            logger.info("%s: %s; trying again in %g s", download.url, error, wait)
            time.sleep(wait)
    if published and not _is_as_published(partial, published):
        partial.unlink()
        raise _SourceError(
            f"{download.url}: the checksum is not the published one ({published}); the download was deleted"
        )


def _request_rest(download: Download, partial: Path, report: Report) -> None:
    have = partial.stat().st_size if partial.exists() else 0
    headers = {"User-Agent": "adar-ray", **({"Range": f"bytes={have}-"} if have else {})}
    request = urllib.request.Request(download.url, headers=headers)
    with _answer(request) as response:
        content_range = response.headers.get("Content-Range", "")
        if response.status == http.client.REQUESTED_RANGE_NOT_SATISFIABLE:
            # With a checksum, a complete file would have been recognized before the request.
            if download.checksum or content_range != f"bytes */{have}":
                partial.unlink(missing_ok=True)
                raise _CutOffError(
                    "the server has a different file than the one that the download began with"
                )
            return
        resumed = response.status == http.client.PARTIAL_CONTENT
        if resumed and not content_range.startswith(f"bytes {have}-"):
            partial.unlink(missing_ok=True)
            raise _CutOffError("the server sent a different part of the file than requested")
        done = have if resumed else 0
        length = response.headers.get("Content-Length")
        total = done + int(length) if length else None
        with partial.open("ab" if resumed else "wb") as stream:
            report(done, total)
            for block in _blocks(response):
                stream.write(block)
                done += len(block)
                report(done, total)
    if total is not None and done < total:
        raise _CutOffError(f"the connection broke after {done:,} of {total:,} bytes")


def _blocks(response: _Answer) -> Iterator[bytes]:
    """Yield the body. Network errors become `_CutOffError`, which keeps them apart from disk errors."""
    while True:
        try:
            block = response.read(_BLOCK)
        except (OSError, http.client.HTTPException) as error:
            raise _CutOffError(f"the connection broke ({one_line(error)})") from error
        if not block:
            return
        yield block


def _answer(request: urllib.request.Request) -> _Answer:
    """Return the response to a request, including the one that says that the range does not exist."""
    host = urllib.parse.urlsplit(request.full_url).hostname
    try:
        return urllib.request.build_opener(_CheckedRedirects).open(request, timeout=_TIMEOUT)
    except urllib.error.HTTPError as error:
        if error.code == http.client.REQUESTED_RANGE_NOT_SATISFIABLE:
            return error
        said = f"the server answered {error.code} {one_line(error.reason)}"
        error.close()
        if error.code >= 500 or error.code in (http.client.REQUEST_TIMEOUT, http.client.TOO_MANY_REQUESTS):
            raise _CutOffError(said) from error
        raise _SourceError(f"{request.full_url}: {said}") from error
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", error)
        if isinstance(reason, socket.gaierror):
            raise _SourceError(f"{request.full_url}: no network, or no host {host}") from error
        if isinstance(reason, ssl.SSLCertVerificationError):
            why = one_line(reason.verify_message)
            raise _SourceError(
                f"{request.full_url}: the certificate of {host} is not valid ({why})"
            ) from error
        if isinstance(reason, ConnectionRefusedError):
            raise _SourceError(f"{request.full_url}: {host} refused the connection") from error
        raise _CutOffError(f"no answer ({one_line(reason)})") from error


class _CheckedRedirects(urllib.request.HTTPRedirectHandler):
    """Redirects follow the same rule as the address that they start from."""

    def redirect_request(
        self,
        req: urllib.request.Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: http.client.HTTPMessage,
        newurl: str,
    ) -> urllib.request.Request | None:
        _check_address(newurl)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _check_address(url: str) -> None:
    """Refuse addresses whose content can be altered in transit: only https, and http on this machine."""
    address = urllib.parse.urlsplit(url)
    is_loopback = address.hostname in ("127.0.0.1", "::1", "localhost")
    if address.scheme != "https" and not (address.scheme == "http" and is_loopback):
        raise _SourceError(f"{url}: only https addresses are fetched")


def _file_name(url: str) -> str:
    return PurePosixPath(urllib.parse.urlsplit(url).path).name


# Archives


def _take_out(archive: Path, name: str, member: Member, into: Path) -> Path:
    """Write one member of an archive called `name` under its base name, or under `save_as`."""
    path = PurePosixPath(member.path)
    if path.is_absolute() or ".." in path.parts or "\\" in member.path:
        raise _SourceError(f"{name}: {member.path!r} points outside the archive and is refused")
    target = into / (member.save_as or path.name)
    try:
        with _opened(archive, name, member.path) as content, target.open("wb") as stream:
            stream.write(member.header.encode())
            most = max(_MOST_UNPACKED * archive.stat().st_size, _ANY_MAY_HOLD)
            _copy(content, stream, most, f"{name}: {member.path}")
    except KeyError as error:
        raise _SourceError(f"{name}: there is no {member.path} in this archive") from error
    except (zipfile.BadZipFile, tarfile.TarError, gzip.BadGzipFile, zlib.error, EOFError) as error:
        raise _SourceError(f"{name}: the archive is damaged ({one_line(error)})") from error
    return target


def _copy(content: IO[bytes], stream: IO[bytes], most: int, label: str) -> None:
    done = 0
    while block := content.read(_BLOCK):
        done += len(block)
        if done > most:
            raise _SourceError(
                f"{label} is more than {_MOST_UNPACKED} times as large as the archive: refused"
            )
        stream.write(block)


@contextlib.contextmanager
def _opened(archive: Path, name: str, member: str) -> Iterator[IO[bytes]]:
    if name.endswith((".zip", ".whl")):
        with zipfile.ZipFile(archive) as zipped, zipped.open(member) as content:
            yield content
    elif name.endswith(".tar.gz"):
        with tarfile.open(archive, "r:gz") as tar:
            extracted = tar.extractfile(member)
            if extracted is None:  # a folder or a device
                raise KeyError(member)
            yield extracted
    else:
        with gzip.open(archive) as unpacked:
            yield cast(IO[bytes], unpacked)
