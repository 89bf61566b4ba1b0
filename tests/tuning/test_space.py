"""Spaces: what a file may say, what is drawn from it, and what is refused."""

from __future__ import annotations

from itertools import pairwise, product

import optuna
import pytest

from adar_ray.config import Config, load_config, search_range
from adar_ray.tuning.checks import check
from adar_ray.tuning.space import Space
from tests.tuning.spaces import BETA, LR, draw, refusal, space

CONDITIONAL = {
    # The dependent ones come first, so that the file's order cannot be the order of drawing.
    "ahns.p": {"uniform": [-4, -1], "when": {"ahns.alpha": 2, "sampler.name": "ahns"}},
    "ahns.alpha": {"choice": [1, 2], "when": {"sampler.name": "ahns"}},
    "dns.candidates": {"integer": [4, 8], "when": {"sampler.name": ["ahns", "dns"]}},
    "sampler.name": {"choice": ["uniform", "dns", "ahns"]},
}


def test_a_file_is_read_as_people_write_it(tmp_path):
    file = tmp_path / "space.yaml"
    file.write_text(
        "base: {model: {embedding_dim: 8}, train: }\n"
        "parameters:\n"
        "  optimizer.lr: {loguniform: [1e-4, 1e-2]}\n"
        "  ahns.beta: {uniform: [0.1, 1], when: {sampler.name: ahns}}\n"
        "  sampler.name: {choice: [ahns, dns]}\n"
        "budget: {time: 1h30m}\n"
    )
    read = Space.load(file)
    assert read.base["model"] == {"embedding_dim": 8}
    assert read.parameters["optimizer.lr"].loguniform == [0.0001, 0.01]
    assert read.parameters["ahns.beta"].when == {"sampler.name": ["ahns"]}
    assert (read.search.algorithm, read.search.seed) == ("tpe", 0)
    assert (read.scheduler.name, read.scheduler.grace, read.scheduler.reduction) == ("asha", 4, 3)
    assert (read.metric, read.mode) == ("ndcg@20", "max")
    assert (read.budget.trials, read.budget.time, read.budget.patience) == (64, 5400, None)


def test_what_is_dumped_is_what_was_written():
    written = {"integer": [1, 8], "log": True, "when": {"model.cosine": [True]}}
    parameters = {"adar.negatives": written, "model.cosine": {"choice": [True, False]}}
    assert space(parameters).model_dump()["parameters"] == parameters


def test_a_space_cannot_be_changed_by_accident():
    with pytest.raises(ValueError, match="frozen"):
        space().metric = "ndcg@10"


def test_a_parameter_is_drawn_where_its_conditions_hold_and_nowhere_else():
    drawn = draw(space(CONDITIONAL), 200)
    for values in drawn:
        expected = {"sampler.name"}
        if values["sampler.name"] != "uniform":
            expected |= {"dns.candidates"}
        if values["sampler.name"] == "ahns":
            expected |= {"ahns.alpha"} | ({"ahns.p"} if values["ahns.alpha"] == 2 else set())
        assert set(values) == expected
    assert len({frozenset(values) for values in drawn}) == 4


def test_a_study_that_is_given_a_point_draws_that_point():
    a_space = space(
        {"adar.candidates": {"choice": [1, 4]}, "adar.beta": {"quantized": [0.6, 0.9, 0.1]}},
        search={"algorithm": "grid"},
    )
    study = optuna.create_study()
    for point in a_space.grid():
        study.enqueue_trial(point)
        assert a_space.suggest(study.ask()) == point


def test_a_grid_is_every_combination_once_and_in_order():
    parameters = {
        "model.name": {"choice": ["mf", "lightgcn"]},
        "adar.negatives": {"integer": [2, 4]},
        "sampled_softmax.temperature": {"quantized": [0.1, 0.4, 0.1]},
    }
    expected = [
        {"model.name": name, "adar.negatives": K, "sampled_softmax.temperature": temperature}
        for name, K, temperature in product(["mf", "lightgcn"], [2, 3, 4], [0.1, 0.2, 0.3, 0.4])
    ]
    assert space(parameters).grid() == expected


def test_a_grid_respects_conditions():
    parameters = {name: of for name, of in CONDITIONAL.items() if name != "ahns.p"}
    grid = space(parameters, search={"algorithm": "grid"}).grid()
    assert len(grid) == 1 + 5 + 2 * 5
    assert len({frozenset(point.items()) for point in grid}) == len(grid)
    assert {"sampler.name": "uniform"} in grid
    assert {"sampler.name": "dns", "dns.candidates": 4} in grid
    assert {"sampler.name": "ahns", "dns.candidates": 8, "ahns.alpha": 2} in grid
    assert grid == space(parameters).grid()


