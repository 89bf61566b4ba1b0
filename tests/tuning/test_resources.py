"""What a trial reserves, and how many trials fit at a time."""

import pytest
import ray

from adar_ray.ray_session import DATA_CPUS
from adar_ray.tuning.resources import room, trial_resources
from tests.tuning.spaces import a_search


@pytest.mark.parametrize(
    ("address", "fits"), [(None, 4), ("", 4), ("local", 4), ("10.0.0.1:6379", 4 + DATA_CPUS)]
)
def test_trials_leave_the_cpus_that_a_ray_started_here_has_for_data(tmp_path, monkeypatch, address, fits):
    monkeypatch.setattr(ray, "cluster_resources", lambda: {"CPU": 4.0 + DATA_CPUS})
    if address is None:
        monkeypatch.delenv("RAY_ADDRESS", raising=False)
    else:
        monkeypatch.setenv("RAY_ADDRESS", address)
    assert room(a_search(tmp_path)) == fits


def test_a_trial_reserves_its_threads_and_the_gpu_that_it_uses(tmp_path, monkeypatch):
    monkeypatch.setattr(ray, "cluster_resources", lambda: {"CPU": 8.0 + DATA_CPUS, "GPU": 1.0})
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    search = a_search(tmp_path)
    for settings, reserved, fits in (
        ((), {"cpu": 1, "gpu": 1}, 1),
        (("train.gpus=0.1",), {"cpu": 1, "gpu": 0.1}, 8),
        (("train.gpus=0.2",), {"cpu": 1, "gpu": 0.2}, 5),
        (("train.device=cpu", "train.threads=4"), {"cpu": 4}, 2),
    ):
        asked = search.model_copy(update={"settings": settings})
        assert trial_resources(asked) == reserved
        assert room(asked) == fits
