r"""Our models at RecBole's settings, beside the figures of `recbole_reference.py`, on the same splits.

    adar-ray prepare ml-100k --out ratio --split ratio
    adar-ray prepare ml-100k --out loo --split leave-one-out --sequence-length 10 --sequence-stride 1
    python benchmarks/parity/recbole_ours.py --data-ratio ratio --data-loo loo --out scratch \
        --reference scratch/recbole.jsonl

A (model, seed) is trained once: started again, it goes on with those that miss. RecBole trains each prefix
of a sequence as a row, which stride 1 does, too. It ranks seen items in the test of sequential models; the
reference has figures without them, which is how we rank.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
from environment import environment

from adar_ray import evaluate, train
from adar_ray.config import load_config
from adar_ray.training.run import Run

COMMON = ("train.metric=ndcg@10",)
PAIRWISE = (
    "loss.name=bpr",
    "sampler.name=uniform",
    "train.batch_size=2048",
    "train.epochs=200",
    "train.patience=11",
)
SOFTMAX = (
    "loss.name=cross_entropy",
    "loss.temperature=1",
    "loss.l2=0",
    "sampler.name=all",
    "model.dim=32",
    "model.dropout=0.3",
    "optimizer.lr=3e-3",
    "train.batch_size=2048",
    "train.epochs=15",
    "train.patience=4",
)
MODELS = {
    "BPR": ("model.name=mf", "loss.l2=0", *PAIRWISE),
    "LightGCN": (
        "model.name=lightgcn",
        "model.layers=2",
        "loss.l2=1e-5",
        "optimizer.lr=5e-3",
        *PAIRWISE,
    ),
    "GRU4Rec": ("model.name=gru4rec", "model.layers=1", *SOFTMAX),
    "SASRec": ("model.name=sasrec", "model.layers=1", "model.heads=2", *SOFTMAX),
}
SEQUENTIAL = ("GRU4Rec", "SASRec")
METRICS = {
    False: ("recall@10", "recall@20", "ndcg@10", "ndcg@20"),
    True: ("hit_rate@10", "hit_rate@20", "ndcg@10", "ndcg@20"),
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data-ratio", type=Path, required=True, help="dataset for BPR and LightGCN")
    parser.add_argument("--data-loo", type=Path, required=True, help="dataset for GRU4Rec and SASRec")
    parser.add_argument("--out", type=Path, required=True, help="where the runs are kept")
    parser.add_argument("--reference", type=Path, required=True, help="recbole.jsonl")
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--seeds", nargs="+", type=int, default=list(range(5)))
    arguments = parser.parse_args()
    reference = [json.loads(line) for line in arguments.reference.read_text().splitlines()]
    rows = []
    for model in arguments.models:
        sequential = model in SEQUENTIAL
        data = arguments.data_loo if sequential else arguments.data_ratio
        theirs = [line for line in reference if line["model"] == model]
        ours = [figures(model, seed, data, arguments.out) for seed in arguments.seeds]
        for metric in METRICS[sequential]:
            rows.append(
                row(
                    model,
                    metric,
                    [line["test_without_seen" if sequential else "test"] for line in theirs],
                    ours,
                )
            )
            print(rows[-1], flush=True)
    write(rows, reference)


def figures(model: str, seed: int, data: Path, out: Path) -> dict[str, float]:
    """Test figures of one run at its best epoch by validation."""
    folder = out / f"{model}-{seed}"
    if folder.exists() and Run.open(folder).result():
        run = Run.open(folder)
    else:
        config = load_config(settings=[*COMMON, *MODELS[model], f"train.seed={seed}"])
        run = train(data, folder, config, workers=0, replace=True)
    metrics = evaluate(run)["metrics"]
    print(
        f"{model} seed {seed}: best epoch {run.result()['best_epoch']}, ndcg@10 {metrics['ndcg@10']:.4f}",
        flush=True,
    )
    return metrics


def row(model: str, metric: str, theirs: list[dict], ours: list[dict]) -> dict[str, object]:
    """One line of the table; the difference is in deviations over seeds, the larger of the two."""
    sides = [[side[metric] for side in sides] for sides in (theirs, ours)]
    (their_mean, their_deviation), (our_mean, our_deviation) = (
        (statistics.mean(values), statistics.stdev(values)) for values in sides
    )
    return {
        "model": model,
        "metric": metric,
        "RecBole": f"{their_mean:.4f} ± {their_deviation:.4f}",
        "ours": f"{our_mean:.4f} ± {our_deviation:.4f}",
        "difference in deviations": round((our_mean - their_mean) / max(their_deviation, our_deviation), 1),
        "seeds": f"{len(theirs)} / {len(ours)}",
    }


def write(rows: list[dict[str, object]], reference: list[dict]) -> None:
    columns = list(rows[0])
    here = environment()
    table = [columns, ["---"] * len(columns), *([str(row[column]) for column in columns] for row in rows)]
    text = f"""# Our models and RecBole's on MovieLens 100K

{chr(10).join(f"| {' | '.join(line)} |" for line in table)}

Test, all items ranked but those of training and validation, mean ± standard deviation over seeds 0 to 4; one
split, the best epoch by validation. The difference is ours less RecBole's, in the larger of the deviations.

Settings of both: Adam. BPR (learning rate 1e-3) and LightGCN (2 layers, L2 1e-5, learning rate 5e-3): d = 64,
batches of 2,048, one uniform negative, up to 200 epochs, stopped after 11 without a better one. GRU4Rec
(hidden 64) and SASRec (1 layer, 2 heads): d = 32, dropout 0.3, learning rate 3e-3, full cross-entropy, every
prefix a row, at most 10 items of history, batches of 2,048, up to 15 epochs, stopped after 4 without a better
one. What differs: the draws, RecBole's padding item in the softmax, and LightGCN's tables, which start at std
0.1 here and by Xavier there.

RecBole {reference[0]["recbole"]}, {", ".join(f"{key} {value}" for key, value in here.items())}; one thread.
Command: `python benchmarks/parity/recbole_ours.py --data-ratio ratio --data-loo loo --out scratch
--reference scratch/recbole.jsonl`, after `recbole_reference.py`.
"""
    results = Path(__file__).parents[1] / "results"
    (results / "parity_recbole.md").write_text(text)
    (results / "parity_recbole.json").write_text(json.dumps({"rows": rows, **here}, indent=1) + "\n")


if __name__ == "__main__":
    main()
