"""What is refused before anyone pays for a trial: a space together with settings."""

from __future__ import annotations

import pytest

from adar_ray.tuning.checks import check, check_workers
from adar_ray.tuning.space import Space
from tests.tuning.spaces import BETA, refusal, space


def check_refusal(a_space: Space, *settings: str) -> str:
    return refusal(check, a_space, settings)


def test_a_parameter_is_searched_or_set():
    message = check_refusal(space(), "train.epochs=9", "adar.beta=0.8")
    assert message.startswith("--set adar.beta=0.8: adar.beta is searched")
    check(space(), ["adar.gamma=0.5", "train.epochs=9"])


def test_settings_are_checked():
    assert "did you mean adar.beta?" in check_refusal(space(), "adar.bta=0.8")
    assert "section.key=value" in check_refusal(space(), "adar.beta")
    assert check_refusal(space(), "model.embedding_dim=0").startswith(
        "--set model.embedding_dim=0: model.embedding_dim"
    )
    assert check_refusal(space(base={"model": {"embedding_dim": 0}})).startswith("base: model.embedding_dim")
    assert "--set train.metric=ndcg@10" in check_refusal(space(), "train.metric=ndcg@10")
    check(space(metric="recall@3"), ["train.metric=recall@3"])


def test_a_population_trains_in_one_process_per_trial():
    """With Ray Train workers, which run ahead of what Ray Tune has heard, such a search never ended."""
    message = refusal(check_workers, space(scheduler={"name": "pbt"}), 2)
    assert message.startswith("--workers-per-trial 2: scheduler pbt")
    check_workers(space(scheduler={"name": "pbt"}), 1)
    check_workers(space(scheduler={"name": "median"}), 2)


@pytest.mark.parametrize(
    ("parameters", "settings", "says"),
    [
        (
            {"sampler.name": {"choice": ["adar", "all"]}},
            ["loss.name=bpr"],
            "goes only with loss.name cross_entropy",
        ),
        (
            {"loss.name": {"choice": ["bpr", "cross_entropy"]}, "sampler.name": {"choice": ["dns", "adar"]}},
            [],
            "cross_entropy takes all items",
        ),
        ({"model.embedding_dim": {"choice": [8, 9]}}, ["model.name=sasrec"], "not a multiple of heads 2"),
        ({"dns.top": {"integer": [1, 17]}}, [], "dns: top 17 is more than candidates 16"),
    ],
)
def test_configurations_that_contradict_themselves(parameters, settings, says):
    assert says in check_refusal(space({**BETA, **parameters}), *settings)


def test_a_contradiction_is_found_among_many_parameters():
    """More combinations than are tried: those of names are all tried, others at random."""
    used = {
        "model.name": {"choice": ["mf", "simgcl"]},
        "sampler.name": {"choice": ["adar", "uniform", "dens", "ahns", "dns"]},
    }
    many = used | {
        name: {"choice": [1, 2, 3, 4, 5]}
        for name in ("adar.negatives", "adar.candidates", "uniform.negatives", "dens.warmup")
    }
    many |= {
        name: {"uniform": [0.1, 0.9]} for name in ("adar.beta", "ahns.beta", "simgcl.noise", "dens.gamma")
    }
    check(space(many))
    names = {
        "model.name": {"choice": ["neumf", "gru4rec", "mf", "simgcl"]},
        "loss.name": {"choice": ["bpr", "bce", "cross_entropy"]},
    }
    assert "cross_entropy takes all items" in check_refusal(space({**many, **names}))
    top = {"dns.top": {"integer": [1, 4]}, "dns.candidates": {"choice": [2, 8, 16]}}
    assert "dns: top 4 is more" in check_refusal(space({**many, **top}))
    # The first parameters change most slowly: in order, it would come after more than are tried.
    assert "dns: top 4 is more" in check_refusal(space({**top, **many}))


def test_a_parameter_that_no_trial_uses_is_refused():
    parameters = {"sasrec.layers": {"integer": [1, 3]}, "optimizer.lr": {"loguniform": [0.001, 0.1]}}
    message = check_refusal(space(parameters, base={"model": {"name": "mf"}}))
    assert message.startswith("parameters.sasrec.layers: no trial uses it")
    check(space(parameters | {"model.name": {"choice": ["mf", "sasrec"]}}))


def test_a_contradiction_is_found_behind_a_condition_on_a_number():
    parameters = {
        "adar.negatives": {"integer": [1, 3]},
        "dns.top": {"choice": [99], "when": {"adar.negatives": 2}},
    }
    assert "dns: top 99" in check_refusal(space(parameters))


def test_a_grid_is_tried_between_its_ends():
    parameters = {"model.embedding_dim": {"integer": [8, 10]}, "model.name": {"choice": ["sasrec"]}}
    grid = space(parameters, search={"algorithm": "grid"})
    assert "model.embedding_dim 9 is not a multiple" in check_refusal(grid)


def test_a_grid_that_nobody_could_wait_for():
    parameters = {
        name: {"integer": [1, 1000]}
        for name in ("adar.negatives", "adar.candidates", "dens.warmup", "srns.memory")
    }
    assert "more than 10000 trials" in check_refusal(space(parameters, search={"algorithm": "grid"}))


@pytest.mark.parametrize(
    ("scheduler", "key"),
    [
        ({"name": "asha", "grace": 5}, "grace"),
        ({"name": "median", "grace": 5}, "grace"),
        ({"name": "pbt", "interval": 5}, "interval"),
    ],
)
def test_a_scheduler_gets_to_decide_something(scheduler, key):
    message = check_refusal(space(scheduler=scheduler), "train.epochs=4")
    assert message == f"scheduler.{key}: 5 is more than train.epochs, 4: lower it"
    check(space(scheduler=scheduler), ["train.epochs=5"])
    check(space(scheduler={"name": scheduler["name"]}), ["train.epochs=2"])  # the default is cut to it


def test_models_with_different_losses_are_not_compared_by_the_loss():
    models = {"model.name": {"choice": ["mf", "sasrec"]}}
    by_loss = {"metric": "loss", "mode": "min"}
    message = check_refusal(space(models, **by_loss))
    assert message.startswith("parameters.model.name: models have different losses (bce, sampled_softmax)")
    check(space(models))
    check(space(models, **by_loss), ["loss.name=bpr"])
    check(space(models, **by_loss, base={"loss": {"name": "bce"}}))
    check(space({"model.name": {"choice": ["gru4rec", "fmlprec"]}}, **by_loss))
    graphs = {"model.name": {"choice": ["lightgcn", "simgcl"]}}
    message = check_refusal(space(graphs, **by_loss), "loss.name=bpr")
    assert "different losses (bpr, bpr with simgcl's own term)" in message
    check(space(graphs))


def test_a_base_that_is_no_configuration_by_itself_is_refused():
    base = {"model": {"name": "sasrec", "embedding_dim": 64}, "sasrec": {"heads": 3}}
    dims = {"model.embedding_dim": {"choice": [48, 96]}}
    message = check_refusal(space(dims, base=base))
    assert message.startswith(
        "the space's base, without parameters: model.embedding_dim 64 is not a multiple"
    )
    check(space(dims, base={"model": {**base["model"], "embedding_dim": 96}}))
