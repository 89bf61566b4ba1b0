"""Spaces: what a file may say, what is drawn from it, and what is refused before a trial is paid for."""

import ast
import math
from collections import Counter
from itertools import pairwise, product
from pathlib import Path

import optuna
import pytest
import yaml
from scipy import stats

from adar_ray.config import Config, load_config
from adar_ray.errors import AdarError
from adar_ray.tuning import spaces
from adar_ray.tuning.spaces import Space, parse_duration

SHIPPED = sorted((Path(__file__).parents[1] / "tune_spaces").glob("*.yaml"))
BETA = {"adar.beta": {"uniform": [0.5, 0.95]}}
LR = {"optimizer.lr": {"loguniform": [1e-4, 1e-2]}}
CONDITIONAL = {
    # The dependent ones come first, so that the file's order cannot be the order of drawing.
    "ahns.p": {"uniform": [-4, -1], "when": {"ahns.alpha": 2, "sampler.name": "ahns"}},
    "ahns.alpha": {"choice": [1, 2], "when": {"sampler.name": "ahns"}},
    "sampler.candidates": {"integer": [4, 8], "when": {"sampler.name": ["ahns", "dns"]}},
    "sampler.name": {"choice": ["uniform", "dns", "ahns"]},
}


def space(parameters: dict = BETA, **more) -> Space:
    return Space.from_mapping({"parameters": parameters, **more}, "file")


def rng(a_space: Space, n: int) -> list[dict]:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=1))
    drawn = []
    for _ in range(n):
        drawn.append(a_space.suggest(study.ask()))
    return drawn


def refusal(call, *arguments, **keywords) -> str:
    with pytest.raises(AdarError) as caught:
        call(*arguments, **keywords)
    message = str(caught.value)
    assert "\n" not in message
    return message


# Reading


def test_a_file_is_read_as_people_write_it(tmp_path):
    file = tmp_path / "space.yaml"
    file.write_text(
        "base: {model: {dim: 8}, train: }\n"
        "parameters:\n"
        "  optimizer.lr: {loguniform: [1e-4, 1e-2]}\n"
        "  ahns.beta: {uniform: [0.1, 1], when: {sampler.name: ahns}}\n"
        "  sampler.name: {choice: [ahns, dns]}\n"
        "budget: {time: 1h30m}\n"
    )
    read = Space.load(file)
    assert read.base["model"] == {"dim": 8}
    assert read.parameters["optimizer.lr"].loguniform == [0.0001, 0.01]
    assert read.parameters["ahns.beta"].when == {"sampler.name": ["ahns"]}
    assert (read.search.algorithm, read.search.seed) == ("tpe", 0)
    assert (read.scheduler.name, read.scheduler.grace, read.scheduler.reduction) == ("asha", 4, 3)
    assert (read.metric, read.mode) == ("ndcg@20", "max")
    assert (read.budget.trials, read.budget.time, read.budget.patience) == (64, 5400, None)
    assert (read.resources.cpu, read.resources.gpu) == (1, 0)


@pytest.mark.parametrize("mode", ["python", "json"])
@pytest.mark.parametrize("file", SHIPPED, ids=lambda file: file.stem)
def test_what_is_dumped_reads_back_as_the_same(file, mode):
    read = Space.load(file)
    again = Space.from_mapping(yaml.safe_load(yaml.safe_dump(read.model_dump(mode=mode))), "dump")
    assert again == read
    assert again.model_dump() == read.model_dump()


def test_what_is_dumped_is_what_was_written():
    written = {"integer": [1, 8], "log": True, "when": {"model.cosine": [True]}}
    parameters = {"adar.K": written, "model.cosine": {"choice": [True, False]}}
    assert space(parameters).model_dump()["parameters"] == parameters


def test_a_space_cannot_be_changed_by_accident():
    with pytest.raises(ValueError, match="frozen"):
        space().metric = "ndcg@10"


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        *(("90", 90), (90, 90), (1.5, 1.5), ("45s", 45), ("30m", 1800), ("2h", 7200), ("1d", 86400)),
        *(("1h30m", 5400), ("1h30m15s", 5415), ("1.5h", 5400), ("1d12h", 129600)),
    ],
)
def test_durations(text, seconds):
    assert parse_duration(text) == seconds
    assert space(budget={"time": text}).budget.time == seconds


