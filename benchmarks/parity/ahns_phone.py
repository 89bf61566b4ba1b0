"""MF with AHNS on Amazon phone, beside the log in the AHNS repository.

    python benchmarks/parity/ahns_phone.py --source path/to/phone --work scratch/

Settings are the repository's: d = 64, learning rate 1e-3, L2 1e-4, batches of 2048, 32 candidates, alpha 1,
beta 0.1, p -2, Xavier tables, all training interactions. Epochs are those of the published log, which
counts from 0: its epoch 35 comes after 36 passes. Nothing is chosen by test.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
from environment import environment

from adar_ray import evaluate, prepare, train
from adar_ray.config import load_config

PUBLISHED = {6: (0.0969, 0.0535), 21: (0.1275, 0.0699), 36: (0.1297, 0.0712)}
METRICS = ("recall@20", "ndcg@20")
SETTINGS = (
    "model.name=mf",
    "model.dim=64",
    "loss.name=bpr",
    "loss.l2=1e-4",
    "sampler.name=ahns",
    "sampler.candidates=32",
    "ahns.alpha=1",
    "ahns.beta=0.1",
    "ahns.p=-2",
    "optimizer.lr=1e-3",
    "train.batch_size=2048",
    f"train.epochs={max(PUBLISHED)}",
)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--source", type=Path, required=True, help="folder with train.txt and test.txt")
    parser.add_argument("--work", type=Path, required=True, help="where the dataset and the runs are kept")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    arguments = parser.parse_args()
    data = arguments.work / "data"
    if not data.exists():
        prepare(arguments.source, data, valid_fraction=0)
    curves = {seed: curve_of(data, arguments.work / f"seed-{seed}", seed) for seed in arguments.seeds}
    content = {
        "what": "MF, AHNS, Amazon phone, test, all items ranked; mean and standard deviation over seeds",
        "published": {
            epoch: dict(zip(METRICS, figures, strict=True)) for epoch, figures in PUBLISHED.items()
        },
        "ours": {
            epoch: {name: summary([curve[epoch][name] for curve in curves.values()]) for name in METRICS}
            for epoch in PUBLISHED
        },
        "settings": SETTINGS,
        "seeds": arguments.seeds,
        "command": "python benchmarks/parity/ahns_phone.py --source phone --work scratch",
        **environment(),
    }
    results = Path(__file__).parents[1] / "results" / "parity_ahns_phone.json"
    results.write_text(json.dumps(content, indent=1) + "\n")
    print(json.dumps(content["ours"], indent=1))


def curve_of(data: Path, out: Path, seed: int) -> dict[int, dict[str, float]]:
    """Test figures of one seed at the published epochs."""
    curve: dict[int, dict[str, float]] = {}

    def on_epoch(record: dict) -> None:
        if record["epoch"] in PUBLISHED:
            # Without validation the best epoch is the latest, so this is the model as it now is.
            metrics = evaluate(out)["metrics"]
            curve[record["epoch"]] = {name: metrics[name] for name in METRICS}
            print(f"seed {seed} epoch {record['epoch']}: {curve[record['epoch']]}", flush=True)

    train(
        data,
        out,
        load_config(settings=[*SETTINGS, f"train.seed={seed}"]),
        workers=0,
        replace=True,
        on_epoch=on_epoch,
    )
    return curve


def summary(values: list[float]) -> dict[str, float]:
    deviation = statistics.stdev(values) if len(values) > 1 else 0.0
    return {"mean": round(statistics.mean(values), 5), "deviation": round(deviation, 5)}


if __name__ == "__main__":
    main()
