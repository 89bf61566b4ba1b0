"""The report of a search: what it says against sums done by hand, and that nothing makes it fail."""

import math
import random
import re

import numpy as np
import optuna
import plotly.graph_objects
import pytest
import torch

from adar_ray.adar.sampler import AdarSettings
from adar_ray.config import Config, load_config
from adar_ray.tuning.folder import REPORT, RESULT, MetricOverSeeds, WinnerResult
from adar_ray.tuning.report.contents import BEST, best_so_far
from adar_ray.tuning.report.importance import FEWEST, parameter_importance
from adar_ray.tuning.report.score_aware import score_aware_lines
from adar_ray.tuning.report.search_report import search_report, write_report
from adar_ray.tuning.trial import Trial
from tests.reporting.made import Page, made_up_run, made_up_search, trial
from tests.tuning.spaces import a_search


def report(trials: list[Trial], fixed: Config | None = None) -> str:
    return search_report("s", "m", "max", trials, fixed or Config())


def told_trials(page: str) -> set[str]:
    """The trials whose score-aware functions are drawn."""
    figure = Page(page).figures()["score-aware functions of the best trials"]
    return set(re.findall(r"trial (\d+)", str(figure["data"])))


@pytest.fixture(scope="module")
def search() -> list[Trial]:
    return made_up_search()


@pytest.fixture(scope="module")
def page(search) -> str:
    return search_report("A search", "ndcg@20", "max", search, Config())


def test_the_page_is_whole_and_needs_nothing_else(page):
    parsed = Page(page)
    assert parsed.nested
    assert parsed.texts("h1") == ["A search"]
    assert parsed.texts("h2") == [
        f"The {BEST} best trials",
        "Trials that failed",
        "The course of the search",
        "Learning curves",
        "Each parameter",
        "Importance of the parameters",
        "Score-aware functions",
    ]
    tags = [element["tag"] for element in parsed.elements]
    assert not {"link", "img", "iframe", "object"} & {*tags}
    assert tags.count("script") == len(parsed.figures()) + 2  # the library, once, and what starts it
    attributes = [pair for element in parsed.elements for pair in element["attributes"].items()]
    assert not [name for name, _ in attributes if name in ("src", "href") or name.startswith("on")]
    assert "url(http" not in page
    assert "@import" not in page
    assert "width=device-width" in page


def test_every_figure_is_there_and_plotly_knows_all_its_words(page):
    figures = Page(page).figures()
    assert list(figures) == [
        "best ndcg@20 over time",
        "ndcg@20 over epochs",
        "ndcg@20 over adar.beta",
        "ndcg@20 over optimizer.lr",
        "ndcg@20 over loss.name",
        "ndcg@20 over sampled_softmax.temperature",
        "importance of each parameter",
        "score-aware functions of the best trials",
    ]
    for content in figures.values():
        plotly.graph_objects.Figure(content)  # raises ValueError


def test_every_point_tells_its_trial(search, page):
    figures, by_name = Page(page).figures(), {t.name: t for t in search}
    places = {
        "best ndcg@20 over time": lambda t: t.end,  # in seconds, of a search of less than two minutes
        "ndcg@20 over adar.beta": lambda t: t.values["adar.beta"],
    }
    for name, place in places.items():
        told = set()
        for trace in figures[name]["data"]:
            for text, x, y in zip(trace.get("hovertext", []), trace["x"], trace["y"], strict=False):
                t = by_name[re.match(r"trial (\d+): ", text)[1]]
                beta = f"adar.beta {t.values['adar.beta']:.4g}"
                assert text.startswith(f"trial {t.name}: ndcg@20 {t.value:#.4g}<br>{beta}")
                assert (x, y) == (place(t), t.value)
                told.add(t.name)
        # What failed after a value is part of the search's course, but no parameter's.
        failed = {"00003"} if name.endswith("time") else {"00003", "00005"}
        assert told == by_name.keys() - failed
    curves = figures["ndcg@20 over epochs"]["data"]
    told = [
        point for trace in curves for point in zip(trace["hovertext"], trace["x"], trace["y"], strict=True)
    ]
    assert {
        (f"trial {t.name}: ndcg@20 {value:#.4g}<br>epoch {epoch}", epoch, value)
        for t in search
        for epoch, value in enumerate(t.curve, 1)
    } == {point for point in told if point[0]}