@pytest.mark.parametrize("text", ["", "soon", "1h30", "30m1h", "-5m", "0", "0h", "1 h", "h", ".5h", "nan"])
def test_what_is_no_duration_is_refused(text):
    assert repr(text) in refusal(parse_duration, text)
    assert refusal(space, budget={"time": text}).startswith("file: budget.time: ")


# Drawing


def test_every_distribution_keeps_to_its_range():
    drawn = rng(
        space(
            {
                "adar.beta": {"uniform": [0.5, 0.95]},
                "optimizer.lr": {"loguniform": [1e-4, 1e-2]},
                "loss.temperature": {"quantized": [0.05, 0.5, 0.05]},
                "adar.K": {"integer": [1, 8]},
                "model.dim": {"integer": [2, 64], "log": True},
                "adar.M": {"choice": [1, 2, 4]},
                "model.cosine": {"choice": [True, False]},
            }
        ),
        200,
    )
    columns = {name: [values[name] for values in drawn] for name in drawn[0]}
    assert stats.kstest(columns["adar.beta"], stats.uniform(0.5, 0.45).cdf).pvalue > 0.01
    assert stats.kstest(columns["optimizer.lr"], stats.loguniform(1e-4, 1e-2).cdf).pvalue > 0.01
    steps = [0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.45, 0.5]  # and not 0.15000000000000002
    assert sorted(set(columns["loss.temperature"])) == steps
    assert set(columns["adar.K"]) == set(range(1, 9))
    assert all(isinstance(value, int) for name in ("adar.K", "adar.M") for value in columns[name])
    assert set(columns["model.dim"]) <= set(range(2, 65))
    # Half of a logarithmic range lies below its geometric mean; a quarter of this one would, were it linear.
    below = sum(value < math.sqrt(1.5 * 64.5) for value in columns["model.dim"])
    assert 75 < below < 125
    assert set(columns["adar.M"]) == {1, 2, 4}
    assert Counter(map(type, columns["model.cosine"])) == {bool: 200}


def test_a_parameter_is_drawn_where_its_conditions_hold_and_nowhere_else():
    drawn = rng(space(CONDITIONAL), 200)
    for values in drawn:
        expected = {"sampler.name"}
        if values["sampler.name"] != "uniform":
            expected |= {"sampler.candidates"}
        if values["sampler.name"] == "ahns":
            expected |= {"ahns.alpha"} | ({"ahns.p"} if values["ahns.alpha"] == 2 else set())
        assert set(values) == expected
    assert len({frozenset(values) for values in drawn}) == 4


def test_a_study_that_is_given_a_point_draws_that_point():
    a_space = space(
        {"adar.M": {"choice": [1, 4]}, "adar.phi_min": {"quantized": [0, 0.3, 0.1]}},
        search={"algorithm": "grid"},
    )
    study = optuna.create_study()
    for point in a_space.grid():
        study.enqueue_trial(point)
        assert a_space.suggest(study.ask()) == point


# Grids


def test_a_grid_is_every_combination_once_and_in_order():
    parameters = {
        "model.name": {"choice": ["mf", "lightgcn"]},
        "adar.K": {"integer": [2, 4]},
        "loss.temperature": {"quantized": [0.1, 0.4, 0.1]},
    }
    expected = [
        {"model.name": name, "adar.K": K, "loss.temperature": temperature}
        for name, K, temperature in product(["mf", "lightgcn"], [2, 3, 4], [0.1, 0.2, 0.3, 0.4])
    ]
    assert space(parameters).grid() == expected


