"""What `benchmarks.fuzz` reads: of each kind valid files, how to change them, and how they are read.

Files that end with their checksum get the right one after they are changed. Those of the target `damage` do
not, and may not be read.
"""

from __future__ import annotations

import bz2
import functools
import gzip
import hashlib
import io
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from safetensors.torch import load as load_safetensors
from safetensors.torch import save as save_safetensors

from adar_ray.cluster.driver import ProgressFile
from adar_ray.cluster.job import Job
from adar_ray.config import explained, load_config
from adar_ray.data.dataset import Dataset
from adar_ray.data.formats import FORMATS
from adar_ray.data.lanes import Homes
from adar_ray.data.manifest import MANIFEST, SEQUENCES, SPLITS, SyntheticSettings, SyntheticSource
from adar_ray.data.options import ReadOptions
from adar_ray.data.readers import FileReader
from adar_ray.data.sequences import Windows
from adar_ray.data.sources import find_source
from adar_ray.data.split import SplitProtocol, assign
from adar_ray.data.write import write_manifest, write_shard
from adar_ray.documents import parse_json, parse_yaml, to_lines, to_record, to_yaml
from adar_ray.inference.evaluate import evaluate
from adar_ray.reporting.tables import side_by_side
from adar_ray.storage import Folder
from adar_ray.training.published import HISTORY, PUBLISHED, Published
from adar_ray.training.records import StepProgress
from adar_ray.training.run import CHECKPOINTS, CONFIG, METRICS, MODEL, RESULT, STATE, Run
from adar_ray.training.saved_model import INFO, WEIGHTS
from adar_ray.training.trainer import resume, train
from adar_ray.tuning import folder as search_folder
from adar_ray.tuning.checks import check
from adar_ray.tuning.folder import MetricOverSeeds, Search, WinnerResult
from adar_ray.tuning.space import Space
from adar_ray.tuning.trial import Trial
from benchmarks.fuzz_mutations import mutate_bytes, mutate_document
from tests.data.reading import ORIGINALS

NAMES = (
    *FORMATS,
    *("config", "space", "job", "manifest", "shards", "run", "checkpoint", "model", "search", "published"),
    "damage",
)
Files = dict[str, bytes]
ROOT = Path(__file__).parents[1]


@dataclass(frozen=True)
class Target:
    """A kind of input.

    Attributes:
        originals: valid inputs, each with its files by name.
        change: makes an input of a valid one.
        read: reads the input in a folder; may draw how.
    """

    name: str
    originals: Sequence[Files]
    change: Callable[[Random, Files], Files]
    read: Callable[[Random, Path], object]

    def input(self, random: Random) -> Files:
        return self.change(random, random.choice(self.originals))


def targets(work: Path) -> dict[str, Target]:
    """All targets, by name.

    Args:
        work: an empty folder, for the files that inputs refer to.
    """
    dataset = _dataset(work / "data")
    run = _run(dataset, work / "run")
    search = _search_folder(work / "search", run)
    found = [
        *_readers(),
        _config(),
        _space(),
        _job(),
        *_manifest(dataset),
        *_runs(run),
        _search(search),
        _published(),
        _damage(dataset, run, search),
    ]
    return {target.name: target for target in found}


# Readers


def _readers() -> list[Target]:
    rows = pa.table(
        {"user": ["a", "b", "a"], "item": [1, 2, 3], "rating": [1.0, 2.5, 3.0], "timestamp": [5, 6, 7]}
    )
    sink = io.BytesIO()
    pq.write_table(rows, sink)
    originals = {
        name: (file, content if isinstance(content, bytes) else content.encode())
        for name, (file, content, _) in ORIGINALS.items()
    }
    originals["parquet"] = ("log.parquet", sink.getvalue())
    return [_reader(name, *originals[name]) for name in FORMATS if name in originals]