def test_the_summary_and_the_tables_are_those_of_the_trials(search, page):
    parsed = Page(page)
    whole = [t for t in search if t.status != "failed"]
    best = sorted(whole, key=lambda t: -t.value)[:BEST]
    finished, stopped = (sum(t.status == s for t in search) for s in ("finished", "stopped"))
    summary = parsed.texts("p")[0]
    assert summary.startswith(
        f"24 trials: {finished} finished, {stopped} stopped early, 2 failed and 1 interrupted. Trial "
        f"{best[0].name} has the best validation ndcg@20: {best[0].value:#.4g}."
    )
    end = max(t.started + t.seconds for t in search)
    assert f"took {int(end // 60)} min {int(end % 60)} s" in summary
    cells = parsed.texts("td")
    width = parsed.texts("th").index("ended") + 1
    rows = [cells[width * i : width * (i + 1)] for i in range(BEST)]
    assert [row[:3] for row in rows] == [
        [str(rank), t.name, f"{t.value:#.4g}"] for rank, t in enumerate(best, 1)
    ]
    assert [row[3] for row in rows] == [f"{t.values['adar.beta']:.4g}" for t in best]
    column = parsed.texts("th").index("sampled_softmax.temperature")
    assert [row[column] == "–" for row in rows] == [
        "sampled_softmax.temperature" not in t.values for t in best
    ]
    assert cells[width * BEST :] == ["00003", "3", "no space left on device", "00005", "3", "no message"]


def test_what_users_wrote_is_text():
    evil = "<script>alert('$x$')</script> & \x1b[31m \ud800"
    trials = [trial(i, i / 10, **{"model.<b>name": evil if i % 2 else "mf"}) for i in range(10)]
    trials.append(trial(10, None, "failed").model_copy(update={"error": evil}))
    page = search_report(evil, "<i>m@2", "max", trials, Config())
    page.encode()
    parsed = Page(page)
    assert parsed.nested
    assert not {"b", "i"} & {element["tag"] for element in parsed.elements}
    assert not [text for text in parsed.texts("script") if "alert(" in text and "<" in text]
    seen = "<script>alert('$x$')</script> & [31m"
    assert parsed.texts("h1") == [seen]
    assert parsed.texts("td").count(seen) == 1 + 5
    # Plotly reads tags in its texts.
    plot = parsed.figures()["<i>m@2 over model.<b>name"]
    assert plot["layout"]["xaxis"]["title"]["text"] == "model.&lt;b&gt;name"
    assert plot["layout"]["xaxis"]["ticktext"] == ["&lt;script&gt;alert...", "mf"]
    assert all("<b>" not in text and "<script" not in text for text in plot["data"][0]["hovertext"])


def test_logarithmic_axes_and_categories(page):
    axes = {name: figure["layout"]["xaxis"] for name, figure in Page(page).figures().items()}
    assert axes["ndcg@20 over optimizer.lr"]["type"] == "log"
    assert axes["ndcg@20 over optimizer.lr"]["tickvals"] == [0.0001, 0.001, 0.01, 0.1]
    assert axes["ndcg@20 over loss.name"]["ticktext"] == ["bpr", "sampled_softmax"]
    assert "type" not in axes["ndcg@20 over adar.beta"]
    trials = [trial(i, i, **{"model.embedding_dim": 16 * 4 ** (i % 4)}) for i in range(5)]
    sizes = Page(report(trials)).figures()["m over model.embedding_dim"]["layout"]["xaxis"]
    assert sizes["tickvals"] == [16, 64, 256, 1024]


def test_the_winner_on_test():
    test = {
        "recall@10": MetricOverSeeds(mean=0.25, deviation=0.0125),
        "recall@20": MetricOverSeeds(mean=0.5, deviation=0.01),
        "ndcg@10": MetricOverSeeds(mean=0.125, deviation=None),
    }
    winner = WinnerResult(trial="00002", valid={"m": 1}, seeds=2, test=test)
    parsed = Page(search_report("s", "m", "max", [trial(2, 1)], Config(), winner=winner))
    assert parsed.texts("h2")[0] == "The winner on test"
    assert "of trial 00002, retrained and measured on test: means and standard" in parsed.texts("p")[1]
    assert parsed.texts("th")[:3] == ["metric", "@10", "@20"]
    cells = [cell.replace("\N{NO-BREAK SPACE}", " ") for cell in parsed.texts("td")[:6]]
    assert cells == ["recall", "0.2500 ± 0.013", "0.5000 ± 0.01", "ndcg", "0.1250", ""]


def test_how_the_winner_trained_and_what_it_recommends(tmp_path):
    run = made_up_run(tmp_path / "winner" / "seed-0", "sampler.name=adar", evaluated=[0.1, 0.4])
    parsed = Page(search_report("s", "m", "max", [trial(2, 1)], Config(), run=run))
    assert parsed.nested
    assert "On test the model reaches 0.2500 in ndcg@20, and popularity 0.1300, +92.3%." in " ".join(
        parsed.texts("p")
    )
    headings = parsed.texts("h2")
    shown = headings[headings.index("The winner's run with seed 0") :]
    assert "ndcg@20 by a user's number of items in training" in shown
    assert "Hardness of the negatives" in shown
    assert "Timesteps of the negatives" in shown
    assert shown[-1] == "winner: what is recommended in test"