def test_a_grid_respects_conditions():
    parameters = {name: of for name, of in CONDITIONAL.items() if name != "ahns.p"}
    grid = space(parameters, search={"algorithm": "grid"}).grid()
    assert len(grid) == 1 + 5 + 2 * 5
    assert len({frozenset(point.items()) for point in grid}) == len(grid)
    assert {"sampler.name": "uniform"} in grid
    assert {"sampler.name": "dns", "sampler.candidates": 4} in grid
    assert {"sampler.name": "ahns", "sampler.candidates": 8, "ahns.alpha": 2} in grid
    assert grid == space(parameters).grid()


# Configurations


def test_values_go_over_settings_over_base_over_defaults():
    a_space = space(
        {"adar.M": {"choice": [1, 4], "when": {"model.dim": 8}}, "model.dim": {"choice": [8, 16]}},
        base={"adar": {"M": 2, "K": 3}, "train": {"epochs": 5}, "model": None},
        metric="recall@7",
    )
    config = a_space.config({"model.dim": 8, "adar.M": 4}, ["adar.K=5", "adar.M=7"])
    assert config == load_config(
        settings=["adar.M=4", "adar.K=5", "train.epochs=5", "model.dim=8", "train.metric=recall@7"]
    )
    assert a_space.config({"model.dim": 16}).adar.M == 2  # not searched there: what base says
    assert a_space.config({}) == a_space.config({"model.dim": Config().model.dim})


def test_by_the_loss_a_trial_trains_to_the_end_and_keeps_the_epoch_that_the_configuration_says():
    a_space = space(LR, metric="loss", mode="min", base={"train": {"metric": "map@5", "epochs": 7}})
    a_space.check()
    expected = ["train.metric=map@5", "train.epochs=7", "train.patience=7"]
    assert a_space.config({}) == load_config(settings=expected)
    assert a_space.config({}, ["train.epochs=30"]).train.patience == 30


def test_by_the_loss_nothing_may_end_a_trial_by_another_metric():
    by_loss = {"metric": "loss", "mode": "min"}
    assert "base: train.patience" in refusal(space, LR, base={"train": {"patience": 3}}, **by_loss)
    assert "parameters: train.patience" in refusal(space, {"train.patience": {"integer": [2, 9]}}, **by_loss)
    assert "--set train.patience=3" in check_refusal(space(LR, **by_loss), "train.patience=3")
    space(LR, base={"train": {"patience": 3}}).check(["train.patience=4"])


@pytest.mark.parametrize("name", ["adar.beta", "loss.temperature", "ahns.alpha", "sampler.alpha"])
def test_different_losses_are_not_compared_by_the_loss(name):
    message = refusal(space, {name: {"uniform": [0.5, 0.9]}}, metric="loss", mode="min")
    assert message.startswith(f"file: parameters.{name}: makes another loss")


def test_a_base_that_is_no_configuration_by_itself_is_refused():
    base = {"model": {"name": "sasrec", "heads": 3}}
    dims = {"model.dim": {"choice": [48, 96]}}
    message = check_refusal(space(dims, base=base))
    assert message.startswith("the space's base, without parameters: model.dim 64 is no multiple")
    space(dims, base={"model": {**base["model"], "dim": 96}}).check()


def test_a_value_that_cannot_be_is_named():
    assert "adar.beta" in refusal(space().config, {"adar.beta": 1.5})
    assert "did you mean adar.beta?" in refusal(space().config, {"adar.bet": 0.5})
    assert refusal(space().config, {}, ["adar.K=0"]).startswith("--set adar.K=0: adar.K")


@pytest.mark.parametrize("file", SHIPPED, ids=lambda file: file.stem)
def test_shipped_spaces_are_sound_and_every_draw_is_a_configuration(file):
    shipped = Space.load(file)
    shipped.check()
    assert file.read_text().startswith("# ")
    for values in rng(shipped, 50):
        config = shipped.config(values)
        assert {
            name: config.model_dump()[name.split(".")[0]][name.split(".")[1]] for name in values
        } == values


def test_there_are_five_shipped_spaces():
    assert [file.stem for file in SHIPPED] == ["joint", "samplers", "score_aware", "sequential", "smoke"]