def _reader(format: str, file: str, content: bytes) -> Target:
    tokens = tuple(content.split())

    def change(random: Random, files: Files) -> Files:
        compress = random.choice((None, None, None, None, gzip.compress, bz2.compress))
        ending = {None: "", gzip.compress: ".gz", bz2.compress: ".bz2"}[compress]
        if format == "parquet" and random.random() < 0.5:
            content = _parquet(_change_table(random, pq.read_table(io.BytesIO(files[file]))))
        else:
            content = mutate_bytes(random, files[file], tokens)
        if compress is not None:
            content = compress(content)
            content = mutate_bytes(random, content) if random.random() < 0.5 else content
        return {file + ending: content}

    def read(random: Random, folder: Path) -> None:
        (path,) = folder.iterdir()
        name = random.choice((None, None, format))
        options = ReadOptions(
            max_bad_rows=random.choice((0, 3)), encoding=random.choice((None, None, "cp1252"))
        )
        for source in find_source(str(path), name, options=options if format != "parquet" else None).files:
            for table in FileReader(source).tables(random.choice((1, 64, 4096, 32 << 20))):
                assert table.num_rows

    return Target(format, [{file: content}], change, read)


# Configuration, spaces, jobs


def _config() -> Target:
    settings = (
        "model.name=lightgcn\nmodel.embedding_dim=8\nlightgcn.layers=3\noptimizer.lr=1e-3\n",
        "sampler.name=dns\ndns.top=2\ndns.candidates=8\ntrain.metric=recall@10\n",
        "custom.names=[a, b]\ncustom.depth=3\nmodel.cosine=true\nadar.gamma=0.5\n",
    )
    files = [
        (ROOT / "examples/demo.yaml").read_bytes(),
        b"model: {name: sasrec, embedding_dim: 16}\nsasrec:\n  heads: 2\n  dropout: 0.1\nloss: {name: bce}\n",
        b"custom: {names: [a, b], date: '2001-01-01'}\noptimizer:\n  lr: 1e-3\ntrain: {epochs: 5, seed: 3}\n",
    ]

    def change(random: Random, files: Files) -> Files:
        name = random.choice(list(files))
        if name == "settings":
            return files | {name: mutate_bytes(random, files[name])}
        return files | {name: _change_yaml(random, files[name])}

    def read(random: Random, folder: Path) -> None:
        lines = (folder / "settings").read_text(errors="surrogateescape").splitlines()
        config = load_config(folder / "config.yaml", lines)
        again = folder / "again.yaml"
        for text in (explained(config), to_yaml(config.used())):
            again.write_text(text)
            assert load_config(again).used() == config.used()

    originals = [{"config.yaml": file, "settings": text.encode()} for file in files for text in settings]
    return Target("config", originals, change, read)


@functools.cache
def _tree(data: bytes) -> Any:
    return parse_yaml(data, "")


def _change_yaml(random: Random, data: bytes) -> bytes:
    return mutate_document(random, data, _tree(data), tuple(data.split()))


def _space() -> Target:
    def change(random: Random, files: Files) -> Files:
        return {name: _change_yaml(random, data) for name, data in files.items()}

    def read(random: Random, folder: Path) -> None:
        space = Space.load(folder / "space.yaml")
        if random.random() < 0.1:  # it builds up to a thousand configurations
            check(space)
        again = Space.from_mapping(parse_yaml(to_yaml(space.model_dump(mode="json")), "again"), "again")
        assert again == space

    files = sorted((ROOT / "tune_spaces").glob("*.yaml"))
    conditions = (
        b"parameters:\n  sampler.name: {choice: [ahns, dns]}\n"
        b"  ahns.beta: {loguniform: [0.01, 1], when: {sampler.name: ahns}}\n"
        b"  dns.candidates: {integer: [2, 64], log: true, when: {sampler.name: [dns]}}\n"
        b"  sampled_softmax.temperature: {quantized: [0.05, 0.5, 0.05]}\n"
        b"budget: {trials: 3, time: 2h}\n"
    )
    originals = [conditions, conditions, *(file.read_bytes() for file in files if file.stem != "samplers")]
    return Target("space", [{"space.yaml": data} for data in originals], change, read)


