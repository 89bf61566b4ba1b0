"""LightGCN on Gowalla with sampled softmax and ADAR, beside UltraGCN's published figures.

    python benchmarks/parity/softmax_gowalla.py --source path/to/gowalla --work scratch/

Trains on all training interactions for a number of epochs that was fixed beforehand, and reads test once, at
the end. Interrupted, it goes on after its last epoch.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
from environment import environment

from adar_ray import evaluate, prepare, resume, train
from adar_ray.config import load_config

PUBLISHED = {"recall@20": 0.1862, "ndcg@20": 0.1580}
SAMPLERS = {
    "adar": ("sampler.name=adar", "adar.K=4", "adar.M=4", "adar.hidden=0", "adar.beta=0.8"),
    "uniform": ("sampler.name=uniform",),
}
SETTINGS = (
    "model.name=lightgcn",
    "model.layers=3",
    "model.dim=64",
    "loss.name=sampled_softmax",
    # Scores are dot products, whose lengths tell popular items from others; the penalty keeps them from
    # learning the training data by heart. Chosen on validation interactions carved from training.
    "loss.l2=0.3",
    "sampler.shared=1024",
    "optimizer.lr=5e-3",
    "train.batch_size=8192",
)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--source", type=Path, required=True, help="folder with train.txt and test.txt")
    parser.add_argument("--work", type=Path, required=True, help="where the dataset and the runs are kept")
    parser.add_argument("--temperature", type=float, default=0.1)
    parser.add_argument("--sampler", choices=SAMPLERS, default="adar")
    parser.add_argument("--epochs", type=int, default=24)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    data, out = arguments.work / "data", arguments.work / f"{arguments.sampler}-{arguments.temperature:g}"
    if not data.exists():
        prepare(arguments.source, data, valid_fraction=0)

    def on_epoch(record: dict) -> None:
        seconds = record["time"]["train_seconds"]
        print(f"epoch {record['epoch']}: loss {record['loss']:.4f}, {seconds:.0f} s", flush=True)

    settings = [*SETTINGS, *SAMPLERS[arguments.sampler], f"loss.temperature={arguments.temperature}"]
    settings += [f"train.epochs={arguments.epochs}", f"train.threads={arguments.threads}"]
    if out.exists():
        run = resume(out, on_epoch=on_epoch)
    else:
        run = train(data, out, load_config(settings=settings), workers=0, on_epoch=on_epoch)
    metrics = evaluate(run)["metrics"]
    results = Path(__file__).parents[1] / "results" / "parity_softmax_gowalla.json"
    content = json.loads(results.read_text()) if results.exists() else {}
    content |= {
        "what": "LightGCN, sampled softmax, with ADAR and without, Gowalla, test, all items ranked",
        "published": {"UltraGCN": PUBLISHED},
        out.name: {
            **{name: metrics[name] for name in PUBLISHED},
            "train_seconds": run.result()["train_seconds"],
            "settings": settings,
        },
        "seed": 0,
        "command": "python benchmarks/parity/softmax_gowalla.py --source gowalla --work scratch",
        **environment(),
    }
    results.write_text(json.dumps(content, indent=1) + "\n")
    print(json.dumps(content[out.name], indent=1))


if __name__ == "__main__":
    main()