def test_values_go_over_settings_over_base_over_defaults():
    a_space = space(
        {
            "adar.candidates": {"choice": [1, 4], "when": {"model.embedding_dim": 8}},
            "model.embedding_dim": {"choice": [8, 16]},
        },
        base={"adar": {"candidates": 2, "negatives": 3}, "train": {"epochs": 5}, "model": None},
        metric="recall@7",
    )
    config = a_space.config(
        {"model.embedding_dim": 8, "adar.candidates": 4}, ["adar.negatives=5", "adar.candidates=7"]
    )
    assert config == load_config(
        settings=[
            "adar.candidates=4",
            "adar.negatives=5",
            "train.epochs=5",
            "model.embedding_dim=8",
            "train.metric=recall@7",
        ]
    )
    assert (
        a_space.config({"model.embedding_dim": 16}).adar.candidates == 2
    )  # not searched there: what base says
    assert a_space.config({}) == a_space.config({"model.embedding_dim": Config().model.embedding_dim})


def test_a_trial_has_the_defaults_of_the_model_that_is_drawn_for_it():
    models = {"model.name": {"choice": ["mf", "sasrec"]}}
    for name in ("mf", "sasrec"):
        expected = load_config(settings=[f"model.name={name}"])
        assert space(models).config({"model.name": name}) == expected
        a_space = space(models, base={"train": {"batch_size": 512}})
        fixed = a_space.config({"model.name": name}, ["loss.name=bpr"])
        assert (fixed.train.batch_size, fixed.loss.name) == (512, "bpr")
    searched = space(models | {"train.batch_size": {"choice": [32, 1024]}})
    values = {"model.name": "sasrec", "train.batch_size": 1024}
    assert searched.config(values).train.batch_size == 1024


def test_by_the_loss_a_trial_trains_to_the_end_and_keeps_the_epoch_that_the_configuration_says():
    a_space = space(LR, metric="loss", mode="min", base={"train": {"metric": "map@5", "epochs": 7}})
    check(a_space)
    expected = ["train.metric=map@5", "train.epochs=7", "train.patience=7"]
    assert a_space.config({}) == load_config(settings=expected)
    assert a_space.config({}, ["train.epochs=30"]).train.patience == 30


def test_by_the_loss_nothing_may_end_a_trial_by_another_metric():
    by_loss = {"metric": "loss", "mode": "min"}
    assert "base: train.patience" in refusal(space, LR, base={"train": {"patience": 3}}, **by_loss)
    assert "parameters: train.patience" in refusal(space, {"train.patience": {"integer": [2, 9]}}, **by_loss)
    assert "--set train.patience=3" in refusal(check, space(LR, **by_loss), ["train.patience=3"])
    check(space(LR, base={"train": {"patience": 3}}), ["train.patience=4"])


@pytest.mark.parametrize(
    "name",
    ["adar.beta", "sampled_softmax.temperature", "ahns.alpha", "popularity.alpha", "simgcl.contrast"],
)
def test_different_losses_are_not_compared_by_the_loss(name):
    message = refusal(space, {name: {"uniform": [0.5, 0.9]}}, metric="loss", mode="min")
    assert message.startswith(f"file: parameters.{name}: changes the loss")