@pytest.mark.parametrize("mode", ["max", "min"])
def test_the_best_so_far(search, mode):
    judged = [t for t in search if t.status != "failed"]
    ends = sorted({t.started + t.seconds for t in judged})
    assert len(ends) < len(judged)  # some trials end at the same time
    choose = max if mode == "max" else min
    expected = [(end, choose(t.value for t in judged if t.started + t.seconds <= end)) for end in ends]
    assert best_so_far(search, mode) == expected


@pytest.mark.parametrize(
    ("name", "worth"),
    [
        ("a.linear", lambda x: -abs(x - 0.7)),
        ("a.lr", lambda x: -abs(math.log10(x) + 2)),
        ("a.whole", lambda x: x),
        ("a.choice", lambda x: x == "b"),
        ("a.flag", lambda x: x),
    ],
)
@pytest.mark.parametrize("mode", ["max", "min"])
def test_the_parameter_that_alone_matters_is_the_important_one(name, worth, mode):
    draw = random.Random(1)
    trials = []
    for number in range(120):
        parameters = {
            "a.linear": draw.random(),
            "a.lr": 10 ** draw.uniform(-4, -1),
            "a.whole": draw.randint(1, 8),
            "a.choice": draw.choice(["a", "b", "c"]),
            "a.flag": draw.random() < 0.5,
        }
        value = worth(parameters[name]) + draw.gauss(0, 0.05)
        trials.append(trial(number, value if mode == "max" else -value, **parameters))
    found = parameter_importance(trials, mode).shares
    assert set(found) == {"a.linear", "a.lr", "a.whole", "a.choice", "a.flag"}
    assert sum(found.values()) == pytest.approx(1)
    assert list(found.values()) == sorted(found.values(), reverse=True)
    assert next(iter(found)) == name
    assert found[name] > 0.5


@pytest.mark.parametrize("seed", range(5))
def test_choices_among_numbers_far_apart_are_no_more_important_than_they_are(seed):
    draw = random.Random(seed)
    trials = []
    for number in range(30):
        parameters = {
            "a.M": draw.choice([1, 2, 4, 8, 16, 32]),
            "a.pool": draw.choice([64, 128, 256, 256, 512]),  # a search favors one of them by chance
            "a.linear": draw.random(),
        }
        value = -abs(math.log2(parameters["a.M"]) - 2.5) + draw.gauss(0, 0.3)
        trials.append(trial(number, value, **parameters))
    assert next(iter(parameter_importance(trials, "max").shares)) == "a.M"


def test_the_report_that_a_search_leaves_behind(tmp_path):
    search = a_search(tmp_path, seconds=5400.0, settings=("train.epochs=2",))
    trials = [trial(0, 0.5, **{"adar.beta": 0.7})]
    write_report(search, trials)
    before = Page(search.folder.read_bytes(REPORT).decode())
    assert before.texts("h1") == ["search"]
    assert before.texts("h2")[0] == "The best trial"
    cells = before.texts("td")[-10:]
    facts = dict(zip(cells[::2], cells[1::2], strict=True))
    assert facts["dataset"] == "data"
    assert f"torch {torch.__version__}" in facts["versions"]
    config = f"{tmp_path}/search/best.yaml"
    assert facts["train the best"] == f"adar-ray train --data data --config {config} --out RUN"
    words, _, rest = facts["search again"].partition(", ")
    assert words == (
        "adar-ray tune --data data --space SPACE.yaml --out SEARCH --trials 20 --time 5400 "
        "--workers-per-trial 1 --retries 0 --seeds 0 --set train.epochs=2"
    )
    assert rest == "with what search.yaml has under `space`"
    test = {"recall@10": MetricOverSeeds(mean=0.25, deviation=None)}
    search.folder.write_record(RESULT, WinnerResult(trial="00000", valid={"m": 1}, seeds=1, test=test))
    write_report(search, trials)
    after = Page(search.folder.read_bytes(REPORT).decode())
    assert after.texts("h2")[0] == "The winner on test"
    assert after.texts("td")[:2] == ["recall", "0.2500"]


