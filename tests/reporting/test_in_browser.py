"""The pages as a browser shows them: at the widths of a desk, a tablet and a phone, light and dark."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from adar_ray.comparison.report import comparison_report
from adar_ray.config import Config
from adar_ray.reporting.run_report import run_report
from adar_ray.tuning.folder import MetricOverSeeds, WinnerResult
from adar_ray.tuning.report.search_report import search_report
from tests.comparison.made import made_up_comparison
from tests.reporting.made import made_up_run, made_up_search

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
WIDTHS = 1440, 820, 390
LEAST_SIZE = 11  # pixels
LEAST_CONTRAST = 4.5  # WCAG 2.1, level AA

LOOK = """
const frame = document.querySelector("iframe"), problems = [], told = {};
const until = condition => new Promise(done => {
  const look = () => condition() ? done() : setTimeout(look, 50);
  look();
});
const all = (root, selector) => [...root.querySelectorAll(selector)];
await until(() => frame.contentDocument.readyState === "complete" && frame.contentDocument.title);
const page = frame.contentDocument, figures = all(page, "figure");
await until(() => figures.every(figure => figure.onkeydown));
const style = element => frame.contentWindow.getComputedStyle(element);
const luminance = color => color.match(/[\\d.]+/g).slice(0, 3).map(c => c / 255)
  .map(c => c <= .04045 ? c / 12.92 : ((c + .055) / 1.055) ** 2.4)
  .reduce((sum, c, i) => sum + c * [.2126, .7152, .0722][i], 0);
