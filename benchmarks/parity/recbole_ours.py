r"""Our models with RecBole's settings, compared with the figures of `recbole_reference`, on the same splits.

    adar-ray prepare ml-100k --out ratio --split ratio
    adar-ray prepare ml-100k --out loo --split leave-one-out --sequence-length 10 --sequence-stride 1
    python -m benchmarks.parity.recbole_ours --data-ratio ratio --data-loo loo --out scratch \
        --reference scratch/recbole.jsonl

Each (model, seed) is trained once; a rerun trains only those that are missing. RecBole trains each prefix of
a sequence as a row; a stride of 1 does the same. RecBole ranks seen items in the test of sequential models;
we do not, so the reference also has figures without them.
"""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Any

from adar_ray import evaluate, train
from adar_ray.config import load_config
from adar_ray.training.run import Run
from benchmarks import record
from benchmarks.arguments import argument_parser

COMMON = ("train.metric=ndcg@10", "train.batch_size=2048")
PAIRWISE = ("loss.name=bpr", "sampler.name=uniform", "train.epochs=200", "train.patience=11")
SOFTMAX = (
    "loss.name=cross_entropy",
    "cross_entropy.temperature=1",
    "loss.l2=0",
    "sampler.name=all",
    "model.embedding_dim=32",
    "optimizer.lr=3e-3",
    "train.epochs=15",
    "train.patience=4",
)
MODELS = {
    "BPR": ("model.name=mf", "loss.l2=0", *PAIRWISE),
    "LightGCN": (
        "model.name=lightgcn",
        "lightgcn.layers=2",
        "loss.l2=1e-5",
        "optimizer.lr=5e-3",
        *PAIRWISE,
    ),
    "GRU4Rec": ("model.name=gru4rec", "gru4rec.layers=1", "gru4rec.dropout=0.3", *SOFTMAX),
    "SASRec": (
        "model.name=sasrec",
        "sasrec.layers=1",
        "sasrec.heads=2",
        "sasrec.dropout=0.3",
        *SOFTMAX,
    ),
}
SEQUENTIAL = ("GRU4Rec", "SASRec")
METRICS = {
    False: ("recall@10", "recall@20", "ndcg@10", "ndcg@20"),
    True: ("hit_rate@10", "hit_rate@20", "ndcg@10", "ndcg@20"),
}


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("--data-ratio", type=Path, required=True, help="dataset for BPR and LightGCN")
    parser.add_argument("--data-loo", type=Path, required=True, help="dataset for GRU4Rec and SASRec")
    parser.add_argument("--out", type=Path, required=True, help="folder for the runs")
    parser.add_argument("--reference", type=Path, required=True, help="recbole.jsonl of recbole_reference")
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--seeds", nargs="+", type=int, default=list(range(5)))
    arguments = parser.parse_args()
    reference = [json.loads(line) for line in arguments.reference.read_text().splitlines()]
    rows = []
    for model in arguments.models:
        sequential = model in SEQUENTIAL
        data = arguments.data_loo if sequential else arguments.data_ratio
        split = "test_without_seen" if sequential else "test"
        theirs = [line[split] for line in reference if line["model"] == model]
        ours = [_metrics(model, seed, data, arguments.out) for seed in arguments.seeds]
        for metric in METRICS[sequential]:
            rows.append(_row(model, metric, theirs, ours))
            print(rows[-1], flush=True)
    record.write(
        "parity_recbole",
        {"rows": rows},
        description="Our models and RecBole's on MovieLens 100K: test figures, mean and standard deviation "
        "over seeds. The difference is ours minus RecBole's, in units of the larger deviation.",
        seeds=arguments.seeds,
        packages=["recbole"],
    )


def _metrics(model: str, seed: int, data: Path, out: Path) -> dict[str, float]:
    """Test figures of one run at its best epoch on validation."""
    folder = out / f"{model}-{seed}"
    if folder.exists() and Run.open(folder).result():
        run = Run.open(folder)
    else:
        config = load_config(settings=[*COMMON, *MODELS[model], f"train.seed={seed}"])
        run = train(data, folder, config, workers=0, replace=True)
    metrics = evaluate(run).metrics
    print(
        f"{model}, seed {seed}: best epoch {run.result().best_epoch}, ndcg@10 {metrics['ndcg@10']:.4f}",
        flush=True,
    )
    return metrics


def _row(
    model: str, metric: str, theirs: list[dict[str, float]], ours: list[dict[str, float]]
) -> dict[str, Any]:
    """One line of the table."""
    sides = [[seed[metric] for seed in seeds] for seeds in (theirs, ours)]
    (their_mean, their_deviation), (our_mean, our_deviation) = (
        (statistics.mean(values), statistics.stdev(values)) for values in sides
    )
    return {
        "model": model,
        "metric": metric,
        "recbole": f"{their_mean:.4f} ± {their_deviation:.4f}",
        "ours": f"{our_mean:.4f} ± {our_deviation:.4f}",
        "difference": round((our_mean - their_mean) / max(their_deviation, our_deviation), 1),
        "seeds": f"{len(theirs)} / {len(ours)}",
    }


if __name__ == "__main__":
    main()