def test_the_importance_of_parameters_that_only_some_trials_have():
    draw = random.Random(2)
    trials = []
    for number in range(60):
        parameters = {"a.noise": draw.random(), "a.same": 3}
        if number % 2:
            parameters["a.depth"] = draw.random()
        if number < FEWEST - 1:
            parameters["a.rare"] = number
        value = -abs(parameters["a.depth"] - 0.5) if number % 2 else -0.25
        trials.append(trial(number, value, **parameters))
    found = parameter_importance(trials, "max")
    assert list(found.shares) == ["a.depth", "a.noise"]
    assert found.shares["a.depth"] > 0.8
    assert found.left_out == {
        "a.same": "it had only one value",
        "a.rare": "too few trials have it (7)",
    }
    left_out = Page(report(trials)).texts("p")[-1]
    assert left_out == "Left out: a.same: it had only one value. a.rare: too few trials have it (7)."


def test_the_score_aware_functions_are_the_closed_form():
    settings = [
        {"adar.beta": 0.5, "adar.gamma": 0.5},
        {"adar.gamma": 0.75},
        {"adar.beta": 0.8},
    ]
    settings += [{"sampler.name": "uniform", "adar.beta": 0.1}, {"sampler.name": "adar", "adar.beta": 0.3}]
    trials = [trial(i, 1 - i / 10, **setting) for i, setting in enumerate(settings)]
    default = AdarSettings()
    expected = [(0.5, 0.5), (default.beta, 0.75), (0.8, default.gamma), (0.3, default.gamma)]
    lines = score_aware_lines(trials, "max", Config(), points=31)
    assert [t.number for t, _, _ in lines] == [0, 1, 2, 4]
    for (_, r, z), (beta, gamma) in zip(lines, expected, strict=True):
        assert r == pytest.approx(np.linspace(0, 3, 31))
        assert z[0] == 0
        for i in (1, 5, 10, 20, 30):  # r = 0.1, 0.5, 1, 2, 3
            assert z[i] == pytest.approx(min(r[i], beta * r[i] ** gamma))
    assert told_trials(report(trials)) == {"00000", "00001", "00002", "00004"}


def test_the_score_aware_functions_have_what_all_trials_had_in_common():
    fixed = load_config(settings=["adar.beta=0.7", "sampler.name=dns"])
    settings = [{"sampler.name": "adar", "adar.gamma": 0.5}, {"adar.gamma": 0.6}]
    trials = [trial(i, 1 - i / 10, **setting) for i, setting in enumerate(settings)]
    ((best, _, z),) = score_aware_lines(trials, "max", fixed)
    assert best is trials[0]
    assert z[-1] == pytest.approx(0.7 * 3**0.5)
    assert told_trials(report(trials, fixed)) == {"00000"}


def test_without_parameters_of_adar_there_are_no_score_aware_functions():
    trials = [trial(i, i / 10, **{"optimizer.lr": 0.1 * i}) for i in range(3)]
    assert score_aware_lines(trials, "max", Config()) == []
    assert "Score-aware" not in report(trials)


@pytest.mark.parametrize(
    ("trials", "says"),
    [
        ([], "No trial was started."),
        (
            [trial(0, None, "failed")],
            "1 trial: 0 finished, 0 stopped early and 1 failed. No trial has",
        ),
        ([trial(0, math.nan, **{"adar.beta": 0.5})], "No trial has a value"),
        ([trial(0, 0.5, **{"adar.beta": 0.5, "a.b": "x"})], "The best trial"),
        ([trial(i, 0.5, **{"a.b": i}) for i in range(9)], "All trials have the same value"),
        ([trial(i, i, **{"a.b": 1}) for i in range(9)], "No parameter can be shown to matter"),
        ([trial(i, i) for i in range(9)], "No parameter can be shown to matter"),
        ([trial(i, i, **{"a.b": i}) for i in range(FEWEST - 1)], "this search has 7"),
        ([trial(i, -1e99 * i, **{"a.b": 10.0**-i}) for i in range(9)], "a.b"),
        ([trial(i, i, "running", **{"a.b": [True, 1, "1", 1.5][i]}) for i in range(4)], "4 running"),
    ],
)
def test_whatever_the_trials_there_is_a_page(trials, says):
    page = search_report("A search", "m", "min", trials, Config())
    assert Page(page).nested
    assert says in page
    for content in Page(page).figures().values():
        plotly.graph_objects.Figure(content)
    parameter_importance(trials, "max")
    best_so_far(trials, "max")


def test_the_same_search_gives_the_same_bytes_and_changes_nothing_around_it():
    verbosity = optuna.logging.get_verbosity()
    trials = [trial(i, i % 5, **{"adar.beta": 0.5 + i / 20}) for i in range(9)]
    first, again = (report(trials) for _ in range(2))
    assert first == again
    assert optuna.logging.get_verbosity() == verbosity