def test_samplers_searches_every_samplers_own_parameters():
    """Those that only one sampler has; what `all` has is another loss."""
    shipped = Space.load(SHIPPED[1])
    names = set(shipped.parameters["sampler.name"].choice)
    assert names == set(
        Config.model_fields["sampler"].annotation.model_fields["name"].annotation.__args__
    ) - {"all"}
    own = {
        f"{name}.{key}" for name in ("ahns", "dens", "srns") for key in getattr(Config(), name).model_dump()
    }
    assert own <= set(shipped.parameters)
    for values in rng(shipped, 100):
        assert {name.split(".")[0] for name in values} & {"adar", "ahns", "dens", "srns"} <= {
            values["sampler.name"]
        }


def test_smoke_is_small():
    shipped = Space.load(SHIPPED[-1])
    assert len(shipped.grid()) <= shipped.budget.trials <= 8
    assert shipped.config({}).train.epochs <= 3


# Refusals of a space by itself


@pytest.mark.parametrize(
    ("parameter", "says"),
    [
        ({"unifrom": [0.5, 0.9]}, "did you mean uniform?"),
        ({}, "give one of uniform: [low, high]"),
        ({"uniform": [0.5, 0.9], "choice": [0.5]}, "give one of"),
        (0.5, "uniform"),
        ({"uniform": 0.5}, "list"),
        ({"uniform": [0.5]}, "uniform takes [low, high]"),
        ({"uniform": [0.5, 0.9, 0.1]}, "uniform takes [low, high]"),
        ({"quantized": [0.5, 0.9]}, "quantized takes [low, high, step]"),
        ({"uniform": [0.5, "much"]}, "'much'"),
        ({"uniform": [0.9, 0.5]}, "the range is empty"),
        ({"uniform": [0.5, 0.5]}, "the range is empty"),
        ({"uniform": [0.5, math.inf]}, "finite"),
        ({"uniform": [0.5, 1.5]}, "less than or equal to 1, not 1.5"),
        ({"uniform": [0, 0.5]}, "greater than 0, not 0.0"),
        ({"loguniform": [0, 0.5]}, "a logarithmic range begins above 0"),
        ({"loguniform": [0.1, 3]}, "not 3.0"),
        ({"quantized": [0.5, 0.9, 0.3]}, "no whole number of steps of 0.3 leads from 0.5 to 0.9"),
        ({"quantized": [0.5, 0.9, 0]}, "no whole number of steps"),
        ({"quantized": [0.5, 0.9, -0.1]}, "no whole number of steps"),
        ({"quantized": [0.5, 1.1, 0.1]}, "not 1.1"),
        ({"integer": [1.5, 3]}, "integer"),
        ({"integer": [0, 1]}, "not 0"),
        ({"choice": []}, "at least one value"),
        ({"choice": [0.5, 0.5]}, "none twice"),
        ({"choice": [0.5, 2]}, "not 2"),
        ({"choice": ["high"]}, "'high'"),
        ({"choice": [[0.5]]}, "a number, a word, true or false"),
        ({"choice": [None]}, "a number, a word, true or false"),
        ({"uniform": [0.5, 0.9], "log": True}, "loguniform"),
        ({"uniform": [0.5, 0.9], "when": "ahns"}, "when"),
    ],
)
def test_a_distribution_that_makes_no_sense(parameter, says):
    message = refusal(space, {"adar.beta": parameter})
    assert message.startswith("file: ")
    assert "parameters.adar.beta" in message
    assert says in message


@pytest.mark.parametrize(
    "parameter", [{"uniform": [8, 64]}, {"quantized": [8, 64, 0.5]}, {"loguniform": [8, 64]}]
)
def test_a_key_for_whole_numbers_wants_whole_numbers(parameter):
    assert "parameters.model.dim: Input should be a valid integer" in refusal(space, {"model.dim": parameter})
    space({"model.dim": {"quantized": [8, 64, 8]}}).check()


