"""Items' features on MovieLens 100K: what they are worth for known items, and for new ones.

    python -m benchmarks.cold_items

The features are genres. Known items: MF and the two towers on a random split. New items: a tenth of the items
and all their interactions are taken out; then each user's held-out items are looked for among the new ones
alone.

Legend: B users, N new items, G genres.
"""

from __future__ import annotations

import random
import tempfile
from pathlib import Path

import numpy as np

from adar_ray import evaluate, load, prepare, train
from adar_ray.config import load_config
from adar_ray.data.fetch import fetch
from benchmarks import record
from benchmarks.arguments import argument_parser

HELD_OUT = 0.1
FEWER = "sampled_softmax.shared_negatives=512"  # the default when this was measured
K = 20
GENRES = {"class": "categories"}


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--id-dropout", type=float, nargs="+", default=[0.3])
    parser.add_argument("--set", action="append", default=[], help="section.key=value, for all runs")
    arguments = parser.parse_args()
    settings: list[str] = [FEWER, *arguments.set]
    folder = Path(fetch("ml-100k"))
    rows, items = folder / "ml-100k.inter", folder / "ml-100k.item"
    known: dict[str, list[float]] = {}
    new: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as scratch:
        data = prepare(rows, f"{scratch}/data", split="ratio", items=items, item_columns=GENRES)
        for seed in arguments.seeds:
            config = load_config(settings=["model.name=mf", f"train.seed={seed}", *settings])
            run = train(data, f"{scratch}/mf-{seed}", config, workers=0)
            known.setdefault("mf", []).append(evaluate(run).metrics[f"ndcg@{K}"])
            held_out = _hold_out(rows, items, Path(scratch, f"cold-{seed}"), seed)
            for name, figure in _baselines(held_out, items, seed).items():
                new.setdefault(name, []).append(figure)
            for share in arguments.id_dropout:
                name = f"twotower_{share:g}"
                model = [
                    "model.name=twotower",
                    f"twotower.id_dropout={share}",
                    f"train.seed={seed}",
                    *settings,
                ]
                config = load_config(settings=model)
                run = train(data, f"{scratch}/twotower-{seed}-{share}", config, workers=0)
                known.setdefault(name, []).append(evaluate(run).metrics[f"ndcg@{K}"])
                new.setdefault(name, []).append(
                    _new_items(Path(scratch, f"cold-{seed}"), held_out, config, share)
                )
                print(known, new, flush=True)
    figures = {
        kind: {name: record.mean_and_deviation(values) for name, values in table.items()}
        for kind, table in (("known_items", known), ("new_items", new))
    }
    record.write(
        "cold_items",
        figures,
        description="MovieLens 100K with genres as features. Known items: test NDCG@20 of a random split. "
        "New items: a tenth of the items held out entirely; NDCG@20 of each user's among them, ranked by "
        "features alone. Mean and standard deviation over seeds. twotower_0.3 has an id_dropout of 0.3.",
        seeds=arguments.seeds,
    )


def _hold_out(rows: Path, items: Path, out: Path, seed: int) -> dict[str, set[str]]:
    """Writes the interactions without a tenth of the items, and a file of these; returns who has which."""
    out.mkdir()
    header, *lines = rows.read_text().splitlines()
    keys = sorted({line.split("\t")[1] for line in lines})
    cold = set(random.Random(seed).sample(keys, round(HELD_OUT * len(keys))))
    warm = [line for line in lines if line.split("\t")[1] not in cold]
    (out / "warm.inter").write_text("\n".join([header, *warm]) + "\n")
    first, *others = items.read_text().splitlines()
    chosen = [line for line in others if line.split("\t")[0] in cold]
    (out / "new.item").write_text("\n".join([first, *chosen]) + "\n")
    taken: dict[str, set[str]] = {}
    for line in lines:
        user, item, *_ = line.split("\t")
        if item in cold:
            taken.setdefault(user, set()).add(item)
    return taken


def _new_items(folder: Path, truth: dict[str, set[str]], config: object, share: float) -> float:
    items = Path(fetch("ml-100k")) / "ml-100k.item"
    data = prepare(
        folder / "warm.inter", folder / f"data-{share}", split="ratio", items=items, item_columns=GENRES
    )
    run = train(data, folder / f"run-{share}", config, workers=0)
    recommender = load(run, new_items=folder / "new.item")
    new = recommender.trained.new_items.keys.to_pylist()
    users = [user for user in truth if user in set(data.user_keys().to_pylist())]
    answers = recommender.recommend(users, K, candidates=new)
    return float(np.mean([_ndcg([item for item, _ in answers[user]], truth[user]) for user in users]))


def _baselines(truth: dict[str, set[str]], items: Path, seed: int) -> dict[str, float]:
    """New items in random order, and by the cosine of their genres with those of what a user has taken."""
    lines = items.read_text().splitlines()[1:]
    genres = {line.split("\t")[0]: line.split("\t")[3].split() for line in lines}
    number = {name: at for at, name in enumerate(sorted({one for of in genres.values() for one in of}))}

    def vector(item: str) -> np.ndarray:
        vector_G = np.zeros(len(number))
        vector_G[[number[name] for name in genres[item]]] = 1 / max(len(genres[item]), 1)
        return vector_G

    new = sorted({item for taken in truth.values() for item in taken})
    new_NG = np.array([vector(item) for item in new])
    new_NG /= np.linalg.norm(new_NG, axis=1, keepdims=True)
    history: dict[str, list[str]] = {}
    for line in (items.parent / "ml-100k.inter").read_text().splitlines()[1:]:
        user, item, *_ = line.split("\t")
        if user in truth and item not in truth[user]:
            history.setdefault(user, []).append(item)
    draw = random.Random(seed)
    by_chance, by_genre = [], []
    for user, taken in truth.items():
        by_chance.append(_ndcg(draw.sample(new, K), taken))
        if user in history:
            score_N = new_NG @ np.mean([vector(item) for item in history[user]], axis=0)
            by_genre.append(_ndcg([new[at] for at in np.argsort(-score_N, kind="stable")[:K]], taken))
    return {"random": float(np.mean(by_chance)), "history_genres": float(np.mean(by_genre))}


def _ndcg(ranked: list[str], relevant: set[str]) -> float:
    gain = sum(1 / np.log2(rank + 2) for rank, item in enumerate(ranked) if item in relevant)
    return float(gain / sum(1 / np.log2(rank + 2) for rank in range(min(len(relevant), K))))


if __name__ == "__main__":
    main()
