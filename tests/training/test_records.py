"""Records of a run folder: the exact bytes of each file, and what is read back from them."""

from __future__ import annotations

import hashlib
import math
from pathlib import Path

import pytest
import safetensors.torch
import torch

from adar_ray.config import load_config
from adar_ray.data.dataset import Dataset
from adar_ray.documents import to_lines, to_record
from adar_ray.errors import AdarError
from adar_ray.training.records import (
    EpochRecord,
    Evaluation,
    ModelInfo,
    RunInfo,
    RunResult,
    StepProgress,
    TrainingState,
)
from adar_ray.training.run import Run, read_epochs
from adar_ray.training.saved_model import SavedModel
from tests import sealed

HEAD = (
    b'{"epoch": 1, "loss": 0.6931471805599453, "penalty": 1e-05, "sampler": {"hardness": 0.5}, '
    b'"time": {"train_seconds": 1.5, "valid_seconds": 0.0, "interactions_per_second": 1e+16}, '
    b'"best_epoch": 1}\n'
    b'{"epoch": 2, "loss": 0.5, "penalty": 0.0, "sampler": {"hardness": 0.25, "timestep": 0.75, '
    b'"uncrossed": 0.5, "timesteps": [0.0, 1.0]}, "valid": {"ndcg@20": NaN, "recall@20": 1.0}, '
    b'"time": {"train_seconds": 1.5, "valid_seconds": 0.125, "interactions_per_second": 3.0}, '
    b'"best_epoch": 1, "sha256": "'
)
LINES = HEAD + hashlib.sha256(HEAD).hexdigest().encode() + b'"}\n'


@pytest.fixture
def run(dataset: Dataset, tmp_path: Path) -> Run:
    return Run.create(tmp_path / "run", load_config(), dataset, workers=2)


def test_epochs_are_read_and_written_byte_for_byte(run: Run) -> None:
    run.folder.write_bytes("metrics.jsonl", LINES)
    first, second = run.epochs()
    assert read_epochs(run.folder)[0] == first
    assert (first.valid, first.sampler.timestep) == (None, None)
    assert second.valid is not None
    assert math.isnan(second.valid["ndcg@20"])
    assert second.sampler.timesteps == [0, 1]
    run.write_epochs([first, second])
    assert run.folder.read_bytes("metrics.jsonl") == LINES
    run.write_epochs([])
    assert run.epochs() == []


def test_weights_are_put_together_from_what_each_worker_has(run: Run) -> None:
    item_ID, user_UD, bias_D = torch.randn(5, 2), torch.randn(4, 2), torch.randn(2)
    digests = []
    for worker, users in enumerate((slice(3), slice(3, 4))):
        part = {"model.item.weight": item_ID[worker::2], "model.user.weight": user_UD[users]}
        if worker == 0:
            part |= {"model.bias": bias_D, "mean:model.bias": torch.zeros(2)}
        content = safetensors.torch.save({name: tensor.contiguous() for name, tensor in part.items()})
        digests.append(run.write_part((1, 0), worker, 2, content))
    dealt = ["model.item.weight"]
    run.commit_checkpoint(TrainingState(epoch=1, best_epoch=1, files=digests, dealt=dealt))
    weights = run.weights()
    expected = {"item.weight": item_ID, "user.weight": user_UD, "bias": bias_D}
    assert weights.keys() == expected.keys()
    assert all(torch.equal(weights[name], tensor) for name, tensor in expected.items())


def test_keys_of_the_other_files_stand_in_a_fixed_order(run: Run, dataset: Dataset) -> None:
    result = RunResult(best_epoch=2, epochs=3, valid=None, train_seconds=1.0)
    digest = run.write_part((1, 0), 0, 1, safetensors.torch.save({"model.weight": torch.ones(1)}))
    run.commit_checkpoint(TrainingState(epoch=1, best_epoch=1, files=[digest]))
    run.write_progress(StepProgress(epoch=1, step=2, steps=3))
    assert run.progress() == StepProgress(epoch=1, step=2, steps=3)
    run.finish(dataset, result)
    assert run.result() == result
    assert run.progress() is None
    folder = Path(run.folder.path)
    head = (
        '{\n  "best_epoch": 2,\n  "epochs": 3,\n  "valid": null,\n  "train_seconds": 1.0,\n'
        '  "popularity": null,\n  "cost": null,\n  "sha256": "'
    )
    digest = hashlib.sha256(head.encode()).hexdigest()
    assert (folder / "result.json").read_text() == f'{head}{digest}"\n}}\n'
    model = sealed.read(folder / "model" / "model.json")
    assert " ".join(model) == "settings users items history_length dataset dataset_checksum weights"
    expected = {
        "name": "lightgcn",
        "embedding_dim": 64,
        "cosine": True,
        "length_power": 0.25,
        "tables": "replicated",
    }
    assert model["settings"]["model"] == expected
    evaluation = Evaluation(split="test", users=3, metrics={"mrr@5": 0.5})
    run.folder.write_record("evaluation/test.json", evaluation)
    assert run.evaluations() == {"test": evaluation}