def test_a_logarithmic_range_of_whole_numbers_begins_above_0():
    message = refusal(space, {"train.seed": {"integer": [0, 9], "log": True}})
    assert "parameters.train.seed: a logarithmic range begins above 0" in message


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ({"paramters": {}}, "there is no key paramters; did you mean parameters?"),
        ({"search": {"algorithms": "tpe"}}, "there is no key search.algorithms; did you mean algorithm?"),
        ({"scheduler": {"gracee": 1}}, "there is no key scheduler.gracee; did you mean grace?"),
        ({"budget": {"trails": 1}}, "there is no key budget.trails; did you mean trials?"),
        ({"resources": {"gpus": 1}}, "there is no key resources.gpus; did you mean gpu?"),
        ({"search": "tpe"}, "search: give some of algorithm, seed, not 'tpe'"),
        ({"search": {"algorithm": "grids"}}, "search.algorithm: Input should be 'random', 'grid', 'tpe' or"),
        ({"scheduler": {"name": "ash"}}, "scheduler.name"),
        ({"scheduler": {"reduction": 1}}, "scheduler.reduction"),
        ({"budget": {"trials": 0}}, "budget.trials"),
        ({"resources": {"cpu": 0}}, "resources.cpu"),
        ({"parameters": 3}, "parameters"),
        ({"parameters": {}}, "parameters: name at least one"),
        ({"parameters": {"beta": {"uniform": [0.5, 0.9]}}}, "parameters.beta: give it as section.key"),
        ({"parameters": {"adar.bta": {"uniform": [0.5, 0.9]}}}, "no key adar.bta; did you mean adar.beta?"),
        ({"parameters": {"adr.beta": {"uniform": [0.5, 0.9]}}}, "no section 'adr'; did you mean adar?"),
        ({"base": {"model": 3}}, "base.model"),
        ({"base": {"modle": {"dim": 3}}}, "base: there is no section 'modle'; did you mean model?"),
        ({"base": {"model": {"dims": 3}}}, "base: there is no key model.dims; did you mean model.dim?"),
        ({"base": {"modle": {}}}, "base: there is no section 'modle'"),
        ({"metric": "ndgc@20"}, "metric 'ndgc@20' is no metric"),
        ({"metric": "ndcg@0"}, "metric 'ndcg@0' is no metric"),
        ({"metric": "auc"}, "metric 'auc' is no metric"),
        ({"mode": "min"}, "mode: ndcg@20 is best at its max; set mode: max"),
        ({"metric": "loss", "parameters": LR}, "mode: loss is best at its min; set mode: min"),
        ({"mode": "best"}, "mode"),
        (
            {"base": {"train": {"metric": "ndcg@10"}}},
            "base: train.metric is ndcg@10, the space's metric ndcg@20",
        ),
        ({"parameters": {"train.metric": {"choice": ["ndcg@10"]}}}, "parameters.train.metric"),
        ({"parameters": {"train.epochs": {"integer": [5, 9]}}}, "parameters.train.epochs"),
    ],
)
def test_a_space_that_makes_no_sense(content, says):
    message = refusal(Space.from_mapping, {"parameters": BETA, **content}, "some/file.yaml")
    assert message.startswith("some/file.yaml: ")
    assert says in message


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
        ({"sampler.nam": "ahns"}, "is no parameter of this space; did you mean sampler.name?"),
        ({"model.name": "mf"}, "is no parameter of this space"),
        ({"sampler.name": "srns"}, "is never 'srns'"),
        ({"sampler.name": ["ahns", "srns"]}, "is never 'srns'"),
        ({"adar.K": 9}, "is never 9; it has integer: [1, 8]"),
        ({"optimizer.lr": 0.001}, "depend on a choice or an integer; this is loguniform"),
        ({"loss.temperature": 0.1}, "depend on a choice or an integer; this is quantized"),
        ({"sampler.name": None}, "a number, a word, true or false"),
    ],
)
def test_a_condition_that_can_never_hold(when, says):
    parameters = {
        "sampler.name": {"choice": ["ahns", "dns"]},
        "adar.K": {"integer": [1, 8]},
        "optimizer.lr": {"loguniform": [1e-3, 1e-2]},
        "loss.temperature": {"quantized": [0.1, 0.2, 0.1]},
        "ahns.beta": {"uniform": [0.1, 1], "when": when},
    }
    message = refusal(space, parameters)
    assert message.startswith("file: parameters.ahns.beta.when.")
    assert says in message


