"""Write the pages in `benchmarks/results` from the JSON next to them.

python -m benchmarks.pages
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from adar_ray.significance import holm
from adar_ray.storage import Folder
from benchmarks import recbole_models, record
from benchmarks.arguments import argument_parser
from benchmarks.chaos.life import Fault
from benchmarks.chaos.report import rows as rows_of_faults
from benchmarks.quality.cells import mean_and_deviation
from benchmarks.quality.defaults import NAME as DEFAULTS
from benchmarks.quality.splits import NAME as SPLITS
from benchmarks.quality.tables import TABLES, Table, cell_name, result_name
from benchmarks.quality.times import NAME as TIMES
from benchmarks.record import Environment, Result
from benchmarks.speed import targets

SAMPLERS = {
    "uniform": "uniform",
    "popularity": "popularity",
    "dns": "DNS",
    "mixgcf": "MixGCF",
    "ahns": "AHNS",
    "dens": "DENS",
    "adar": "ADAR",
}
MODELS = {"mf": "MF", "lightgcn": "LightGCN", "sasrec": "SASRec", "gru4rec": "GRU4Rec"}
DATA = {
    "phone": "Amazon phone",
    "beauty": "Amazon Beauty",
    "ml-1m": "MovieLens 1M",
    "ml-100k": "MovieLens 100K",
    "gowalla": "Gowalla",
    "video-games": "Amazon Video Games",
    "video-games-by-time": "Amazon Video Games, by time",
}
RECOMMENDERS = {
    "popularity": "popularity",
    "itemknn": "ItemKNN, cosine, 100 neighbors",
    "ease": "EASE^R, L2 250",
    "als": "ALS, alpha 1, L2 0.01",
    "als-10": "ALS, alpha 10, L2 0.1",
    "bpr": "MF, BPR, uniform negatives",
    "bpr-adar": "MF, BPR, ADAR",
    "mf-uniform": "MF, softmax of 512 uniform negatives",
    "mf": "MF, softmax of 512, ADAR",
    "uniform-512": "LightGCN, softmax of 512 uniform negatives",
    "adar-512": "LightGCN, softmax of 512, ADAR",
    "uniform": "LightGCN, softmax of 2,048 uniform negatives",
    "adar": "the defaults: LightGCN, softmax of 2,048, ADAR",
}
TITLES = {
    "fair_pairwise": "BPR, data split anew, four negatives for all",
    "fair_softmax": "Sampled softmax, data split anew",
    "pairwise": "BPR",
    "softmax": "Sampled softmax, with and without ADAR's negatives",
    "sequential": "Sequential models, BCE",
    "sequential_softmax": "Sequential models, sampled softmax, with and without ADAR's negatives",
}


def main() -> None:
    argument_parser(__doc__).parse_args()
    for name, text in pages().items():
        Folder.at(record.RESULTS).write_bytes(name, text.encode())


def pages() -> dict[str, str]:
    """The text of every page, by file name."""
    return {
        "quality.md": _quality(),
        "defaults.md": _defaults(),
        "ml100k.md": _ml100k(),
        "parity_recbole.md": _parity_recbole(),
        "recbole_models.md": _recbole_models(),
        "speed.md": _speed(),
        "chaos.md": _chaos(),
    }


def _result(name: str) -> Result:
    result = record.read(name)
    if result is None:
        raise SystemExit(f"benchmarks/results/{name}.json is missing; run its benchmark first")
    return result


def _table(rows: Iterable[Mapping[str, str]]) -> list[str]:
    """A Markdown table; the keys are its head."""
    rows = list(rows)
    lines = [list(rows[0]), ["---"] * len(rows[0]), *(list(row.values()) for row in rows)]
    return [f"| {' | '.join(line)} |" for line in lines]


def _where(environment: Environment) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in environment.versions.items())
    return f"{environment.machine}; {versions}"


def _text(lines: Sequence[str]) -> str:
    return "\n".join(lines) + "\n"


def _quality() -> str:
    times = _result(TIMES)
    lines = [
        "# Quality of ADAR and other samplers, all tuned alike",
        "",
        "Test figures, all items ranked. `python -m benchmarks.pages` makes this page from the JSON files",
        "next to it, which also have the figure of every trial. `benchmarks/quality/cells.py` says how each",
        "cell is tuned. ADAR's gain is over the row's sampler, in the last metric; p is that of a paired",
        "t-test over users, with Holm's correction for all tests under one heading. Seconds are the training",
        "time of an epoch with the chosen settings, on one thread.",
        f"Timed on {_where(times.environment)}.",
    ]
    for name, title in TITLES.items():
        table, result = TABLES[name], _result(result_name(name))
        lines += ["", f"## {title}", *(line for note in result.notes for line in ("", note))]
        corrected = _corrected(result)
        for model, data in table.cells():
            cell = cell_name(model, data)
            if cell in result.figures:
                lines += ["", f"### {MODELS[model]}, {DATA[data]}", ""]
                seconds = times.figures.get(name, {}).get(cell, {})
                lines += _cell(result.figures[cell], table, seconds, corrected.get(cell, {}))
    return _text([*lines, "", "## Where validation is unlike test", "", *_splits()])


def _corrected(result: Result) -> dict[str, dict[str, float]]:
    """The p of ADAR's gain by cell and sampler, corrected for all of a table's."""
    tests = [
        (cell, sampler, gain["p"])
        for cell, figures in result.figures.items()
        for sampler, gain in figures["adar_gain"].items()
    ]
    corrected: dict[str, dict[str, float]] = {}
    for (cell, sampler, _), p in zip(tests, holm([p for *_, p in tests]), strict=True):
        corrected.setdefault(cell, {})[sampler] = p
    return corrected


def _splits() -> list[str]:
    lines = [
        "Validation is a tenth of training, drawn at random. A published test may have been drawn otherwise,",
        "and then what is best on validation need not be best on test. Popular items are the most popular",
        "ones that make up a tenth of all interactions.",
        "",
    ]
    rows = []
    for label, splits in _result(SPLITS).figures.items():
        name, _, kind = label.partition("@")
        test = splits["test"]
        rows.append(
            {
                "data": DATA[name],
                "split": kind,
                **{
                    f"mean popularity, {split}": f"{figures['popularity']:.1f}"
                    for split, figures in splits.items()
                },
                "in test, of popular items": f"{test['of_popular']:.1%}",
                "of all others": f"{test['of_others']:.1%}",
            }
        )
    return [*lines, *_table(rows)]


def _defaults() -> str:
    result = _result(DEFAULTS)
    lines = [
        "# The defaults against the usual",
        "",
        "What `adar-ray train` does without options, and recommenders at their usual settings. All",
        "interactions of each source are split anew, at random per user or by time, so that validation and",
        "test are alike. All items are ranked; mean ± standard deviation where there are several seeds.",
        "`python -m benchmarks.pages` makes this page from the JSON next to it.",
        f"Measured on {_where(result.environment)}.",
        *(line for note in result.notes for line in ("", note)),
    ]
    for data, recommenders in result.figures.items():
        rows = [
            {
                "recommender": label,
                **{
                    f"{metric}, {split}": _spread(run[split][metric] for run in recommenders[name])
                    for split in ("valid", "test")
                    for metric in recommenders[name][0][split]
                },
            }
            for name, label in RECOMMENDERS.items()
            if name in recommenders
        ]
        left_out = [label for name, label in RECOMMENDERS.items() if name not in recommenders]
        lines += ["", f"## {DATA[data]}", "", *_table(rows)]
        lines += ["", f"Not measured: {'; '.join(left_out)}."] if left_out else []
    lines += [
        "",
        "## Powers of length",
        "",
        "NDCG@20 on validation of models with a softmax of 512 negatives and ADAR, if they rank by",
    ]
    lines += ["the cosine times the length of an item's vector to some power (`model.length_power`).", ""]
    rows = [
        {
            "data": DATA[data],
            "model": model,
            **{power: _spread(run["by_power"][power] for run in runs) for power in runs[0]["by_power"]},
        }
        for data, recommenders in result.figures.items()
        for name, model in (("adar-512", "LightGCN"), ("mf", "MF"))
        if (runs := recommenders.get(name))
    ]
    return _text([*lines, *_table(rows)])


def _spread(values: Iterable[float]) -> str:
    return mean_and_deviation([*values])


def _cell(figures: dict[str, Any], table: Table, seconds: dict[str, float], p: dict[str, float]) -> list[str]:
    seeds, share, missing = figures["seeds"], figures["defaults_share"], figures["missing"]
    tested = "the best trial's run reads test" if seeds is None else f"test seeds: {seeds}"
    facts = [f"Trials: {_trials(figures['samplers'])}; {tested}."]
    if share is not None:
        facts.append(f"ADAR's untuned defaults retain {share:.0%} of its tuned gain over uniform negatives.")
    machines = sorted({environment["machine"] for environment in figures["environments"]})
    facts.append(f"Run on {' and '.join(machines)}.")
    if missing:
        facts.append(f"Not run yet: {', '.join(SAMPLERS[sampler] for sampler in missing)}.")
    rows = []
    for sampler, row in figures["samplers"].items():
        gain = figures["adar_gain"].get(sampler)
        chosen = ", ".join(
            f"`{key}` {value if isinstance(value, int) else f'{value:.3g}'}"
            for key, value in row["chosen"].items()
            if key != "sampler.name"
        )
        rows.append(
            {
                "negatives": SAMPLERS[sampler],
                "validation": f"{row[f'valid_{table.metrics[-1]}']:.4f}",
                **{metric: row[metric] for metric in table.metrics},
                "ADAR's gain": gain["gain"] if gain else "",
                "p": f"{p[sampler]:.2g}" if gain else "",
                "seconds": f"{seconds[sampler]:.3g}" if sampler in seconds else "",
                "chosen": chosen,
            }
        )
    return [" ".join(facts), "", *_table(rows)]


def _trials(samplers: dict[str, dict[str, Any]]) -> str:
    """How many each sampler had, those with as many named together."""
    with_as_many: dict[int, list[str]] = {}
    for sampler, row in samplers.items():
        with_as_many.setdefault(len(row["trial_values"]), []).append(SAMPLERS[sampler])
    if len(with_as_many) == 1:
        return f"{min(with_as_many)} each"
    return "; ".join(f"{count} ({', '.join(names)})" for count, names in sorted(with_as_many.items()))


def _ml100k() -> str:
    result = _result("ml100k")
    rows = []
    for sampler, figures in result.figures.items():
        metrics = {
            name: f"{value['mean']:.4f} ± {value['deviation']:.4f}"
            for name, value in figures.items()
            if isinstance(value, dict)
        }
        rows.append(
            {
                "negatives": SAMPLERS[sampler],
                **metrics,
                "best epoch": f"{figures['best_epoch']:.2f}",
                "seconds per epoch": f"{figures['epoch_seconds']:.2f}",
            }
        )
    return _text(
        [
            "# MF on MovieLens 100K, uniform negatives and ADAR",
            "",
            *_table(rows),
            "",
            f"Test figures, mean ± standard deviation over {len(result.seeds)} seeds on one split. The "
            "settings are those of `examples/demo.yaml`, chosen on validation.",
            "",
            f"{_where(result.environment)}; one thread. Command: `{result.command}`.",
        ]
    )


def _parity_recbole() -> str:
    result = _result("parity_recbole")
    rows = [
        {
            "model": row["model"],
            "metric": row["metric"],
            "RecBole": row["recbole"],
            "ours": row["ours"],
            "difference in deviations": str(row["difference"]),
            "seeds": row["seeds"],
        }
        for row in result.figures["rows"]
    ]
    return _text(
        [
            "# Our models and RecBole's on MovieLens 100K",
            "",
            *_table(rows),
            "",
            "Test figures, mean ± standard deviation over seeds, on one split, at the best epoch on",
            "validation. All items are ranked except those of training and validation. The difference is",
            "ours minus RecBole's, in units of the larger deviation.",
            "",
            "Both sides use Adam and these settings:",
            "",
            "- BPR (learning rate 1e-3) and LightGCN (2 layers, L2 1e-5, learning rate 5e-3): d = 64,",
            "  batches of 2,048, one uniform negative, up to 200 epochs, stopped after 11 without",
            "  improvement.",
            "- GRU4Rec (hidden size 64) and SASRec (1 layer, 2 heads): d = 32, dropout 0.3, learning rate",
            "  3e-3, full cross-entropy, every prefix a row, histories of at most 10 items, batches of",
            "  2,048, up to 15 epochs, stopped after 4 without improvement.",
            "",
            "The sides differ in their random numbers, in RecBole's padding item in the softmax, and in",
            "LightGCN's initialization: standard deviation 0.1 here, Xavier in RecBole.",
            "",
            f"{_where(result.environment)}; one thread.",
            f"Command: `{result.command}`, after `python -m benchmarks.parity.recbole_reference`.",
        ]
    )


def _chaos() -> str:
    result = _result("chaos")
    faults = [Fault(**fault) for fault in result.figures["faults"]]
    lost = [f"- {each.process}, {each.kind} ({each.moment}): {each.lost}" for each in faults if each.lost]
    left_out = [f"- {kind}" for kind in result.figures["left_out"]]
    return _text(
        [
            "# What was broken, and whether anything was lost",
            "",
            "`python -m benchmarks.chaos` breaks processes, machines, networks, disks and files at random "
            "moments of small trainings, searches, preparations and jobs. After each fault the command goes "
            "on, or is started again with what its message names. A fault is lost if the result is not, bit "
            "for bit, that of an undisturbed run, if a command that fails says anything but one line, or if "
            "a file or a process is left behind. Seconds are what a fault cost, the median and the most. "
            "`chaos.json` lists every fault.",
            "",
            *_table(rows_of_faults(faults)),
            *(["", "## Lost", "", *lost] if lost else []),
            *(line for note in result.notes for line in ("", note)),
            *(["", "## Not possible on this machine", "", *left_out] if left_out else []),
            "",
            f"`{result.command}`; {_where(result.environment)}",
        ]
    )


def _speed() -> str:
    lines = [
        "# How fast ours is, and how fast it has to be",
        "",
        "`python -m benchmarks.pages` makes this page from the JSON files next to it, and `python -m "
        "benchmarks.speed` prints the table. A ratio is how many times as fast as the other side ours is. "
        "Both sides take turns in one run; the ratio is that of the medians, and the spread that of the "
        "rounds. A ratio of 0 says that ours never got there.",
        "",
        *_table(row.cells() for row in targets.rows()),
    ]
    gpu, growth = record.read("speed_gpu"), record.read("speed_growth")
    if gpu is not None and gpu.figures["device"] == "cuda":
        lines += ["", "## On a GPU", "", *_on_gpu(gpu.figures)]
    if growth is not None:
        lines += ["", "## As things grow", "", *_growth(growth.figures)]
    ran = [f"- {_provenance(result)}" for name in targets.results() if (result := record.read(name))]
    return _text(lines + (["", "## Where each benchmark ran", "", *ran] if ran else []))


def _provenance(result: Result) -> str:
    """The command, the machine, what the machine could do at most, and remarks."""
    facts = [f"`{result.command}`", _where(result.environment)]
    facts += [f"{name} {version}" for name, version in result.figures.get("peers", {}).items()]
    facts += [f"{name} {value:g}" for name, value in result.figures.get("ceiling", {}).items()]
    facts += [f"left out: {reason}" for reason in result.figures.get("missing", {}).values()]
    return "; ".join(facts) + "".join(f". {note.rstrip('.')}" for note in result.notes)


def _on_gpu(figures: dict[str, Any]) -> list[str]:
    """Steps with their shares of the ceiling, then other ways to run some of them."""
    steps = []
    for name, step in figures["steps"].items():
        error, ms = step.get("error", ""), step.get("ms", {})
        steps.append(
            {
                "step": name,
                "ms": f"{ms['median']:.3g}" if ms else _failed(error),
                "ms of many": f"{ms['of_many']:.3g}" if ms else "",
                "share of copy": f"{step['share_of_copy']:.1%}" if ms else "",
                "share of product": f"{step['share_of_gemm']:.1%}" if ms else "",
                "host syncs": str(step.get("host_syncs", {}).get("count", "")),
                "kernels": str(step.get("kernels", {}).get("count", "")),
                "busy ms": str(step.get("kernels", {}).get("busy_ms", "")),
            }
        )
    ways = [
        {"way": way, "step": name, "times as fast": str(found.get("ratio") or _failed(found["error"]))}
        for way, cases in figures["variants"].items()
        for name, found in cases.items()
    ]
    ranking = figures.get("ranking", {})
    facts = ", ".join(f"{name} {ranking[name]}" for name in ("ratio", "share_of_gemm") if name in ranking)
    lines = [*_table(steps), "", f"Ranking against a product and a top-k alone: {facts or ranking}."]
    return lines + (["", *_table(ways)] if ways else [])


def _failed(error: str) -> str:
    """An error without its message, which the JSON has."""
    return f"failed ({error.partition(':')[0]})" if error else ""


def _growth(figures: dict[str, Any]) -> list[str]:
    """A row per point; the other things stay at the middle."""
    rows = [
        {
            "what grows": axis,
            "to": f"{point[axis]:,}",
            "ms of a step": str(point.get("step_ms") or _failed(point["error"])),
            "s of an epoch": str(point.get("epoch_s", "")),
            "GB of the process": str(point.get("memory_gb", "")),
            "GB of weights and moments": str(point.get("state_gb", "")),
        }
        for axis, points in figures["axes"].items()
        for point in points
    ]
    middle = ", ".join(f"{name} {value:,}" for name, value in figures["middle"].items())
    return [f"Everything else stays at: {middle}.", "", *_table(rows)]


def _recbole_models() -> str:
    result = _result(recbole_models.NAME)
    rows = []
    for model in (*recbole_models.GENERAL, *recbole_models.SEQUENTIAL):
        runs = [run for run in result.figures["runs"] if run["model"] == model]
        own = {run["settings"]["seed"]: run for run in runs if not run["adar_weight"]}
        adar = {run["settings"]["seed"]: run for run in runs if run["adar_weight"]}
        # Means are over the seeds for which both runs have finished.
        seeds = sorted(own.keys() & adar.keys())
        if seeds:
            split = "leave-one-out" if model in recbole_models.SEQUENTIAL else "ratio"
            rows.append([model, split, str(len(seeds)), *_changes(own, adar, seeds)])
    head = ["model", "split", "seeds"]
    head += [name for metric in ("Recall@10", "NDCG@10") for name in (metric, "with ADAR", "change")]
    head += ["best epoch", "with ADAR", "time ratio"]
    lines = [head, ["---"] * len(head), *rows]
    counts = [
        f"- {split}: {data['name']}, ratings from {data['min_rating']}, {data['core']}-core, {data['users']} "
        f"users, {data['items']} items, {data['train']} / {data['valid']} / {data['test']} interactions."
        for split, data in result.figures["datasets"].items()
    ]
    general, sequential = recbole_models.GENERAL_SETTINGS, recbole_models.SEQUENTIAL_SETTINGS
    return _text(
        [
            "# RecBole's models, with their own loss and with ADAR's negatives added",
            "",
            *(f"| {' | '.join(line)} |" for line in lines),
            "",
            "Test figures from RecBole's own ranking of all items, which leaves seen items in the ranking of "
            "sequential models. General models: BPR with one uniform negative, "
            f"{general['epochs']} epochs. Sequential models: full cross-entropy, {sequential['epochs']} "
            f"epochs, histories of {sequential['MAX_ITEM_LIST_LENGTH']} items. The time ratio is that of the "
            "run with ADAR to the run without.",
            "",
            f"ADAR uses the sampler's defaults and the weight {recbole_models.WEIGHT} for all models. The "
            "weight was chosen on the validation figures of BPR and LightGCN (seed 0); nothing was tuned per "
            "model. With few epochs and small data, this shows that the adapter works with these models and "
            "what the term does at equal epochs. It does not measure how good a model can be. With one seed, "
            "a difference of a few percent is noise.",
            "",
            *counts,
            "",
            f"{_where(result.environment)}; one thread. Command: `{result.command}`.",
        ]
    )


def _changes(own: dict[int, Any], adar: dict[int, Any], seeds: Sequence[int]) -> list[str]:
    """Both metrics before, after and in percent; both best epochs; the ratio of the times."""
    cells = []
    for metric in ("recall@10", "ndcg@10"):
        before, after = (
            sum(side[seed]["test"][metric] for seed in seeds) / len(seeds) for side in (own, adar)
        )
        cells += [f"{before:.4f}", f"{after:.4f}", f"{after / before - 1:+.1%}"]
    for side in (own, adar):
        cells.append(f"{sum(side[seed]['best_epoch'] for seed in seeds) / len(seeds):.0f}")
    times = [sum(side[seed]["seconds"] for seed in seeds) for side in (own, adar)]
    return [*cells, f"{times[1] / times[0]:.2f}"]


if __name__ == "__main__":
    main()