_PROGRESS = {"done": [["prepare"]], "begun": {"/data/run": ["train"]}, "driver": "0"}


def _job_settings(file: Path) -> bytes:
    content = parse_yaml(file.read_text(), str(file))
    lines = ["retries=1", *(f"parameters.{name}=7" for name in content["parameters"])]
    if "workers" in content:
        lines += ["workers.number=2", "train.epochs=3"]
    return "\n".join(lines).encode()


def _job() -> Target:
    def change(random: Random, files: Files) -> Files:
        name = random.choice(list(files))
        if name == "settings":
            return files | {name: mutate_bytes(random, files[name])}
        changed = _change_yaml if name.endswith(".yaml") else _change_record
        return files | {name: changed(random, files[name])}

    def read(random: Random, folder: Path) -> None:
        lines = (folder / "settings").read_text(errors="surrogateescape").splitlines()
        job = Job.load(folder / "job.yaml", ["storage=/data", *lines])
        commands = job.commands("name")
        assert Job.from_json(job.to_json()).commands("name") == commands
        ProgressFile(job.model_copy(update={"storage": str(folder)}), "name")

    originals = [
        {
            "job.yaml": file.read_bytes(),
            "settings": _job_settings(file),
            "jobs/name.json": to_record(_PROGRESS),
        }
        for file in sorted((ROOT / "jobs").glob("*.yaml"))
    ]
    return Target("job", originals, change, read)


# Datasets


def _dataset(out: Path) -> Dataset:
    users, items = 12, 9
    random = np.random.default_rng(0)
    counts = random.integers(5, 8, users)
    item = np.concatenate([random.permutation(items)[:count] for count in counts])
    user = np.repeat(np.arange(users), counts)
    time = np.concatenate([np.arange(count) for count in counts])
    split, windows, folder = SplitProtocol(protocol="leave-one-out"), Windows(5, 5), Folder.at(out)
    splits = assign(split, user, item, time, np.zeros(len(user), np.int8), None)
    lanes = 4
    homes = Homes.of(np.arange(users) * lanes // users, lanes, shards=1)
    shard = write_shard(folder, 0, homes, splits, windows, user, item, time)
    write_manifest(
        folder,
        name="fuzz",
        source=SyntheticSource(
            synthetic=SyntheticSettings(users=users, items=items, interactions=len(user), seed=0)
        ),
        split=split,
        windows=windows,
        notes=[],
        homes=homes,
        shards=[shard],
        user_keys=pa.array([f"u{n}" for n in range(users)]),
        item_keys=pa.array([f"i{n}" for n in range(items)]),
        user_counts=counts,
        item_counts=np.bincount(item, minlength=items),
    )
    return Dataset.open(out)


def _files(folder: Folder) -> Files:
    root = Path(folder.path)
    paths = [path for path in sorted(root.rglob("*")) if path.is_file() and "tensorboard" not in path.parts]
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in paths}


def _read_dataset(random: Random, folder: Path) -> None:
    dataset = Dataset.open(folder)
    for split in SPLITS:
        users, items = dataset.read_split(split)
        assert len(users) == len(items) == dataset.rows(split)
        assert not len(users) or (0 <= users.min() <= users.max() < dataset.n_users)
        assert not len(items) or (0 <= items.min() <= items.max() < dataset.n_items)
    for shard in dataset.shards(SEQUENCES):
        users, rows = dataset.read_sequences(shard)
        assert rows.shape == (len(users), dataset.sequences.length + 1)
    assert len(dataset.user_keys()) == dataset.n_users
    assert len(dataset.item_keys()) == dataset.n_items


