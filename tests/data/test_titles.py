"""Titles of items: found beside the interactions or given, kept in the dataset and with the model."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from adar_ray.data.dataset import Dataset
from adar_ray.data.prepare import prepare
from adar_ray.errors import AdarError

RATINGS = [("1", "50"), ("1", "7"), ("2", "50"), ("2", "8"), ("3", "50"), ("3", "7"), ("3", "8")]
GENRES = "|".join("0" * 19)
TITLES = {"50": "Misérables, Les (1995)", "7": "Toy, Story (1995)", "8": "The :Net (1995)"}


def titles(dataset: Dataset) -> dict[str, str | None]:
    named = dataset.item_titles()
    assert named is not None
    return dict(zip(dataset.item_keys().to_pylist(), named.to_pylist(), strict=True))


def lines(form: str) -> str:
    return "".join(form.format(item=item, title=title) + "\n" for item, title in TITLES.items())


def interactions(form: str) -> str:
    return "".join(form.format(user, item, time) + "\n" for time, (user, item) in enumerate(RATINGS, 900))


ARCHIVES = {
    "ml-100k": {
        "u.data": interactions("{}\t{}\t4\t{}").encode(),
        "u.item": lines("{item}|{title}|01-Jan-1995||http://us.imdb.com/|" + GENRES).encode("latin-1"),
    },
    "ml-1m": {
        "ratings.dat": interactions("{}::{}::4::{}").encode(),
        "movies.dat": lines("{item}::{title}::Drama|War").encode("latin-1"),
    },
    "ml-10m": {
        "ratings.dat": interactions("{}::{}::4.5::{}").encode(),
        "movies.dat": lines("{item}::{title}::Drama|War").encode(),
    },
    "ml-20m": {
        "ratings.csv": b"userId,movieId,rating,timestamp\n" + interactions("{},{},4.0,{}").encode(),
        "movies.csv": b"movieId,title,genres\n" + lines('{item},"{title}",Drama|War').encode(),
    },
    "recbole": {
        "some.inter": b"user_id:token\titem_id:token\trating:float\ttimestamp:float\n"
        + interactions("{}\t{}\t4\t{}").encode(),
        "some.item": b"item_id:token\tmovie_title:token_seq\tyear:token\n"
        + lines("{item}\t{title}\t1995").encode(),
    },
}


@pytest.mark.parametrize("archive", ARCHIVES)
@pytest.mark.parametrize("whole", [True, False])
def test_a_published_archive_has_titles(archive: str, whole: bool, tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    for name, content in ARCHIVES[archive].items():
        (tmp_path / "source" / name).write_bytes(content)
    first = next(iter(ARCHIVES[archive]))
    source = tmp_path / "source" if whole else tmp_path / "source" / first
    dataset = prepare(source, tmp_path / "data")
    assert titles(dataset) == TITLES
    assert not any("not read" in note or "title" in note for note in dataset.manifest.notes)
    assert prepare(source, tmp_path / "none", titles="").item_titles() is None


def csv(folder: Path, name: str, content: str) -> Path:
    (folder / name).write_text(content, encoding="utf-8")
    return folder / name


@pytest.fixture
def source(tmp_path: Path) -> Path:
    rows = "".join(f"u{user},{item},{time}\n" for time, (user, item) in enumerate(RATINGS))
    return csv(tmp_path, "clicks.csv", "user,sku,at\n" + rows)


COLUMNS = {"item": "sku", "timestamp": "at"}


def test_a_file_of_ones_own(source: Path, tmp_path: Path) -> None:
    """What it lacks, repeats and has besides is told; its titles are one line each."""
    rows = ["99,Unsold", "50,First\tname", "7,", "50,Second name", "50,First name"]
    own = csv(tmp_path, "names.csv", "sku,name\n" + "\n".join(rows) + "\n")
    dataset = prepare(source, tmp_path / "data", columns=COLUMNS, titles=own)
    assert titles(dataset) == {"50": "First name", "7": None, "8": None}
    assert dataset.manifest.notes[-2:] == [
        "names.csv has no title for 2 of 3 items",
        "1 item has several titles in names.csv; the first of each was kept",
    ]
    stored = pq.read_table(tmp_path / "data" / "titles.parquet")
    assert stored.schema == pa.schema({"item": pa.int32(), "title": pa.string()})
    assert stored.num_rows == 1


@pytest.mark.parametrize("kind", ["parquet", "jsonl", "pydict", "tsv"])
def test_other_formats(kind: str, source: Path, tmp_path: Path) -> None:
    """As for Amazon's metadata: JSON or Python dicts, compressed, some without a title."""
    records = [{"sku": item, "title": title, "price": 1} for item, title in TITLES.items()]
    path = tmp_path / {"parquet": "n.parquet", "tsv": "n.tsv"}.get(kind, "meta.json.gz")
    if kind == "parquet":
        pq.write_table(pa.table({"sku": [50, 7, 8], "title": list(TITLES.values())}), path)
    elif kind == "tsv":
        path.write_text("Item-ID\tTitle\n" + lines("{item}\t{title}"), encoding="utf-8")
    else:
        write = json.dumps if kind == "jsonl" else repr
        text = "".join(write(record) + "\n" for record in [*records, {"sku": "11", "price": 2}])
        path.write_bytes(gzip.compress(text.encode()))
    assert titles(prepare(source, tmp_path / "data", columns=COLUMNS, titles=path)) == TITLES