const contrast = (a, b) => {
  const [dark, light] = [luminance(a), luminance(b)].sort((a, b) => a - b);
  return (light + .05) / (dark + .05);
};
for (const width of WIDTHS) {
  frame.style.width = `${width}px`;
  await until(() => figures.every(figure => figure.querySelector("svg").clientWidth === figure.clientWidth));
  const say = problem => problems.push(`${width} px: ${problem}`);
  if (page.documentElement.scrollWidth > width) say("the page scrolls sideways");
  for (const element of all(page.body, "*:not(script):not(noscript)")) {
    const words = [...element.childNodes].filter(node => node.nodeType === 3);
    const text = words.map(node => node.data).join("").trim();
    if (!text || !element.getClientRects().length || element.closest("noscript")) continue;
    const {fontSize, color, fill} = style(element), ink = element.namespaceURI.endsWith("svg") ? fill : color;
    if (parseFloat(fontSize) < LEAST_SIZE) say(`"${text}" has ${fontSize}`);
    const ratio = contrast(ink, style(page.body).backgroundColor);
    if (ratio < LEAST_CONTRAST) say(`"${text}" has a contrast of ${ratio}`);
  }
  for (const table of all(page, ".scroll"))
    if (width === 1440 && table.scrollWidth > table.clientWidth) say("a table is cut");
  for (const figure of figures) {
    const name = figure.getAttribute("aria-label"), place = figure.getBoundingClientRect();
    const texts = all(figure, "svg text").filter(text => text.textContent.trim());
    const boxes = texts.map(text => text.getBoundingClientRect());
    boxes.forEach((box, i) => {
      if (box.left < place.left - 1 || box.right > place.right + 1 || box.top < place.top - 1 ||
          box.bottom > place.bottom + 1) say(`${name}: "${texts[i].textContent}" is cut`);
      boxes.slice(0, i).forEach((other, j) => {
        const across = Math.min(box.right, other.right) - Math.max(box.left, other.left);
        const down = Math.min(box.bottom, other.bottom) - Math.max(box.top, other.top);
        if (across > 1 && down > 1)
          say(`${name}: "${texts[i].textContent}" and "${texts[j].textContent}" collide`);
      });
    });
    figure.focus();
    if (page.activeElement !== figure) say(`${name}: the keyboard does not reach it`);
    figure.dispatchEvent(new KeyboardEvent("keydown", {key: "ArrowRight"}));
    const hover = figure.querySelector(".hoverlayer");
    await until(() => hover.textContent);
    told[name] = hover.textContent;
    const box = hover.getBoundingClientRect();
    if (box.left < -1 || box.right > width + 1) say(`${name}: "${hover.textContent}" is cut`);
    figure.blur();
  }
}
const dark = frame.contentWindow.matchMedia("(prefers-color-scheme: dark)").matches;
document.documentElement.textContent = JSON.stringify({problems, told, dark});
"""


def look(page: str, folder: Path, dark: bool) -> dict:
    """The problems that a browser finds, what figures tell at the right arrow, and whether it is dark."""
    script = LOOK.replace("WIDTHS", str(list(WIDTHS)))
    script = script.replace("LEAST_SIZE", str(LEAST_SIZE)).replace("LEAST_CONTRAST", str(LEAST_CONTRAST))
    frame = f'<iframe srcdoc="{html.escape(page)}" style="height: 20000px; border: 0"></iframe>'
    file = folder / "look.html"
    file.write_text(f'<!DOCTYPE html>{frame}<script type="module">{script}</script>', encoding="utf-8")
    scheme = f"--blink-settings=preferredColorScheme={0 if dark else 1}"
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--window-size=1600,900", scheme]
    options += [f"--user-data-dir={folder}/profile", "--virtual-time-budget=120000", "--dump-dom"]
    shown = subprocess.run([CHROMIUM, *options, file.as_uri()], capture_output=True, timeout=120, text=True)
    found = re.search(r"<html.*?>(\{.*\})</html>", shown.stdout, re.DOTALL)
    assert found, shown.stdout[-2_000:] + shown.stderr[-2_000:]
    return json.loads(html.unescape(found[1]))


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("runs")
    trials = made_up_search(40)
    for trial in trials:
        trial.values["custom.a_setting_with_a_name_that_is_long"] = "a.module:with_a_long_name"[
            trial.number % 3 :
        ]
    metrics = ("recall", "ndcg", "precision")
    test = {
        f"{name}@{k}": MetricOverSeeds(mean=0.1, deviation=0.01) for name in metrics for k in (10, 20, 50)
    }
    winner = WinnerResult(trial="00001", valid={"ndcg@20": 0.2}, seeds=3, test=test)
    facts = [("dataset", "s3://bucket/datasets/a-name-that-is-long/ratings-of-films")]
    runs = [
        made_up_run(folder / name, f"sampler.name={name}", "loss.name=bpr", evaluated=[0.1, 0.2, 0.4])
        for name in ("adar", "uniform")
    ]
    search = search_report(
        "joint", "ndcg@20", "max", trials, Config(), winner=winner, run=runs[0], facts=facts
    )
    comparison = made_up_comparison(others=7, tuned=True)
    trained = {name: runs[0] for name in comparison.tuned}
    samples = dict.fromkeys(comparison.splits["test"].systems, runs[0].evaluations()["test"].samples)
    return {
        "search": search,
        "run": run_report(runs[:1]),
        "runs": run_report(runs),
        "comparison": comparison_report(comparison, dict(facts), trained, samples),
    }


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "dark"),
    [
        ("search", False),
        ("search", True),
        ("run", True),
        ("runs", False),
        ("comparison", True),
    ],
)
def test_nothing_is_cut_small_or_pale_and_every_point_can_be_reached(
    pages: dict[str, str], name: str, dark: bool, tmp_path: Path
) -> None:
    found = look(pages[name], tmp_path, dark)
    assert found["dark"] == dark
    assert found["problems"] == []
    told = found["told"]
    assert all(told.values())
    if name == "search":
        of_trials = {shown: text for shown, text in told.items() if "winner" not in shown + text}
        assert all("trial 000" in text for shown, text in of_trials.items() if "importance" not in shown)
        assert len(told) - len(of_trials) > 5
    elif name == "comparison":
        assert told["Test mrr@5"].startswith("mf-adar")  # the third width
        assert "1 – 20: 310 users" in told["Test mrr@5 by a user's number of items in training"]
    else:
        assert "epoch 3" in told["ndcg@20 over epochs"]  # the third width
        assert "58 – 130" in told["ndcg@20 by a user's number of items in training"]