def test_conditions_that_go_in_a_circle():
    names = ["adar.K", "adar.M", "sampler.top"]
    parameters = {
        name: {"choice": [1, 2], "when": {other: 1}} for name, other in pairwise([*names, names[0]])
    }
    message = refusal(space, parameters)
    assert "circle" in message
    assert all(name in message for name in names)
    assert "circle" in refusal(space, {"adar.K": {"choice": [1], "when": {"adar.K": 1}}})


@pytest.mark.parametrize("kind", ["uniform", "loguniform"])
def test_a_grid_has_no_values_of_a_continuous_range(kind):
    message = refusal(space, {"adar.beta": {kind: [0.5, 0.9]}}, search={"algorithm": "grid"})
    assert message.startswith(f"file: parameters.adar.beta: a grid has no values of {kind}; use quantized")


@pytest.mark.parametrize("name", ["model.dim", "model.layers", "srns.memory"])
def test_a_population_keeps_its_weights(name):
    message = refusal(space, {name: {"choice": [1, 2]}}, scheduler={"name": "pbt"})
    assert message.startswith(f"file: parameters.{name}: ")
    assert "pbt" in message


def test_a_population_has_no_conditions():
    parameters = {"adar.K": {"choice": [1, 2]}, "adar.beta": {"uniform": [0.5, 0.9], "when": {"adar.K": 1}}}
    assert "parameters.adar.beta: has a condition" in refusal(space, parameters, scheduler={"name": "pbt"})


# Refusals of a space together with settings


def check_refusal(a_space: Space, *settings: str) -> str:
    return refusal(a_space.check, settings)


def test_a_parameter_is_searched_or_set():
    message = check_refusal(space(), "train.epochs=9", "adar.beta=0.8")
    assert message.startswith("--set adar.beta=0.8: adar.beta is searched")
    space().check(["adar.gamma=0.5", "train.epochs=9"])


def test_settings_are_checked():
    assert "did you mean adar.beta?" in check_refusal(space(), "adar.bta=0.8")
    assert "section.key=value" in check_refusal(space(), "adar.beta")
    assert check_refusal(space(), "model.dim=0").startswith("--set model.dim=0: model.dim")
    assert check_refusal(space(base={"model": {"dim": 0}})).startswith("base: model.dim")
    assert "--set train.metric=ndcg@10" in check_refusal(space(), "train.metric=ndcg@10")
    space(metric="recall@3").check(["train.metric=recall@3"])


@pytest.mark.parametrize(
    ("parameters", "settings", "says"),
    [
        ({"sampler.name": {"choice": ["adar", "all"]}}, ["loss.name=bpr"], "cross_entropy alone"),
        (
            {"loss.name": {"choice": ["bpr", "cross_entropy"]}, "sampler.name": {"choice": ["dns", "adar"]}},
            [],
            "cross_entropy takes all items",
        ),
        ({"model.name": {"choice": ["mf", "lightgcn"]}}, ["optimizer.name=sparse_adam"], "sparse_adam"),
        ({"model.dim": {"choice": [8, 9]}}, ["model.name=sasrec"], "no multiple of model.heads"),
        ({"sampler.top": {"integer": [1, 17]}}, [], "sampler.top 17 is more than sampler.candidates 16"),
    ],
)
def test_configurations_that_contradict_themselves(parameters, settings, says):
    assert says in check_refusal(space({**BETA, **parameters}), *settings)


def test_a_contradiction_is_found_among_many_parameters():
    """More combinations than are tried: those of names are all tried, others at random."""
    many = {
        name: {"choice": [1, 2, 3, 4, 5]} for name in ("adar.K", "adar.M", "sampler.negatives", "dens.warmup")
    }
    many |= {
        name: {"uniform": [0.1, 0.9]} for name in ("adar.beta", "ahns.beta", "model.noise", "dens.gamma")
    }
    space(many).check()
    names = {
        "model.name": {"choice": ["neumf", "gru4rec", "mf", "lightgcn"]},
        "loss.name": {"choice": ["bpr", "bce", "cross_entropy"]},
        "sampler.name": {"choice": ["adar", "dns"]},
    }
    assert "cross_entropy takes all items" in check_refusal(space({**many, **names}))
    top = {"sampler.top": {"integer": [1, 4]}, "sampler.candidates": {"choice": [2, 8, 16]}}
    assert "sampler.top 4 is more" in check_refusal(space({**many, **top}))