def test_bad_rows_of_titles_are_counted_and_listed(source: Path, tmp_path: Path) -> None:
    own = csv(tmp_path, "names.csv", "sku,name\n50,A\n7\n,Nobody\n8,B\n")
    with pytest.raises(AdarError, match=r"names.csv: line 3: expected 2 fields, found 1; .*--max-bad-rows"):
        prepare(source, tmp_path / "data", columns=COLUMNS, titles=own)
    with pytest.raises(AdarError, match=r"names.csv: more than 1 bad row;"):
        prepare(source, tmp_path / "data", columns=COLUMNS, titles=own, max_bad_rows=1)
    assert not (tmp_path / "data").exists()
    dataset = prepare(source, tmp_path / "data", columns=COLUMNS, titles=own, max_bad_rows=2)
    assert titles(dataset) == {"50": "A", "7": None, "8": "B"}
    assert dataset.manifest.source.rows.bad == 0  # of interactions
    assert dataset.manifest.notes[-2] == "2 bad rows of names.csv skipped; see bad_rows.jsonl"
    listed = [json.loads(line) for line in (tmp_path / "data" / "bad_rows.jsonl").read_text().splitlines()]
    assert [(row["file"], row["line"]) for row in listed] == [(str(own), 3), (str(own), 4)]
    assert "the item is missing" in listed[1]["problem"]


def test_a_file_that_names_nothing_is_refused(source: Path, tmp_path: Path) -> None:
    for content, message in [
        ("a,b\n1,2\n", r"no columns for items and titles among a, b; call them item and title"),
        ("50,Toy Story\n", r"no columns for items and titles"),
        ("sku,title\nB50,X\n", r"has no title of any item; its column 'sku' has to hold ids .* as '7'"),
    ]:
        own = csv(tmp_path, "names.csv", content)
        with pytest.raises(AdarError, match=message):
            prepare(source, tmp_path / "data", columns=COLUMNS, titles=own)
    with pytest.raises(AdarError, match="no such file"):
        prepare(source, tmp_path / "data", columns=COLUMNS, titles=tmp_path / "absent.csv")
    with pytest.raises(AdarError, match="is not one file"):
        prepare(source, tmp_path / "data", columns=COLUMNS, titles=tmp_path)


def test_a_file_beside_the_interactions_that_names_nothing_is_told_of(source: Path, tmp_path: Path) -> None:
    plain = prepare(source, tmp_path / "plain", columns=COLUMNS)
    csv(tmp_path, "movies.csv", "movieId,title\n1001,Toy Story\n")
    dataset = prepare(source, tmp_path / "data", columns=COLUMNS)
    assert dataset.item_titles() is None
    (note,) = set(dataset.manifest.notes) - set(plain.manifest.notes)
    assert note == "movies.csv has no title for 3 of 3 items"
    csv(tmp_path, "movies.csv", "genre,year\nDrama,1995\n")  # no titles: not read
    again = prepare(source, tmp_path / "again", columns=COLUMNS)
    assert again.checksum == plain.checksum


def test_damaged_titles_are_refused(source: Path, tmp_path: Path) -> None:
    own = csv(tmp_path, "names.csv", "sku,name\n50,A\n")
    dataset = prepare(source, tmp_path / "data", columns=COLUMNS, titles=own)
    path = tmp_path / "data" / "titles.parquet"
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    with pytest.raises(AdarError, match=r"titles.parquet: is damaged \(wrong checksum\)"):
        dataset.item_titles()
    path.unlink()
    with pytest.raises(AdarError, match=r"titles.parquet: the file is missing"):
        Dataset.open(tmp_path / "data")
