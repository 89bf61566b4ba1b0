"""The estimate of memory: beside what real runs take, and what it refuses."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from adar_ray import train
from adar_ray.config import load_config
from adar_ray.data.dataset import Dataset
from adar_ray.data.synthetic import synthesize
from adar_ray.errors import AdarError
from adar_ray.process import usable_memory
from adar_ray.training.footprint import footprint
from tests.data.making import make_dataset

MF = ("model.name=mf", "train.device=cpu")
TRAIN = """
import resource, sys
from adar_ray import train
from adar_ray.config import load_config

train(sys.argv[1], sys.argv[2], load_config(settings=sys.argv[3:]), workers=0)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
"""


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """A dataset with more users and items than a step reaches."""
    return synthesize(20_000, 20_000, 200_000, 1, tmp_path_factory.mktemp("wide") / "data")


def sizes(dataset: Dataset, *settings: str, workers: int = 0) -> dict[str, float]:
    config = load_config(settings=[*MF, *settings])
    return {part.what: part.size for part in footprint(config, dataset, workers)}


@pytest.mark.slow
@pytest.mark.stress
@pytest.mark.parametrize(
    "settings",
    [
        ("model.embedding_dim=1024",),
        ("sampler.name=dns", "dns.candidates=64", "train.batch_size=60000"),
        ("model.name=lightgcn", "model.embedding_dim=256", "train.batch_size=100000"),
        ("model.name=sasrec", "train.batch_size=2048"),
    ],
    ids=["tables", "candidates", "graph", "sequences"],
)
def test_a_run_takes_what_was_estimated(wide: Dataset, tmp_path: Path, settings: tuple[str, ...]) -> None:
    # Users are ranked in blocks: more of them take time, and no more memory.
    settings = ("train.epochs=1", "train.valid_users=1000", *MF, *settings)
    command = [sys.executable, "-c", TRAIN, wide.folder.path, str(tmp_path / "run"), *settings]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    peak, estimate = int(done.stdout), sum(sizes(wide, *settings).values())
    assert estimate > 0.8e9  # or the process would be most of it
    assert estimate <= peak <= 2 * estimate


def test_what_grows_with_what(dataset: Dataset, tmp_path: Path) -> None:
    base, twice = sizes(dataset), sizes(dataset, "model.embedding_dim=128")
    assert twice["vectors and weights"] == 2 * base["vectors and weights"]
    assert base["vectors and weights"] == 4 * 64 * (dataset.n_users + dataset.n_items) * 6
    about = make_dataset(tmp_path / "about", features=True)  # five kinds, one more, and a number
    of_features = sizes(about, "model.name=twotower")["vectors and weights"]
    assert of_features - sizes(about)["vectors and weights"] == 4 * 64 * 7 * 6
    few, many = (sizes(dataset, f"train.batch_size={size}")["a batch"] for size in (1000, 2**30))
    assert many == few / 1000 * dataset.rows("train")  # a batch has no more rows than there are
    assert sizes(dataset, "train.accumulate=4")["a batch"] == base["a batch"] / 4
    # In a batch of twice as many pairs, each has twice as many others for negatives.
    few, many = (
        sizes(dataset, "sampler.name=in_batch", "model.cosine=false", f"train.batch_size={size}")["a batch"]
        for size in (1000, 2000)
    )
    assert many == 4 * few
    assert sizes(dataset, workers=4)["the processes"] > 4 * base["the processes"]
    assert "a batch" not in sizes(dataset, "model.name=operator:add")


@pytest.mark.parametrize(
    ("settings", "largest"),
    [
        (["sampler.name=dns", "dns.negatives=4096", "dns.candidates=65536"], "a batch"),
        (["model.name=sasrec", "model.embedding_dim=65536", "sasrec.layers=64"], "vectors and weights"),
    ],
)
def test_what_no_machine_has_is_refused_before_anything_is_written(
    dataset: Dataset, tmp_path: Path, settings: list[str], largest: str
) -> None:
    settings = [*MF, *settings]
    if sum(sizes(dataset, *settings).values()) < usable_memory():
        pytest.skip("this machine has that much memory")
    with pytest.raises(AdarError, match=rf"the largest part is {largest} \(.* GB\): lower ") as caught:
        train(dataset, tmp_path / "run", load_config(settings=settings), workers=0)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_the_limit_of_a_control_group_is_what_there_is(tmp_path: Path) -> None:
    root = Path("/sys/fs/cgroup/memory")
    name = "memory.limit_in_bytes"
    if not root.exists():
        root, name = Path("/sys/fs/cgroup"), "memory.max"
    group = root / f"adar-ray-test-{os.getpid()}"
    try:
        group.mkdir()
        (group / name).write_text(str(1 << 29))
    except OSError:
        pytest.skip("only root of a machine with control groups can make one")
    read = "from adar_ray.process import usable_memory; print(usable_memory())"
    enter = f"echo $$ > {group}/cgroup.procs && exec {sys.executable} -c '{read}'"
    try:
        inside = int(subprocess.run(["sh", "-c", enter], capture_output=True, check=True).stdout)
    finally:
        group.rmdir()
    swap = int(next(x for x in Path("/proc/meminfo").read_text().splitlines() if "SwapTotal" in x).split()[1])
    assert inside == (1 << 29) + swap * 1024
    assert usable_memory() > inside
