"""Addresses and folders: what an address names, and what counts as content."""

from __future__ import annotations

import os
import resource
import subprocess
from collections.abc import Callable
from pathlib import Path

import pyarrow.fs as pafs
import pytest

from adar_ray.cli.command import describe
from adar_ray.errors import AdarError
from adar_ray.storage import FileEntry, Folder, resolve

OPTIONS = "?region=eu-west-1&endpoint_override=http%3A%2F%2F127.0.0.1%3A9"
KEYS = ["runs/try#1", "a b", "Ä/é", "100%", "a%20b", "a+b", "what?", "who?me", "a=b&c"]


@pytest.mark.parametrize("key", KEYS)
def test_keys_are_taken_literally(key: str) -> None:
    filesystem, path = resolve(f"s3://bucket/{key}{OPTIONS}")
    assert isinstance(filesystem, pafs.S3FileSystem)
    assert filesystem.region == "eu-west-1"
    assert path == f"bucket/{key}"


@pytest.mark.parametrize("key", KEYS)
def test_the_address_of_a_folder_leads_back_to_it(key: str, tmp_path: Path) -> None:
    folders = [
        Folder.at(f"s3://bucket/{key}/{OPTIONS}").folder("inner#1"),
        Folder.at(f"file://{tmp_path}/{key}").folder("inner#1"),
        Folder.at(f"{tmp_path}/{key}?region=none").folder("inner#1"),
        Folder.at(f"memory://bucket/{key}").folder("inner#1"),
    ]
    for folder in folders:
        again = Folder.at(folder.address)
        assert again == folder
        assert again.path.endswith("/inner#1")
    for folder in folders[1:]:
        folder.write_bytes("x", b"content")
        assert Folder.at(folder.address).read_bytes("x") == b"content"


def test_an_option_that_the_file_system_does_not_know_is_refused() -> None:
    with pytest.raises(AdarError, match=r"s3://bucket/key\?regoin=x: is not a valid address.*'regoin'"):
        resolve("s3://bucket/key?regoin=x")


@pytest.mark.parametrize(
    ("address", "url"),
    [("file:/runs/a", "file:///runs/a"), ("s3:/bucket/a b", "s3://bucket/a b"), ("file:/", "file:///")],
)
def test_a_url_with_one_slash_is_refused(
    address: str, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(AdarError) as caught:
        Folder.at(address)
    assert str(caught.value) == (
        f"{address}: lacks a slash for a URL; write {url}, or ./{address} for a path"
    )
    assert Folder.at(f"./{address}").path == str(tmp_path / address)
    assert Folder.at(tmp_path / address).path == str(tmp_path / address)


@pytest.mark.parametrize("name", ["lost+found", ".1234.partial", "lease.json"])
def test_what_is_no_content(name: str, tmp_path: Path) -> None:
    folder = Folder.at(tmp_path)
    folder.write_bytes(f"{name}/x", b"")
    assert folder.is_empty()
    folder.write_bytes(f"not {name}", b"")
    assert folder.content() == folder.files() == [f"not {name}"]


@pytest.mark.parametrize(
    "use", [lambda folder: folder.read_bytes("x"), lambda folder: folder.write_bytes("x", b"")]
)
def test_a_file_in_the_path_is_named(use: Callable[[Folder], object], tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(NotADirectoryError) as caught:
        use(Folder.at(tmp_path / "file" / "folder"))
    assert str(tmp_path / "file" / "folder") in describe(caught.value)
    assert describe(caught.value).endswith("a part of this path is a file, not a folder; choose another")


@pytest.mark.parametrize(
    "read",
    [
        lambda folder: folder.read_record("x", FileEntry, "restore it"),
        lambda folder: folder.read_lines("x", FileEntry, "restore it"),
        lambda folder: folder.read_yaml("x", "restore it"),
    ],
)
@pytest.mark.parametrize("scheme", ["", "memory://"])
def test_a_document_that_is_missing_or_a_folder_is_damaged(
    read: Callable[[Folder], object], scheme: str, tmp_path: Path
) -> None:
    folder = Folder.at(f"{scheme}{tmp_path}")
    with pytest.raises(AdarError) as caught:
        read(folder)
    assert str(caught.value) == f"{folder}/x: is damaged (it is missing); restore it"
    folder.create("x")
    with pytest.raises(AdarError, match=rf"^{folder}/x: is damaged \(it is .*\); restore it$"):
        read(folder)


def test_a_file_that_cannot_be_written_whole_stays_as_it_was(tmp_path: Path) -> None:
    """And nothing is left of what could be written, here within the size that files may have."""
    folder, limits = Folder.at(tmp_path), resource.getrlimit(resource.RLIMIT_FSIZE)
    folder.write_bytes("x", b"old")
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, limits[1]))
    try:
        with pytest.raises(OSError, match="too large"):
            folder.write_bytes("x", bytes(2 << 20))
        with pytest.raises(OSError, match="too large"):
            folder.write_bytes("inner/x", bytes(2 << 20))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert folder.read_bytes("x") == b"old"
    assert sorted(os.listdir(tmp_path)) == ["inner", "x"]
    assert not os.listdir(tmp_path / "inner")