def _manifest(dataset: Dataset) -> list[Target]:
    files = _files(dataset.folder)

    def change_manifest(random: Random, files: Files) -> Files:
        return files | {MANIFEST: _change_record(random, files[MANIFEST])}

    def change_shard(random: Random, files: Files) -> Files:
        """A damaged file whose size and checksum the manifest knows."""
        name = random.choice([name for name in files if name != MANIFEST])
        if random.random() < 0.6:
            data = _parquet(_change_table(random, pq.read_table(io.BytesIO(files[name]))))
        else:
            data = mutate_bytes(random, files[name])
        manifest = json.loads(files[MANIFEST])
        del manifest["sha256"]
        (entry,) = (entry for entry in manifest["files"] if entry["name"] == name)
        entry |= {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        return files | {name: data, MANIFEST: to_record(manifest)}

    return [
        Target("manifest", [files], change_manifest, _read_dataset),
        Target("shards", [files], change_shard, _read_dataset),
    ]


def _change_record(random: Random, data: bytes, end: bytes = b'"\n}\n') -> bytes:
    """A changed record with its checksum.

    Args:
        end: what is behind the checksum.
    """
    content = parse_json(data, "")
    content.pop("sha256", None)
    text = json.dumps(content).encode()
    changed = mutate_document(random, text, content, tuple(text.split()))
    return _sealed(changed.removesuffix(b"}") + b', "sha256": "', end)


def _sealed(head: bytes, end: bytes) -> bytes:
    return head + hashlib.sha256(head).hexdigest().encode() + end


def _change_sealed_yaml(random: Random, data: bytes) -> bytes:
    return _sealed(_change_yaml(random, data.rpartition(b"#")[0]) + b"\n# sha256: ", b"\n")


def _parquet(table: pa.Table) -> bytes:
    sink = io.BytesIO()
    pq.write_table(table, sink)
    return sink.getvalue()


_COLUMNS: tuple[Callable[[int], pa.Array], ...] = (
    lambda n: pa.nulls(n),
    lambda n: pa.nulls(n, pa.int32()),
    lambda n: pa.array([-1] * n, pa.int32()),
    lambda n: pa.array([2**31 - 1] * n, pa.int32()),
    lambda n: pa.array([2**62] * n, pa.int64()),
    lambda n: pa.array([2**63] * n, pa.uint64()),
    lambda n: pa.array(["x"] * n),
    lambda n: pa.array(["x"] * n).dictionary_encode(),
    lambda n: pa.array([b"\xff\0"] * n),
    lambda n: pa.array([float("nan")] * n),
    lambda n: pa.array([1.0, None, float("inf")] * n)[:n],
    lambda n: pa.array([[1]] * n),
    lambda n: pa.array([[1, None]] * n, pa.list_(pa.int32(), 2)),
    lambda n: pa.array([[1, None] * 3] * n, pa.list_(pa.int32(), 6)),
    lambda n: pa.array([[-5, 99] * 3] * n, pa.list_(pa.int32(), 6)),
    lambda n: pa.array([{"a": 1}] * n),
    lambda n: pa.array([True] * n),
    lambda n: pa.array([10**18] * n, pa.timestamp("ns")),
    lambda n: pa.array([2**40] * n, pa.timestamp("s")),
    lambda n: pa.array([1] * n).cast(pa.decimal128(38, 0)),
    lambda n: pa.array([1] * n, pa.date32()),
    lambda n: pa.array([1] * n, pa.time64("ns")),
    lambda n: pa.array([1] * n, pa.duration("ns")),
)


def _change_table(random: Random, table: pa.Table) -> pa.Table:
    """A table with another column, without one, with a column twice, or with other rows."""
    at = random.randrange(table.num_columns)
    name, kind = table.column_names[at], random.randrange(6)
    if kind == 0:
        return table.remove_column(at)
    if kind == 1:
        return table.append_column(name, table.column(at))
    if kind == 2:
        return table.slice(random.randrange(3), random.randrange(3))
    if kind == 3:
        return pa.concat_tables([table] * random.choice((2, 100)))
    return table.set_column(at, name, random.choice(_COLUMNS)(table.num_rows))


# Runs


def _run(dataset: Dataset, out: Path) -> Run:
    settings = ["model.name=mf", "model.embedding_dim=4", "sampler.name=uniform"]
    settings += ["train.epochs=2", "checkpoints.keep=1"]
    run = train(dataset, out, load_config(settings=settings), workers=0)
    evaluate(run)
    run.write_progress(StepProgress(epoch=2, step=1, steps=3))
    return Run.open(out)


def _runs(run: Run) -> list[Target]:
    files = _files(run.folder)
    texts = [name for name in files if name.endswith((".json", ".jsonl"))]

    def change_text(random: Random, files: Files) -> Files:
        name = random.choice([CONFIG, *texts])
        if name == CONFIG:
            return files | {name: _change_sealed_yaml(random, files[name])}
        if name == METRICS:
            *others, last = files[name].splitlines(keepends=True)
            return files | {name: b"".join(others) + _change_record(random, last, b'"}\n')}
        return files | {name: _change_record(random, files[name])}

    def read_text(random: Random, folder: Path) -> None:
        run = Run.open(folder)
        side_by_side([run])
        run.progress()

    def with_checksum(files: Files, record: str, name: str, data: bytes) -> Files:
        """The files with other content of one, whose checksum a record holds."""
        old, new = (hashlib.sha256(content).hexdigest() for content in (files[name], data))
        content = json.loads(files[record].replace(old.encode(), new.encode()))
        del content["sha256"]
        return files | {name: data, record: to_record(content)}

    def state_of(part: str) -> str:
        return f"{part.rpartition('/')[0]}/{STATE}"

    def change_checkpoint(random: Random, files: Files) -> Files:
        rest = {name: data for name, data in files.items() if name != RESULT}
        saved = [name for name in files if name.startswith(f"{CHECKPOINTS}/")]
        part = random.choice([name for name in saved if name.endswith(".safetensors")])
        kind = random.random()
        if kind < 0.3:
            return rest | {state_of(part): _change_record(random, files[state_of(part)])}
        if kind < 0.6:
            return with_checksum(rest, state_of(part), part, mutate_bytes(random, files[part]))
        tensors = load_safetensors(files[part])
        name = random.choice([*tensors])
        if random.random() < 0.3:
            del tensors[name]
        else:
            tensors[random.choice((name, "x"))] = random.choice(_TENSORS)
        return with_checksum(rest, state_of(part), part, save_safetensors(tensors))

    def read_checkpoint(random: Random, folder: Path) -> None:
        resume(Run.open(folder))

    def change_model(random: Random, files: Files) -> Files:
        name = random.choice([name for name in files if name.startswith(f"{MODEL}/")])
        if name.endswith(".json"):
            return files | {name: _change_record(random, files[name])}
        record = INFO if name.endswith(WEIGHTS) else MANIFEST
        return with_checksum(files, f"{MODEL}/{record}", name, mutate_bytes(random, files[name]))

    def read_model(random: Random, folder: Path) -> None:
        evaluate(Run.open(folder))

    return [
        Target("run", [files], change_text, read_text),
        Target("checkpoint", [files], change_checkpoint, read_checkpoint),
        Target("model", [files], change_model, read_model),
    ]


_TENSORS = (
    torch.zeros(()),
    torch.zeros(3),
    torch.zeros(0, 4),
    torch.zeros(2, 2, dtype=torch.int64),
    torch.full((5, 4), torch.nan),
)


def _search_folder(out: Path, run: Run) -> Search:
    space = Space.from_mapping({"parameters": {"adar.beta": {"uniform": [0.5, 0.95]}}}, "")
    search = Search(
        folder=Folder.at(out),
        space=space,
        data="data",
        checksum="",
        settings=("train.epochs=2",),
        trials=2,
        seconds=None,
        concurrent=None,
        workers=1,
        retries=0,
        seeds=1,
    )
    search.write()
    for number in range(2):
        trial = Trial(
            number=number, values={"adar.beta": 0.5}, started=0, status="finished", value=0.1, best_epoch=1
        )
        search.write_trial(trial)
        search.trial_folder(number).write_bytes(METRICS, run.folder.read_bytes(METRICS))
    test = {"ndcg@20": MetricOverSeeds(mean=0.1, deviation=None)}
    search.folder.write_record(
        search_folder.RESULT, WinnerResult(trial="00000", valid={}, seeds=1, test=test)
    )
    return search


def _search(search: Search) -> Target:
    def change(random: Random, files: Files) -> Files:
        name = random.choice([name for name in files if not name.endswith(".jsonl")])
        changed = _change_sealed_yaml if name.endswith(".yaml") else _change_record
        return files | {name: changed(random, files[name])}

    return Target("search", [_files(search.folder)], change, _read_search)


def _read_search(random: Random, folder: Path) -> None:
    search = Search.open(folder)
    search_folder.summary(search)
    for trial in search.read_trials():
        search.config(trial.values)
        search.read_epochs(trial.number)
    search.write_table(search.read_trials())


_DECISION = {
    "time": "2030-01-02T03:04:05+00:00",
    "decision": "published",
    "why": "it is not worse",
    "version": "000002",
    "before": "000001",
    "run": "/a",
    "weights": "00",
    "dataset": "/b",
    "recommendations": None,
    "metric": "ndcg@20",
    "new": 0.2,
    "old": 0.1,
    "users": 9,
    "p": 0.5,
}
_DECIDED = {PUBLISHED: to_record(_DECISION), HISTORY: to_lines([_DECISION])}


def _published() -> Target:
    def change(random: Random, files: Files) -> Files:
        name = random.choice(list(files))
        end = b'"}\n' if name == HISTORY else b'"\n}\n'
        return files | {name: _change_record(random, files[name], end)}

    return Target("published", [_DECIDED], change, _read_published)


def _read_published(random: Random, folder: Path) -> None:
    published = Published.at(folder)
    for decision in published.history():
        str(decision)
    published.model()
    published.line()


def _damage(dataset: Dataset, run: Run, search: Search) -> Target:
    """Files of all kinds that are no longer what was written. Not checkpoints: a run has others of them."""
    unchanged = {
        "data": _files(dataset.folder),
        "run": _files(run.folder),
        "search": _files(search.folder),
        "jobs": {"name.json": to_record(_PROGRESS)},
        "published": _DECIDED,
    }
    job = Job.load(ROOT / "jobs" / "nightly.yaml", ["storage=/data"])

    def change(random: Random, files: Files) -> Files:
        name = random.choice([name for name in files if f"/{CHECKPOINTS}/" not in name])
        changed = mutate_bytes(random, files[name])
        return files | {name: changed if changed != files[name] else b""}

    def read(random: Random, folder: Path) -> None:
        kinds: dict[str, Callable[[Path], object]] = {
            "data": lambda kind: _read_dataset(random, kind),
            "run": lambda kind: read_run(random, kind),
            "search": lambda kind: _read_search(random, kind),
            "jobs": lambda kind: ProgressFile(job.model_copy(update={"storage": str(folder)}), "name"),
            "published": lambda kind: _read_published(random, kind),
        }
        (kind,) = (path.name for path in folder.iterdir())
        is_damaged = _files(Folder.at(folder / kind)) != unchanged[kind]
        kinds[kind](folder / kind)
        assert not is_damaged, "what is damaged was read"

    def read_run(random: Random, folder: Path) -> None:
        run = Run.open(folder)
        side_by_side([run])
        run.progress()
        run.weights()
        for split in run.evaluations():
            run.user_figures(split)
        _read_dataset(random, folder / MODEL)

    originals = [
        {f"{kind}/{name}": data for name, data in files.items()} for kind, files in unchanged.items()
    ]
    return Target("damage", originals, change, read)
