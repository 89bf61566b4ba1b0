"""Fetching public data sets, against a server on this machine that can misbehave as real ones do."""

from __future__ import annotations

import dataclasses
import gzip
import hashlib
import io
import json
import tarfile
import threading
import time
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from click.testing import CliRunner

from adar_ray.cli.main import cli
from adar_ray.data.catalog import CATALOG, CatalogEntry, Download, Member, Wheel
from adar_ray.data.fetch import _alone_in, cache_folder, checksum, fetch, fetch_dataset
from adar_ray.data.formats import FORMATS
from adar_ray.errors import AdarError

BODY = bytes(range(256)) * 4096  # 1 MiB
HALF = len(BODY) // 2


def tarred(name: str, content: bytes, kind: bytes = tarfile.REGTYPE, link: str = "") -> bytes:
    sink, entry = io.BytesIO(), tarfile.TarInfo(name)
    entry.size, entry.type, entry.linkname = len(content), kind, link
    with tarfile.open(fileobj=sink, mode="w") as archive:
        archive.addfile(entry, io.BytesIO(content))
    return sink.getvalue()


class Server(ThreadingHTTPServer):
    """Serves `files`; `cuts` says after how many bytes of the next answers the connection is to break."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, bytes] = {}
        self.redirects: dict[str, str] = {}
        self.cuts: list[int] = []
        self.failures: list[int] = []
        self.knows_ranges = True
        self.requests: list[tuple[str, str | None]] = []
        self.sent = 0

    def url(self, name: str) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/{name}"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def log_message(self, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        server, name, wanted = self.server, self.path[1:], self.headers.get("Range")
        server.requests.append((name, wanted))
        if server.failures:
            return self.send_error(server.failures.pop(0))
        if name in server.redirects:
            self.send_response(302)
            self.send_header("Location", server.redirects[name])
            return self.end_headers()
        if name not in server.files:
            return self.send_error(404)
        body = server.files[name]
        start = int(wanted.removeprefix("bytes=").removesuffix("-")) if wanted and server.knows_ranges else 0
        if start and start >= len(body):
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(body)}")
            self.send_header("Content-Length", "0")
            return self.end_headers()
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
        rest = body[start:]
        self.send_header("Content-Length", str(len(rest)))
        self.end_headers()
        if server.cuts:
            rest = rest[: server.cuts.pop(0)]
            self.close_connection = True
        self.wfile.write(rest)
        server.sent += len(rest)


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def sha256(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


def described(*sources: tuple[Download | Wheel, ...]) -> CatalogEntry:
    return CatalogEntry(
        name="toy",
        title="Toy",
        license="none",
        size=None,
        counts="",
        homepage="",
        sources=sources,
        format="pairs",
    )


def one_file(server: Server, data: bytes = BODY) -> CatalogEntry:
    server.files["pairs.txt"] = data
    return described((Download(server.url("pairs.txt"), sha256(data)),))


def zipped(**files: bytes) -> bytes:
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data, zipfile.ZIP_DEFLATED)
    return sink.getvalue()


def leftovers(cache: Path) -> list[str]:
    return sorted(path.name for path in cache.iterdir() if path.name != "toy")


def test_downloads_a_file_and_reports_progress(server, tmp_path):
    seen = []
    path = fetch_dataset(one_file(server), tmp_path, lambda done, total: seen.append((done, total)))
    assert path == tmp_path / "toy" / "pairs.txt"
    assert path.read_bytes() == BODY
    assert seen[0] == (0, len(BODY))
    assert seen[-1] == (len(BODY), len(BODY))
    assert seen == sorted(seen)
    assert len(seen) > 2
    assert leftovers(tmp_path) == []


def test_broken_connection_resumes_where_it_broke(server, tmp_path):
    dataset = one_file(server)
    server.cuts = [HALF]
    assert fetch_dataset(dataset, tmp_path).read_bytes() == BODY
    assert server.requests == [("pairs.txt", None), ("pairs.txt", f"bytes={HALF}-")]
    assert server.sent == len(BODY)


def test_interrupted_download_is_kept_and_resumed(server, tmp_path):
    dataset = one_file(server)

    def interrupt(done: int, total: int | None) -> None:
        if done >= HALF:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fetch_dataset(dataset, tmp_path, interrupt)
    assert leftovers(tmp_path) == ["toy.pairs.txt.partial"]
    assert not (tmp_path / "toy").exists()
    kept = (tmp_path / "toy.pairs.txt.partial").stat().st_size
    assert kept >= HALF
    assert fetch_dataset(dataset, tmp_path).read_bytes() == BODY
    assert server.requests[1] == ("pairs.txt", f"bytes={kept}-")


def test_starts_over_if_the_server_does_not_support_ranges(server, tmp_path):
    dataset = one_file(server)
    server.knows_ranges = False
    (tmp_path / "toy.pairs.txt.partial").write_bytes(b"x" * HALF)
    assert fetch_dataset(dataset, tmp_path).read_bytes() == BODY
    assert server.requests == [("pairs.txt", f"bytes={HALF}-")]


def test_partial_file_that_is_too_long_is_fetched_again(server, tmp_path):
    dataset = one_file(server)
    (tmp_path / "toy.pairs.txt.partial").write_bytes(BODY + b"more")
    assert fetch_dataset(dataset, tmp_path).read_bytes() == BODY
    assert [wanted for _, wanted in server.requests] == [f"bytes={len(BODY) + 4}-", None]


def test_complete_partial_file_is_not_fetched_again(server, tmp_path):
    dataset = one_file(server)
    (tmp_path / "toy.pairs.txt.partial").write_bytes(BODY)
    assert fetch_dataset(dataset, tmp_path).read_bytes() == BODY
    assert server.requests == []
    server.files["plain.txt"] = BODY
    unpublished = described((Download(server.url("plain.txt")),))
    (tmp_path / "toy.plain.txt.partial").write_bytes(BODY)
    assert fetch_dataset(unpublished, tmp_path).read_bytes() == BODY
    assert server.sent == 0


def test_temporary_server_error_is_retried(server, tmp_path):
    dataset = one_file(server)
    server.failures = [503]
    assert fetch_dataset(dataset, tmp_path).read_bytes() == BODY
    assert len(server.requests) == 2


def test_wrong_checksum_deletes_the_download(server, tmp_path):
    dataset = one_file(server)
    server.files["pairs.txt"] = BODY[:-1] + b"!"
    with pytest.raises(AdarError, match=r"checksum is not the published one.*deleted") as caught:
        fetch_dataset(dataset, tmp_path)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_falls_back_to_the_next_source(server, tmp_path):
    dataset = one_file(server)
    missing = (Download(server.url("gone.txt"), sha256(BODY)),)
    assert fetch_dataset(described(missing, *dataset.sources), tmp_path).read_bytes() == BODY
    with pytest.raises(AdarError, match=r"gone\.txt: .*404 .*; .*also\.txt: .*404") as caught:
        fetch_dataset(described(missing, (Download(server.url("also.txt")),)), tmp_path)
    assert "\n" not in str(caught.value)
    assert [name for name, _ in server.requests] == ["gone.txt", "pairs.txt", "gone.txt", "also.txt"]


def test_extracts_members_of_zip_tar_and_gz(server, tmp_path):
    server.files["set.zip"] = zipped(**{"set/u.data": b"1\t2\n", "set/README": b"-"})
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w:gz") as archive:
        entry = tarfile.TarInfo("set/pairs.txt")
        entry.size = 4
        archive.addfile(entry, io.BytesIO(b"3 4\n"))
    server.files["set.tar.gz"] = sink.getvalue()
    server.files["reviews.json.gz"] = gzip.compress(b"{}\n")
    source = (
        Download(server.url("set.zip"), None, (Member("set/u.data", "toy.inter", "user\titem\n"),)),
        Download(server.url("set.tar.gz"), None, (Member("set/pairs.txt"),)),
        Download(server.url("reviews.json.gz"), None, (Member("reviews.json"),)),
    )
    folder = fetch_dataset(described(source), tmp_path)
    assert folder == tmp_path / "toy"
    assert {path.name: path.read_bytes() for path in folder.iterdir() if path.name[0] != "."} == {
        "toy.inter": b"user\titem\n1\t2\n",
        "pairs.txt": b"3 4\n",
        "reviews.json": b"{}\n",
    }
    assert leftovers(tmp_path) == []


@pytest.mark.parametrize("member", ["../evil.txt", "/etc/evil.txt", "set/../../evil.txt", "..\\evil.txt"])
def test_member_outside_the_archive_is_refused(server, tmp_path, member):
    server.files["set.zip"] = zipped(**{member: b"evil"})
    with pytest.raises(AdarError, match="refused"):
        fetch_dataset(described((Download(server.url("set.zip"), None, (Member(member),)),)), tmp_path)
    assert list(tmp_path.rglob("*evil*")) == []


@pytest.mark.parametrize("name", ["set.zip", "set.tar.gz", "pairs.txt.gz"])
def test_an_archive_that_unpacks_to_far_more_is_refused(server, tmp_path, name):
    bomb = bytes(80 << 20)
    if name.endswith(".zip"):
        server.files[name] = zipped(**{"pairs.txt": bomb})
    else:
        server.files[name] = gzip.compress(tarred("pairs.txt", bomb) if ".tar" in name else bomb, 1)
    with pytest.raises(
        AdarError, match=r"pairs\.txt is more than 100 times as large as the archive: refused"
    ):
        fetch_dataset(described((Download(server.url(name), None, (Member("pairs.txt"),)),)), tmp_path)
    assert leftovers(tmp_path) == []


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE])
def test_a_link_in_an_archive_leads_nowhere_outside(server, tmp_path, kind):
    (tmp_path / "secret").write_text("hidden")
    server.files["set.tar.gz"] = gzip.compress(tarred("pairs.txt", b"", kind, str(tmp_path / "secret")))
    with pytest.raises(AdarError, match=r"there is no pairs\.txt in this archive"):
        fetch_dataset(
            described((Download(server.url("set.tar.gz"), None, (Member("pairs.txt"),)),)), tmp_path / "cache"
        )
    assert not [path for path in (tmp_path / "cache").rglob("*") if path.name == "pairs.txt"]


def test_missing_member_and_damaged_archive(server, tmp_path):
    server.files["set.zip"] = zipped(other=b"-")
    server.files["cut.json.gz"] = gzip.compress(BODY)[:-20]
    server.files["page.zip"] = b"<html>log in first</html>"
    for name, member, why in [
        ("set.zip", "set/u.data", "there is no set/u.data"),
        ("cut.json.gz", "cut.json", "damaged"),
        ("page.zip", "set/u.data", "damaged"),
    ]:
        with pytest.raises(AdarError, match=why):
            fetch_dataset(described((Download(server.url(name), None, (Member(member),)),)), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_cached_copy_needs_no_server(server, tmp_path):
    dataset = one_file(server)
    path = fetch_dataset(dataset, tmp_path)
    server.files.clear()
    assert fetch_dataset(dataset, tmp_path) == path
    assert len(server.requests) == 1


def test_damaged_or_outdated_cached_copy_is_fetched_again(server, tmp_path):
    path = fetch_dataset(one_file(server), tmp_path)
    path.write_bytes(BODY[:-1])
    assert fetch_dataset(one_file(server), tmp_path).read_bytes() == BODY
    assert fetch_dataset(one_file(server, b"a new edition"), tmp_path).read_bytes() == b"a new edition"
    (path.parent / ".fetched.json").write_text("[]")
    assert fetch_dataset(one_file(server), tmp_path).read_bytes() == BODY
    assert len(server.requests) == 4


@pytest.mark.parametrize("url", ["http://example.org/pairs.txt", "ftp://127.0.0.1/x", "file:///etc/hostname"])
def test_only_https_is_fetched_from_other_machines(tmp_path, url):
    with pytest.raises(AdarError, match="only https"):
        fetch_dataset(described((Download(url),)), tmp_path)


def test_redirects_to_insecure_addresses_are_refused(server, tmp_path):
    dataset = one_file(server)
    server.redirects = {"near": server.url("pairs.txt"), "far": "http://example.org/pairs.txt"}
    near, far = ((Download(server.url(name), sha256(BODY)),) for name in ("near", "far"))
    assert fetch_dataset(described(near), tmp_path).read_bytes() == BODY
    with pytest.raises(AdarError, match="only https"):
        fetch_dataset(dataclasses.replace(dataset, sources=(far,)), tmp_path)


def test_unreachable_server_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with Server() as closed:
        url = closed.url("pairs.txt")
    with pytest.raises(AdarError, match="refused the connection") as caught:
        fetch_dataset(described((Download(url),)), tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_full_disk_is_reported_and_not_retried(server, tmp_path):
    server.files["pairs.txt"] = BODY
    (tmp_path / "toy.pairs.txt.partial").symlink_to("/dev/full")
    with pytest.raises(AdarError, match="the disk is full"):
        fetch_dataset(described((Download(server.url("pairs.txt")),)), tmp_path)
    assert len(server.requests) == 1


def test_unknown_name_gets_a_suggestion(tmp_path):
    with pytest.raises(AdarError, match=r"did you mean 'ml-100k'\?.*adar-ray data list"):
        fetch("ML100k", tmp_path)
    with pytest.raises(AdarError, match=r"'netflix': `adar-ray data list`"):
        fetch("netflix", tmp_path)


def test_cache_folder_follows_the_environment(tmp_path, monkeypatch):
    monkeypatch.delenv("ADAR_RAY_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "adar-ray" / "data"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_folder() == Path.home() / ".cache" / "adar-ray" / "data"
    monkeypatch.setenv("ADAR_RAY_CACHE", str(tmp_path / "mine"))
    assert cache_folder() == tmp_path / "mine"


def test_checksums(tmp_path):
    path = tmp_path / "hello"
    path.write_bytes(b"hello\n")
    assert checksum(path, "md5") == "b1946ac92492d2347c6235b4d2611184"
    assert checksum(path, "git-blob") == "ce013625030ba8dba906f756967f9e9ca394464a"  # as git hash-object says


def test_catalog_entries_are_well_formed():
    lengths = {"sha256": 64, "md5": 32, "git-blob": 40}
    for name, dataset in CATALOG.items():
        assert dataset.name == name
        assert dataset.format in FORMATS
        assert dataset.license
        assert dataset.homepage
        assert bool(dataset.sources) != bool(dataset.by_hand)
        for part in (part for source in dataset.sources for part in source):
            if isinstance(part, Wheel):
                assert len(part.sha256) == lengths["sha256"]
            else:
                assert part.url.startswith("https://")
                assert part.checksum or "no checksum" in dataset.note
                if part.checksum:
                    algorithm, _, value = part.checksum.partition(":")
                    assert len(bytes.fromhex(value)) * 2 == lengths[algorithm]


def test_ml_100k_from_the_package_index(tmp_path):
    known = CATALOG["ml-100k"]
    wheel_only = dataclasses.replace(known, sources=known.sources[:1])
    try:
        path = fetch_dataset(wheel_only, tmp_path)
    except AdarError as error:
        if "checksum" in str(error) or "there is no" in str(error):
            raise
        pytest.skip(f"the Python package index cannot be reached: {error}")
    assert len((path / "ml-100k.inter").read_bytes().splitlines()) == 100_001
    assert (path / "ml-100k.item").read_text(encoding="utf-8").splitlines()[1].startswith("1\tToy Story\t")
    receipt = json.loads((path / ".fetched.json").read_text())
    sums = {name: checksum(path / name, "sha256") for name in ("ml-100k.inter", "ml-100k.item")}
    assert receipt["files"] == sums
    assert list(sums.values()) == [part.sha256 for part in known.sources[0]]


def test_ml_100k_archive_gives_the_same_file_as_the_wheel(server, tmp_path):
    member = CATALOG["ml-100k"].sources[1][0].members[0]
    server.files["ml-100k.zip"] = zipped(**{member.path: b"196\t242\t3\t881250949\n"})
    path = fetch_dataset(described((Download(server.url("ml-100k.zip"), None, (member,)),)), tmp_path)
    assert path.name == "ml-100k.inter"
    assert path.read_text().splitlines() == [
        "user_id:token\titem_id:token\trating:float\ttimestamp:float",
        "196\t242\t3\t881250949",
    ]


def test_command_line_prints_the_prepare_command(tmp_path, server, monkeypatch):
    monkeypatch.setenv("ADAR_RAY_CACHE", str(tmp_path / "a cache"))
    described = dataclasses.replace(one_file(server), columns={"user": "who", "item": "what"})
    monkeypatch.setitem(CATALOG, "toy", described)
    ended = CliRunner().invoke(cli, ["data", "fetch", "toy"])
    path = tmp_path / "a cache" / "toy" / "pairs.txt"
    assert ended.stdout == f"{path}\n"
    command = f"adar-ray prepare '{path}' --format pairs --columns user=who,item=what --out DATA"
    assert ended.stderr.splitlines()[-1] == f"to prepare it: {command}"


def test_of_two_that_fetch_at_once_the_second_waits_and_fetches_nothing(server, tmp_path, caplog):
    entry = one_file(server)
    with _alone_in(tmp_path):
        other = threading.Thread(target=fetch_dataset, args=(entry, tmp_path))
        other.start()
        deadline = time.monotonic() + 10
        while "another process fetches into it" not in caplog.text and time.monotonic() < deadline:
            time.sleep(0.01)
        assert not server.requests
        fetch_dataset(entry, tmp_path / "elsewhere").parent.rename(tmp_path / "toy")
        asked = len(server.requests)
    other.join()
    assert len(server.requests) == asked == 1
