"""All tables of tables.py on one page, results/quality.md, from the JSON beside it.

    python benchmarks/quality/page.py

To be run after tables.py or times.py.
"""

from __future__ import annotations

import json
from typing import Any

from tables import RESULTS, TABLES

TITLES = {
    "pairwise": "BPR",
    "softmax": "Sampled softmax, with ADAR's negatives and without",
    "sequential": "Sequential models, BCE",
    "sequential_softmax": "Sequential models, sampled softmax, with ADAR's negatives and without",
}

HEAD = """# Quality of ADAR and of other samplers, tuned alike

Figures of test, all items ranked. Made by `python benchmarks/quality/page.py` from the JSON beside it, which
holds every trial as well; `benchmarks/quality/cells.py` says how cells are tuned. ADAR's gain is over the
row, in the last of its metrics, with p of a paired t-test over users. Seconds are those of training an epoch
on one thread, with what was chosen."""


def main() -> None:
    timed = json.loads((RESULTS / "quality_times.json").read_text())
    machine = f"Timed on {timed['machine']}, Python {timed['python']}, torch {timed['torch']}."
    lines = [HEAD, machine]
    for table_name, title in TITLES.items():
        table = TABLES[table_name]
        content = json.loads((RESULTS / f"quality_{table_name}.json").read_text())
        lines += ["", f"## {title}"]
        for cell in (f"{model}, {data}" for data in table.data for model in table.models):
            if cell in content:
                seconds = timed.get(table_name, {}).get(cell, {})
                lines += _section(cell, content[cell], table.metrics, seconds)
    (RESULTS / "quality.md").write_text("\n".join(lines) + "\n")


def _section(
    cell: str, content: dict[str, Any], metrics: tuple[str, str], seconds: dict[str, float]
) -> list[str]:
    seeds, share = content["seeds"], content["defaults' share of the gain"]
    runs = f"seeds: {seeds}" if isinstance(seeds, int) else "tested: the best trial's run"
    lines = ["", f"### {cell}", "", f"Trials: {content['trials']}; {runs}."]
    if share is not None:
        lines[-1] += f" Of ADAR's gain over uniform negatives on validation its defaults have {share:.0%}."
    machines = sorted({environment["machine"] for environment in content["run on"]})
    lines[-1] += f" Run on {' and '.join(machines)}."
    if content["not run yet"]:
        lines[-1] += f" Not run yet: {', '.join(content['not run yet'])}."
    lines += [
        "",
        f"| negatives | validation | {metrics[0]} | {metrics[1]} | ADAR's gain | p | seconds | chosen |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for sampler, row in content["rows"].items():
        over = content["adar over"].get(sampler, {"gain": "", "p": ""})
        chosen = ", ".join(
            f"`{key}` {value if isinstance(value, int) else f'{value:.3g}'}"
            for key, value in row["chosen"].items()
            if key != "sampler.name"
        )
        cells = (
            sampler,
            f"{row[f'valid {metrics[1]}']:.4f}",
            row[metrics[0]],
            row[metrics[1]],
            over["gain"],
            str(over["p"]),
            f"{seconds[sampler]:.3g}" if sampler in seconds else "",
            chosen,
        )
        lines.append(f"| {' | '.join(cells)} |")
    return lines


if __name__ == "__main__":
    main()
