"""The notebooks, run as they are."""

from __future__ import annotations

import re
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

ROOT = Path(__file__).parents[1]
PUBLIC = ROOT.parent / "shared" / "data"  # where a developer may have public data sets already


def printed(notebook: nbformat.NotebookNode) -> list[str]:
    """What each cell prints and returns."""
    return [
        "".join(out.get("text") or out["data"]["text/plain"] for out in cell.get("outputs", []))
        for cell in notebook.cells
    ]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "better", "worse"),
    [
        ("movielens", "model", "popularity"),
        ("own_csv", "model", "popularity"),
        ("own_loop", "ADAR", "uniform"),
    ],
)
def test_a_notebook(
    name: str, better: str, worse: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if name == "movielens":
        if not (PUBLIC / "ml-100k").is_dir():
            pytest.skip("MovieLens 100K is not on this machine")
        monkeypatch.setenv("ADAR_RAY_CACHE", str(PUBLIC))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # other tests run beside it
    shown = nbformat.read(ROOT / "examples" / f"{name}.ipynb", as_version=4)
    nbformat.validate(shown)
    where = {"metadata": {"path": str(tmp_path)}}
    run = NotebookClient(nbformat.from_dict(shown), timeout=300, resources=where).execute()
    # Another machine rounds differently, and may rank differently.
    assert [bool(text) for text in printed(run)] == [bool(text) for text in printed(shown)]
    for texts in (printed(run), printed(shown)):
        figure = dict(re.findall(r"^(\w+) +([\d.]+)$", "\n".join(texts), re.MULTILINE))
        assert float(figure[better]) > float(figure[worse])