def test_a_value_that_cannot_be_is_named():
    assert "adar.beta" in refusal(space().config, {"adar.beta": 1.5})
    assert "did you mean adar.beta?" in refusal(space().config, {"adar.bet": 0.5})
    assert refusal(space().config, {}, ["adar.negatives=0"]).startswith(
        "--set adar.negatives=0: adar.negatives"
    )


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ({"paramters": {}}, "there is no key paramters; did you mean parameters?"),
        ({"search": {"algorithms": "tpe"}}, "there is no key search.algorithms; did you mean algorithm?"),
        ({"scheduler": {"gracee": 1}}, "there is no key scheduler.gracee; did you mean grace?"),
        ({"budget": {"trails": 1}}, "there is no key budget.trails; did you mean trials?"),
        ({"search": "tpe"}, "search: give some of algorithm, seed, defaults, not 'tpe'"),
        ({"search": {"algorithm": "grids"}}, "search.algorithm: Input should be 'random', 'grid' or 'tpe'"),
        ({"scheduler": {"name": "ash"}}, "scheduler.name"),
        ({"scheduler": {"reduction": 1}}, "scheduler.reduction"),
        ({"budget": {"trials": 0}}, "budget.trials"),
        ({"parameters": 3}, "parameters"),
        ({"parameters": {}}, "parameters: name at least one"),
        ({"parameters": {"beta": {"uniform": [0.5, 0.9]}}}, "parameters.beta: give it as section.key"),
        ({"parameters": {"adar.bta": {"uniform": [0.5, 0.9]}}}, "no key adar.bta; did you mean adar.beta?"),
        ({"parameters": {"adr.beta": {"uniform": [0.5, 0.9]}}}, "no section 'adr'; did you mean adar?"),
        ({"base": {"model": 3}}, "base.model"),
        ({"base": {"modle": {"embedding_dim": 3}}}, "base: there is no section 'modle'; did you mean model?"),
        (
            {"base": {"model": {"embeding_dim": 3}}},
            "base: there is no key model.embeding_dim; did you mean model.embedding_dim?",
        ),
        ({"base": {"modle": {}}}, "base: there is no section 'modle'"),
        ({"metric": "ndgc@20"}, "metric 'ndgc@20' is not a metric"),
        ({"metric": "ndcg@0"}, "metric 'ndcg@0' is not a metric"),
        ({"metric": "auc"}, "metric 'auc' is not a metric"),
        ({"mode": "min"}, "mode: ndcg@20 is best at its max; set mode: max"),
        ({"metric": "loss", "parameters": LR}, "mode: loss is best at its min; set mode: min"),
        ({"mode": "best"}, "mode"),
        (
            {"base": {"train": {"metric": "ndcg@10"}}},
            "base: train.metric is ndcg@10, but the space's metric is ndcg@20",
        ),
        ({"parameters": {"train.metric": {"choice": ["ndcg@10"]}}}, "parameters.train.metric"),
        *(
            (
                {"parameters": {"train.epochs": {"integer": [5, 9]}}, "scheduler": {"name": scheduler}},
                "parameters.train.epochs: the scheduler decides how many epochs a trial gets",
            )
            for scheduler in ("asha", "median", "pbt")
        ),
        (
            {"parameters": {"train.threads": {"integer": [1, 4]}}},
            "train.threads: all trials reserve the same",
        ),
        (
            {
                "parameters": {
                    "sampler.name": {"choice": ["adar", "dns"]},
                    "adar.candidates": {"choice": [2, 4], "when": {"sampler.name": "adar"}},
                    "dns.top": {"integer": [1, 2], "when": {"sampler.name": "dns", "adar.candidates": 4}},
                }
            },
            "parameters.dns.top.when: can never hold, because no value of sampler.name meets all of it",
        ),
        (
            {
                "parameters": {
                    "sampler.name": {"choice": ["adar", "dns"]},
                    "adar.beta": {"uniform": [0.5, 0.9], "when": {"sampler.name": []}},
                }
            },
            "parameters.adar.beta.when: can never hold",
        ),
    ],
)
def test_a_space_that_makes_no_sense(content, says):
    message = refusal(Space.from_mapping, {"parameters": BETA, **content}, "some/file.yaml")
    assert message.startswith("some/file.yaml: ")
    assert says in message


def test_a_default_between_whole_numbers_is_none_of_an_integers_values():
    searched = space({"loss.l2": {"integer": [0, 2]}}, base={"loss": {"l2": 0.5}})
    assert searched.defaults(100) == {}
    assert space({"loss.l2": {"integer": [0, 2]}}, base={"loss": {"l2": 1.0}}).defaults(100) == {
        "loss.l2": 1.0
    }


@pytest.mark.parametrize("text", ["- a\n", "words\n", "3\n", "", "# nothing\n", "base: [\n"])
def test_a_file_that_holds_no_space(tmp_path, text):
    file = tmp_path / "space.yaml"
    file.write_text(text)
    assert refusal(Space.load, file).startswith(f"{file}: ")


def test_a_file_that_is_not_there():
    assert refusal(Space.load, "missing.yaml").startswith("missing.yaml: cannot be read")


def test_nothing_in_a_file_is_run(tmp_path):
    file = tmp_path / "space.yaml"
    file.write_text(f"base: !!python/object/apply:pathlib.Path.touch [{tmp_path}/run]\n")
    assert "is not valid YAML" in refusal(Space.load, file)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("when", "says"),
    [
        ({"sampler.nam": "ahns"}, "is not a parameter of this space; did you mean sampler.name?"),
        ({"model.name": "mf"}, "is not a parameter of this space"),
        ({"sampler.name": "srns"}, "is never 'srns'"),
        ({"sampler.name": ["ahns", "srns"]}, "is never 'srns'"),
        ({"adar.negatives": 9}, "is never 9; it has integer: [1, 8]"),
        ({"optimizer.lr": 0.001}, "a condition needs a choice or an integer; this is loguniform"),
        ({"sampled_softmax.temperature": 0.1}, "a condition needs a choice or an integer; this is quantized"),
        ({"sampler.name": None}, "a number, a word, true or false"),
    ],
)
def test_a_condition_that_can_never_hold(when, says):
    parameters = {
        "sampler.name": {"choice": ["ahns", "dns"]},
        "adar.negatives": {"integer": [1, 8]},
        "optimizer.lr": {"loguniform": [1e-3, 1e-2]},
        "sampled_softmax.temperature": {"quantized": [0.1, 0.2, 0.1]},
        "ahns.beta": {"uniform": [0.1, 1], "when": when},
    }
    message = refusal(space, parameters)
    assert message.startswith("file: parameters.ahns.beta.when.")
    assert says in message


