"""Files of a run, a model or a search that name code run none unless the user trusts them."""

from __future__ import annotations

import ast
import shutil
import sys
from pathlib import Path

import pytest

import adar_ray
from adar_ray import evaluate, export, load, recommend, train
from adar_ray.config import load_config
from adar_ray.data.dataset import Dataset
from adar_ray.errors import AdarError
from adar_ray.storage import Folder
from adar_ray.training.records import ModelInfo
from adar_ray.tuning.folder import Search
from adar_ray.tuning.search import resume_search
from adar_ray.tuning.space import Space
from adar_ray.tuning.trial import Trial
from tests.calling import Adar, caller
from tests.tuning.spaces import LR, a_search, space

MODULE = """
from pathlib import Path
from adar_ray.models.mf import MF

Path(__file__).with_name("ran").touch()


def build(dataset, config):
    return MF(dataset.n_users, dataset.n_items, config.model.embedding_dim)
"""
NAME = "leaves_a_mark:build"
SMALL = [
    "model.embedding_dim=4",
    "train.epochs=2",
    "train.batch_size=512",
    "adar.pool=16",
    "train.device=cpu",
]


@pytest.fixture
def adar(capfd: pytest.CaptureFixture[str]) -> Adar:
    return caller(capfd)


@pytest.fixture
def mark(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file that appears when the module is imported."""
    (tmp_path / "leaves_a_mark.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path / "ran"
    sys.modules.pop("leaves_a_mark", None)


def forget(mark: Path) -> None:
    """As if another process went on."""
    mark.unlink()
    del sys.modules["leaves_a_mark"]


@pytest.fixture
def foreign(dataset: Dataset, mark: Path, tmp_path: Path) -> Path:
    """A finished run whose model is custom."""
    config = load_config(settings=[f"model.name={NAME}", *SMALL])
    train(dataset, tmp_path / "run", config, workers=0)
    forget(mark)
    return tmp_path / "run"


def test_what_the_user_names_needs_no_trust(dataset: Dataset, mark: Path, tmp_path: Path) -> None:
    run = train(dataset, tmp_path / "run", load_config(settings=[f"model.name={NAME}", *SMALL]), workers=0)
    assert mark.exists()
    assert evaluate(run).users  # nor does what came of it


def test_no_command_runs_what_the_files_of_a_run_name(
    adar: Adar, foreign: Path, mark: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    shutil.copytree(foreign / "model", tmp_path / "model")
    commands = [
        ["evaluate", foreign],
        ["recommend", foreign, "--out", out],
        ["recommend", foreign, "--user", 0],
        ["similar", foreign, "--item", 0],
        ["recommend", tmp_path / "model", "--out", out],
        ["export", foreign, "--out", tmp_path / "vectors"],
        ["publish", foreign, "--to", tmp_path / "published"],
        ["train", "--resume", foreign],
    ]
    for words in commands:
        line = adar(*words).line()
        assert f"names code that would run ({NAME})" in line
        assert "--trust" in line
    assert adar("report", foreign).status == 0
    assert not any((tmp_path / name).exists() for name in ("out", "vectors", "published"))
    assert not mark.exists()
    for words in commands:
        ended = adar(*words, "--trust", *(["--replace"] if "--out" in words else []))
        assert ended.status == 0, ended.err
    assert mark.exists()


def test_a_function_runs_it_when_told_so(foreign: Path, mark: Path, tmp_path: Path) -> None:
    for call in (evaluate, load, lambda run, **trust: export(run, tmp_path / "vectors", **trust)):
        with pytest.raises(AdarError, match="trust=True"):
            call(foreign)
        assert not mark.exists()
        call(foreign, trust=True)
        forget(mark)
    recommend(foreign, tmp_path / "top", trust=True)
    assert mark.exists()


@pytest.mark.parametrize(
    "key", ["model.name", "loss.name", "sampler.name", "train.callbacks", "train.metric"]
)
def test_every_component_of_a_configuration_is_looked_at(
    dataset: Dataset, mark: Path, tmp_path: Path, adar: Adar, key: str
) -> None:
    run = tmp_path / "run"
    train(dataset, run, load_config(settings=SMALL), workers=0)
    (run / "result.json").unlink()
    folder = Folder.at(run)
    content = folder.read_yaml("config.yaml", "")
    section, _, name = key.partition(".")
    content[section][name] = {"callbacks": [NAME], "metric": f"{NAME}@5"}.get(name, NAME)
    folder.write_yaml("config.yaml", content)
    assert f"config.yaml: names code that would run ({NAME})" in adar("train", "--resume", run).line()
    assert not mark.exists()


def test_a_model_that_names_other_code_than_its_run(dataset: Dataset, mark: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    train(dataset, run, load_config(settings=SMALL), workers=0)
    folder = Folder.at(run / "model")
    info = folder.read_record("model.json", ModelInfo, "")
    info.settings["model"]["name"] = NAME
    folder.write_record("model.json", info)
    with pytest.raises(AdarError, match=r"model\.json: names code"):
        evaluate(run)
    assert not mark.exists()


@pytest.mark.parametrize(
    "searched",
    [
        space(base={"model": {"name": NAME}}),
        space({"loss.name": {"choice": ["bpr", NAME]}}),
        space(base={"train": {"callbacks": ["mlflow", NAME]}}),
        space(metric=f"{NAME}@5"),
        space(LR, metric="loss", mode="min", base={"train": {"metric": f"{NAME}@5"}}),
    ],
    ids=["base", "parameter", "callback", "metric", "metric beside the loss"],
)
def test_a_search_that_names_code(tmp_path: Path, mark: Path, searched: Space) -> None:
    a_search(tmp_path, space=searched).write()
    with pytest.raises(AdarError, match=r"search\.yaml: names code"):
        resume_search(tmp_path / "search")
    assert NAME in Search.open(tmp_path / "search", trust=True).component_names()
    assert not mark.exists()


def test_a_search_whose_settings_name_code(tmp_path: Path) -> None:
    a_search(tmp_path, settings=(f"sampler.name={NAME}",)).write()
    with pytest.raises(AdarError, match=r"search\.yaml: names code"):
        Search.open(tmp_path / "search")


def test_a_trial_has_only_values_of_its_space(tmp_path: Path) -> None:
    search = a_search(tmp_path, space=space({"model.name": {"choice": ["mf", "lightgcn"]}}))
    for values, problem in (
        ({"model.name": NAME}, "model.name cannot be"),
        ({"adar.beta": 0.5}, "adar.beta cannot be"),
    ):
        search.write_trial(Trial(number=0, values=values, started=0))
        with pytest.raises(AdarError, match=rf"trial\.json: is damaged \({problem}"):
            search.read_trials()


def test_nothing_is_unpickled_or_evaluated() -> None:
    """No file of the package imports a module that unpickles, or calls a function that runs text."""
    modules = {"pickle", "marshal", "shelve", "dill", "cloudpickle", "joblib"}
    calls = {"eval", "exec", "torch.load", "np.load", "numpy.load", "yaml.unsafe_load", "yaml.full_load"}
    files = list(Path(adar_ray.__file__).parent.rglob("*.py"))
    assert len(files) > 150
    for file in files:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import | ast.ImportFrom):
                names = (
                    [node.module or ""] if isinstance(node, ast.ImportFrom) else [a.name for a in node.names]
                )
                assert not modules & {name.partition(".")[0] for name in names}, file
            if isinstance(node, ast.Call):
                assert ast.unparse(node.func) not in calls, (file, node.lineno)
