"""Exports a trained model: its vectors, an index of them, and programs that score without adar-ray.

Legend: B users or histories of a batch, L positions of a history, U users, I items, D dimensions.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import io
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

import pyarrow as pa
import torch
from pydantic import PositiveInt
from torch import nn

from adar_ray.data.matrix import to_column
from adar_ray.errors import AdarError, one_line
from adar_ray.inference.model import TrainedModel
from adar_ray.inference.new_items import NewItems
from adar_ray.interactions import PADDING
from adar_ray.limits import check_list
from adar_ray.models.protocol import dot_score
from adar_ray.outputs import Kind, new_folder
from adar_ray.process import loggers_quiet
from adar_ray.ranking.top_items import user_vectors
from adar_ray.storage import Folder
from adar_ray.training.records import Record
from adar_ray.training.run import Run

INFO = "export.json"
KIND = Kind(INFO, ("users.parquet", "items.parquet", "items.faiss", "model.pt2", "model.onnx*"))
NEEDS = {"faiss": ("faiss",), "onnx": ("onnx", "onnxscript"), "torch": ()}
"""The formats beside Parquet, and the modules that each needs."""
_TRACED = 2  # rows of the batch that shows torch what the model does; it takes one row for a constant


class ExportInfo(Record):
    """`export.json`: what the files beside it hold.

    Attributes:
        model: its name.
        dataset: name of the dataset.
        users, items, dim: sizes of the vectors in `users.parquet` and `items.parquet`.
        score: whether a score is the inner product of two vectors, or what a network makes of them.
        input: what a program takes: numbers of users, or histories of numbers of items.
        history_length: how many items a history has, the latest last, filled up with `padding` on the left;
            None if the input is users.
        padding: the number that stands for no item.
        files: the SHA-256 of each file.
    """

    model: str
    dataset: str
    users: PositiveInt
    items: PositiveInt
    dim: PositiveInt
    score: Literal["inner product", "network"]
    input: Literal["user", "history"]
    history_length: PositiveInt | None
    padding: int
    files: dict[str, str]


@dataclass(frozen=True)
class Exported:
    """What `export` wrote.

    Attributes:
        folder: of the files.
        new_items: what was exported beside the items of the dataset; None if nothing was.
    """

    folder: Folder
    new_items: NewItems | None


def export(
    run: str | Path | Run,
    out: str | Path,
    formats: Sequence[str] = (),
    *,
    replace: bool = False,
    data: str | Path | None = None,
    new_items: str | Path | None = None,
    trust: bool = False,
) -> Exported:
    """Writes `users.parquet` and `items.parquet` with the columns `key, vector`, and further formats.

    A row's number is the number of the user or item in all other files. If items have titles, `items.parquet`
    has them in a column `title`. The score of a pair is the inner product of its vectors, except with a model
    whose score is a network's, such as NeuMF. A sequential model's user vectors are as of now, after all
    interactions of all splits.

    The formats:

    - `faiss`: `items.faiss`, an exact index of the items' vectors by inner product, which ranks as the model
      does.
    - `onnx`, `torch`: `model.onnx` and `model.pt2`, the same program for ONNX Runtime and for
      `torch.export.load`. From numbers of users `[B]`, or from a sequential model's histories `[B, L]`, it
      makes the output `vector`, `[B, D]`, and `score`, `[B, I]`, of all items, those seen included.

    `export.json`, written last, says what the files hold.

    Args:
        run: a run, or a copy of its `model/`.
        formats: of `faiss`, `onnx` and `torch`, beside Parquet. The first two need the extra `export`.
        data: where the dataset of a run that is not finished is now, if it has moved.
        new_items: a file of items that were not there in training, with their features. They follow the
            others in all files. Only for `twotower`.
        trust: whether custom components that the folder names may run.

    Raises:
        AdarError: a format is unknown, is not installed, or cannot hold this model. Nothing is written.
    """
    check_list("--format", formats)
    for name in formats:
        _check(name)
    trained = TrainedModel.load(run, data, new_items=new_items, trust=trust)
    files = _Files(trained)
    dataset = trained.dataset
    with new_folder(out, replace=replace, kind=KIND) as folder:
        checksums = {}
        for name, table in files.tables().items():
            checksums[name] = folder.write_table(name, table).sha256
        for name in dict.fromkeys(formats):
            for file, content in files.of_format(name).items():
                folder.write_bytes(file, content)
                checksums[file] = hashlib.sha256(content).hexdigest()
        info = ExportInfo(
            model=trained.config.model.name,
            dataset=dataset.name,
            users=dataset.n_users,
            items=trained.n_items,
            dim=trained.item_vectors.shape[1],
            score="inner product" if files.is_inner_product else "network",
            input="history" if trained.sequential else "user",
            history_length=dataset.sequences.length if trained.sequential else None,
            padding=PADDING,
            files=checksums,
        )
        folder.write_record(INFO, info)
    return Exported(Folder.at(out), trained.new_items)


def _check(name: str) -> None:
    if name not in NEEDS:
        raise AdarError(f"--format {name}: unknown; the formats beside Parquet are {', '.join(NEEDS)}")
    missing = [module for module in NEEDS[name] if importlib.util.find_spec(module) is None]
    if missing:
        raise AdarError(
            f"--format {name}: {' and '.join(missing)} is missing; install it with "
            "`pip install 'adar-ray[export]'`"
        )


class _Files:
    """The contents of an export's files."""

    def __init__(self, trained: TrainedModel) -> None:
        self._trained = trained
        self._model = trained.config.model.name
        self.is_inner_product: bool = getattr(trained.snapshot, "scores_by_dot_product", False)

    def tables(self) -> dict[str, pa.Table]:
        users = {
            "key": self._trained.dataset.user_keys(),
            "vector": to_column(self._trained.user_vectors.numpy()),
        }
        items = {"key": self._trained.item_keys(), "vector": to_column(self._trained.item_vectors.numpy())}
        if (titles := self._trained.item_titles()) is not None:
            items["title"] = titles
        return {"users.parquet": pa.table(users), "items.parquet": pa.table(items)}

    def of_format(self, name: str) -> dict[str, bytes]:
        contents: dict[str, Callable[[], dict[str, bytes]]] = {
            "faiss": self._faiss,
            "onnx": self._onnx,
            "torch": self._torch,
        }
        return contents[name]()

    def _faiss(self) -> dict[str, bytes]:
        import faiss

        if not self.is_inner_product:
            raise AdarError(
                f"--format faiss: a score of {self._model} is what a network makes of two vectors, not their "
                "inner product, so no index of vectors ranks like it; leave it out"
            )
        item_ID = self._trained.item_vectors.numpy()
        index = faiss.IndexFlatIP(item_ID.shape[1])
        index.add(item_ID)
        return {"items.faiss": faiss.serialize_index(index).tobytes()}

    @cached_property
    def _program(self) -> torch.export.ExportedProgram:
        shape = [_TRACED] + ([self._trained.dataset.sequences.length] if self._trained.sequential else [])
        batch = torch.zeros(shape, dtype=torch.int64)
        any_batch = ({0: torch.export.Dim("batch")},)
        with _one_line_of(f"torch cannot trace {self._model}"):
            scorer = _Scorer(self._trained, self.is_inner_product).eval().requires_grad_(False)
            return torch.export.export(scorer, (batch,), dynamic_shapes=any_batch, strict=False)

    def _torch(self) -> dict[str, bytes]:
        buffer = io.BytesIO()
        torch.export.save(self._program, buffer)
        return {"model.pt2": buffer.getvalue()}

    def _onnx(self) -> dict[str, bytes]:
        inputs, outputs = ["history" if self._trained.sequential else "user"], ["vector", "score"]
        program = self._program
        with (
            _one_line_of(f"ONNX has no operators for {self._model}"),
            tempfile.TemporaryDirectory() as scratch,
        ):
            found = torch.onnx.export(
                program, dynamo=True, verbose=False, input_names=inputs, output_names=outputs
            )
            assert found is not None  # it is None without dynamo
            found.save(Path(scratch) / "model.onnx")  # weights beyond 2 GB are in a file beside it
            return {path.name: path.read_bytes() for path in sorted(Path(scratch).iterdir())}