def test_conditions_that_go_in_a_circle():
    names = ["adar.negatives", "adar.candidates", "dns.top"]
    parameters = {
        name: {"choice": [1, 2], "when": {other: 1}} for name, other in pairwise([*names, names[0]])
    }
    message = refusal(space, parameters)
    assert "circle" in message
    assert all(name in message for name in names)
    assert "circle" in refusal(space, {"adar.negatives": {"choice": [1], "when": {"adar.negatives": 1}}})


@pytest.mark.parametrize("kind", ["uniform", "loguniform"])
def test_a_grid_has_no_values_of_a_continuous_range(kind):
    message = refusal(space, {"adar.beta": {kind: [0.5, 0.9]}}, search={"algorithm": "grid"})
    assert message.startswith(
        f"file: parameters.adar.beta: a grid needs values, and {kind} has none; use quantized"
    )


def test_the_time_of_a_budget_is_a_duration():
    assert space(budget={"time": "1h30m"}).budget.time == 5400
    assert space(budget={"time": 90}).budget.time == 90
    assert refusal(space, budget={"time": "soon"}).startswith("file: budget.time: 'soon'")
    assert refusal(space, budget={"time": "9" * 400}).startswith("file: budget.time: ")


def test_a_default_that_follows_from_the_number_of_items_is_tried_first_as_a_number():
    softmax = space({"sampled_softmax.temperature": "default", "adar.beta": "default"})
    assert softmax.defaults(48_000) == {"sampled_softmax.temperature": pytest.approx(0.1), "adar.beta": 0.9}
    assert softmax.defaults(100, ["sampled_softmax.temperature=0.3"])["sampled_softmax.temperature"] == 0.3
    in_steps = space({"sampled_softmax.temperature": {"quantized": [0.05, 0.5, 0.05]}})
    assert in_steps.defaults(12_000) == {"sampled_softmax.temperature": 0.2}
    assert in_steps.defaults(24_000) == {}  # 0.141 is between two steps


# Declared ranges


def test_default_is_the_range_that_the_setting_declares():
    beta = search_range("adar.beta")
    assert beta == {"uniform": [0.5, 0.95]}
    written = {"adar.beta": "default", "optimizer.lr": {"default": True}}
    assert space(written) == space({"adar.beta": beta, "optimizer.lr": search_range("optimizer.lr")})


def test_a_default_range_may_have_conditions():
    name = {"sampler.name": {"choice": ["dns", "uniform"]}}
    top = {"default": True, "when": {"sampler.name": "dns"}}
    explicit = {**search_range("dns.top"), "when": {"sampler.name": "dns"}}
    assert space({**name, "dns.top": top}) == space({**name, "dns.top": explicit})


def test_the_file_of_a_search_holds_the_range_itself():
    assert space({"adar.beta": "default"}).model_dump()["parameters"] == {
        "adar.beta": {"uniform": [0.5, 0.95]}
    }


@pytest.mark.parametrize(
    ("name", "parameter", "says"),
    [
        ("train.seed", "default", "parameters.train.seed: declares no default range; give one"),
        ("custom.depth", "default", "parameters.custom.depth: declares no default range; give one"),
        ("adar.bta", "default", "did you mean adar.beta?"),
        ("beta", "default", "parameters.beta: give it as section.key"),
        ("adar.beta", {"default": False}, "there is no key parameters.adar.beta.default"),
        ("adar.beta", {"default": True, "choice": [0.5]}, "give one of uniform"),
    ],
)
def test_a_default_range_that_cannot_be(name, parameter, says):
    assert says in refusal(space, {name: parameter})


def test_settings_of_custom_components_are_searched():
    a_space = space({"custom.depth": {"choice": [1, 2]}}, base={"custom": {"width": 3}})
    check(a_space)
    assert a_space.config({"custom.depth": 2}).custom == {"width": 3, "depth": 2}