def test_a_contradiction_is_found_behind_a_condition_on_a_number():
    parameters = {"adar.K": {"integer": [1, 3]}, "sampler.top": {"choice": [99], "when": {"adar.K": 2}}}
    assert "sampler.top 99" in check_refusal(space(parameters))


def test_a_grid_is_tried_between_its_ends():
    parameters = {"model.dim": {"integer": [8, 10]}, "model.name": {"choice": ["sasrec"]}}
    grid = space(parameters, search={"algorithm": "grid"})
    assert "model.dim 9 is no multiple" in check_refusal(grid)


def test_a_grid_that_nobody_could_wait_for():
    parameters = {name: {"integer": [1, 1000]} for name in ("adar.K", "adar.M", "dens.warmup", "srns.memory")}
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
    space(scheduler=scheduler).check(["train.epochs=5"])


# For Ray Tune


MUTABLE = {
    "adar.beta": {"uniform": [0.5, 0.95]},
    "optimizer.lr": {"loguniform": [1e-4, 1e-2]},
    "loss.temperature": {"quantized": [0.1, 0.4, 0.1]},
    "adar.K": {"integer": [1, 4]},
    "adar.pool": {"integer": [16, 512], "log": True},
    "adar.M": {"choice": [1, 4, 16]},
}
BOUNDS = {"adar.beta": (0.5, 0.95), "optimizer.lr": (1e-4, 1e-2), "adar.pool": (16, 512)}


def test_mutations_are_lists_of_steps_and_ranges():
    from ray.tune.search.sample import Float, Integer

    mutations = space(MUTABLE, scheduler={"name": "pbt"}).mutations()
    assert {name: of for name, of in mutations.items() if isinstance(of, list)} == {
        "loss.temperature": [0.1, 0.2, 0.3, 0.4],
        "adar.K": [1, 2, 3, 4],
        "adar.M": [1, 4, 16],
    }
    for name, kind in (("adar.beta", Float), ("optimizer.lr", Float), ("adar.pool", Integer)):
        low, high = BOUNDS[name]
        assert isinstance(mutations[name], kind)
        assert all(low <= mutations[name].sample() <= high for _ in range(50))
    lr = [mutations["optimizer.lr"].sample() for _ in range(300)]
    assert stats.kstest(lr, stats.loguniform(1e-4, 1e-2).cdf).pvalue > 1e-4


def test_what_a_population_makes_of_values_is_moved_back_into_range():
    """Ray Tune multiplies by 0.8 or 1.2 and knows no bounds."""
    from ray.tune.schedulers.pbt import _explore

    a_space = space(MUTABLE, scheduler={"name": "pbt"})
    values = {"adar.beta": 0.9, "optimizer.lr": 1e-2, "loss.temperature": 0.4, "adar.K": 4, "adar.M": 16}
    values["adar.pool"] = 500
    left = 0
    for _ in range(50):
        explored = _explore(values, a_space.mutations(), 0.1, (0.8, 1.2), None)[0]
        moved = a_space.within(explored)
        left += moved != explored
        assert all(low <= moved[name] <= high for name, (low, high) in BOUNDS.items())
        assert all(type(moved[name]) is type(explored[name]) for name in ("adar.K", "adar.M"))
        a_space.config(moved)
    assert left


def test_reading_a_space_loads_neither_ray_nor_torch():
    tree = ast.parse(Path(spaces.__file__).read_text())
    imported = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
    names = {
        name for node in imported for name in [getattr(node, "module", None), *(a.name for a in node.names)]
    }
    assert not {str(name).split(".")[0] for name in names} & {"ray", "torch", "optuna"}