class _Scorer(nn.Module):
    """From users, or histories, to their vectors `[B, D]` and the scores of all items `[B, I]`."""

    def __init__(self, trained: TrainedModel, is_inner_product: bool) -> None:
        super().__init__()
        self.item_1ID = nn.Buffer(trained.item_vectors[None])
        self.is_sequential = trained.sequential
        self.score = dot_score if is_inner_product else trained.model.score
        if is_inner_product and not trained.sequential:
            self.user = nn.Embedding.from_pretrained(trained.user_vectors)
        else:
            self.model = trained.model

    def forward(self, asked: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        if self.is_sequential:
            vector_BD = user_vectors(self.model, asked.new_zeros(asked.shape[0]), lambda user_B: asked)
        elif hasattr(self, "user"):
            vector_BD = self.user(asked)
        else:
            vector_BD = user_vectors(self.model, asked)
        return vector_BD, self.score(vector_BD, self.item_1ID)


@contextlib.contextmanager
def _one_line_of(problem: str) -> Iterator[None]:
    """Makes an AdarError of whatever torch raises, and keeps what it says beside it to itself."""
    try:
        with loggers_quiet("torch.onnx", "onnxscript"), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except Exception as error:  # of many classes, none of them documented
        raise AdarError(f"{problem} ({one_line(error, 120)}); leave out --format torch and onnx") from error