@pytest.mark.parametrize("address", ["a\0b", "s3://bucket/a\0b", "memory://a\0b"])
def test_an_address_with_a_zero_byte_is_refused(address: str) -> None:
    with pytest.raises(AdarError, match="an address cannot hold a zero byte"):
        Folder.at(address)


def test_an_error_without_a_number_keeps_its_message(tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    with pytest.raises(OSError, match="Cannot open for reading") as caught:
        Folder.at(tmp_path).read_bytes("x")
    assert caught.value.errno is None
    assert describe(caught.value) == str(caught.value)


def test_a_folder_that_must_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not Folder.at(tmp_path).must_stay
    (tmp_path / "a" / "b").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "a")
    for address in (".", "..", tmp_path / "a", tmp_path):
        assert Folder.at(address).must_stay
    for address in ("b", "new"):
        assert not Folder.at(address).must_stay
    (tmp_path / "a" / "link").symlink_to("b")
    (tmp_path / "a" / "again").symlink_to("link")
    (tmp_path / "a" / "dangling").symlink_to("nowhere")
    for address in ("link", "again", "dangling"):
        assert Folder.at(address).must_stay
    assert not Folder.at("link/inner").must_stay


def test_a_mount_point_must_stay(tiny_disk: Path) -> None:
    assert Folder.at(tiny_disk).must_stay
    assert not Folder.at(tiny_disk / "inner").must_stay
    bound, name = tiny_disk / "bound", tiny_disk / "a name \\ with spaces"
    for folder in (bound, name):
        folder.mkdir()
    subprocess.run(["mount", "--bind", bound, name], check=True)
    try:
        assert not os.path.ismount(name)
        assert Folder.at(name).must_stay
        assert not Folder.at(bound).must_stay
    finally:
        subprocess.run(["umount", name], check=True)


def test_removing_a_link_keeps_the_link(tmp_path: Path) -> None:
    (tmp_path / "target" / "inner").mkdir(parents=True)
    (tmp_path / "target" / "inner" / "x").write_text("")
    (tmp_path / "target" / "link").symlink_to("inner")
    (tmp_path / "out").symlink_to("target")
    Folder.at(tmp_path / "out").remove()
    assert (tmp_path / "out").is_symlink()
    assert not os.listdir(tmp_path / "target")


@pytest.mark.parametrize("scheme", ["", "memory://"])
def test_moving_files_and_folders(scheme: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("adar_ray.storage._LARGEST_COPY", 3)  # larger ones are read and written again
    folder = Folder.at(f"{scheme}{tmp_path}")
    folder.write_bytes("deep/er/small", b"abc")
    folder.write_bytes("deep/large", b"abcd")
    folder.move("deep", "old/deep")
    folder.move("old/deep/large", "large")
    assert folder.files() == ["large", "old/deep/er/small"]
    assert folder.read_bytes("large") == b"abcd"
    assert not folder.exists("deep")


@pytest.mark.parametrize("address", ["s3://me:hunter2@bucket/x", "s3://bucket/x?secret_key=hunter2"])
def test_an_address_with_a_secret_is_refused_and_not_printed(address: str) -> None:
    with pytest.raises(AdarError, match=r"\*\*\*.*: an address with a secret in it") as caught:
        Folder.at(address)
    assert "hunter2" not in str(caught.value)