def test_a_result_of_an_earlier_version_lacks_popularity_and_cost(run: Run) -> None:
    sealed.write(
        Path(run.folder.join("result.json")),
        {"best_epoch": 2, "epochs": 3, "valid": {"ndcg@20": 0.5}, "train_seconds": 1.0},
    )
    expected = RunResult(best_epoch=2, epochs=3, valid={"ndcg@20": 0.5}, train_seconds=1.0)
    assert run.result() == expected


def test_run_info_is_the_run_section_of_the_configuration(run: Run, dataset: Dataset) -> None:
    info = Run.open(run.folder.address).info
    assert info == run.info
    assert isinstance(info, RunInfo)
    assert (info.dataset, info.dataset_checksum) == (dataset.folder.address, dataset.checksum)
    assert info.workers == 2
    assert set(info.versions) == {"python", "adar-ray", "ray", "torch", "numpy", "pyarrow"}


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"phi_min": 0.1, "beta": 0.9}, "there is no key adar.phi_min"),
        ({"noise": "gaussian"}, "adar.noise: Input should be 'catalog' or 'isotropic', not 'gaussian'"),
        ({"gamma": -1.0}, "adar.gamma: Input should be greater than or equal to 0.5, not -1.0"),
    ],
)
def test_runs_and_models_with_settings_that_are_gone_are_refused(
    run: Run, dataset: Dataset, settings: dict[str, object], problem: str
) -> None:
    digest = run.write_part((1, 0), 0, 1, safetensors.torch.save({"model.weight": torch.ones(1)}))
    run.commit_checkpoint(TrainingState(epoch=1, best_epoch=1, files=[digest]))
    run.finish(dataset, RunResult(best_epoch=1, epochs=1, valid=None, train_seconds=1.0))
    remedy = "use that version, or train again"

    model = run.folder.folder("model")
    info = model.read_record("model.json", ModelInfo, "")
    model.write_record("model.json", info.model_copy(update={"settings": info.settings | {"adar": settings}}))
    with pytest.raises(AdarError) as caught:
        SavedModel.open(model)
    origin = f"{model}/model.json: was written by another version of adar-ray"
    assert str(caught.value) == f"{origin} ({problem}); {remedy}"

    content = run.folder.read_yaml("config.yaml", "")
    run.folder.write_yaml("config.yaml", content | {"adar": settings})
    with pytest.raises(AdarError) as caught:
        Run.open(run.folder.address)
    origin = f"{run.folder}/config.yaml: was written by another version of adar-ray"
    assert str(caught.value) == f"{origin} ({problem}); {remedy}"


def test_what_was_written_before_ranking_was_a_choice_ranks_as_it_did(run: Run, dataset: Dataset) -> None:
    digest = run.write_part((1, 0), 0, 1, safetensors.torch.save({"model.weight": torch.ones(1)}))
    run.commit_checkpoint(TrainingState(epoch=1, best_epoch=1, files=[digest]))
    run.finish(dataset, RunResult(best_epoch=1, epochs=1, valid=None, train_seconds=1.0))
    assert Run.open(run.folder.address).config.model.length_power == 0.25
    content, model = run.folder.read_yaml("config.yaml", ""), run.folder.folder("model")
    info = model.read_record("model.json", ModelInfo, "")
    for settings in (content, info.settings):
        del settings["model"]["length_power"]
    model.write_record("model.json", info)
    run.folder.write_yaml("config.yaml", content)
    assert SavedModel.open(model).config.model.length_power == 0
    assert Run.open(run.folder.address).config.model.length_power == 0


@pytest.mark.parametrize(
    ("name", "content", "read"),
    [
        ("metrics.jsonl", b"", Run.epochs),
        ("metrics.jsonl", LINES[:-1], Run.epochs),
        ("metrics.jsonl", LINES[: LINES.index(b"\n") + 1], Run.epochs),
        ("metrics.jsonl", LINES.replace(b"0.5", b"0.6"), Run.epochs),
        ("metrics.jsonl", to_lines([{"epoch": 1}]), Run.epochs),
        ("result.json", to_record({}), Run.result),
        (
            "evaluation/test.json",
            to_record({"split": "test", "users": "all", "metrics": {}}),
            Run.evaluations,
        ),
    ],
)
def test_a_damaged_record_is_refused_by_its_file(run: Run, name: str, content: bytes, read) -> None:
    run.folder.write_bytes(name, content)
    with pytest.raises(AdarError, match="is damaged") as caught:
        read(run)
    assert str(caught.value).startswith(f"{run.folder}/{name}: ")
    assert "\n" not in str(caught.value)


def test_a_record_does_not_change() -> None:
    record = EpochRecord.model_validate_json(LINES.splitlines()[0])
    with pytest.raises(ValueError, match="frozen"):
        record.epoch = 2
