"""LightGCN on Gowalla with BPR and uniform negatives, beside the published repository's own log.

    python benchmarks/parity/lightgcn_gowalla.py --source path/to/gowalla --work scratch/

Settings are those of LightGCN-PyTorch: three layers, d = 64, learning rate 1e-3, decay 1e-4, batches of
2048, all training interactions. Interrupted, it goes on after its last epoch. Test is read at the epochs
of the published curve; nothing is chosen by it.
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

# Published at epoch 5 in the repository's log, and as its README's final figure for three layers.
PUBLISHED = {5: (0.1071, 0.0894), "final": (0.1824, 0.1547)}
EPOCHS = (1, 5, 20, 50)
SETTINGS = (
    "model.name=lightgcn",
    "model.layers=3",
    "model.dim=64",
    "loss.name=bpr",
    "loss.l2=1e-4",
    "sampler.name=uniform",
    "optimizer.lr=1e-3",
    "train.batch_size=2048",
)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--source", type=Path, required=True, help="folder with train.txt and test.txt")
    parser.add_argument("--work", type=Path, required=True, help="where the dataset and the run are kept")
    parser.add_argument("--epochs", type=int, default=max(EPOCHS))
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    data, out = arguments.work / "data", arguments.work / "run"
    results = Path(__file__).parents[1] / "results" / "parity_lightgcn_gowalla.json"
    curve = json.loads(results.read_text())["curve"] if results.exists() and out.exists() else {}
    if not data.exists():
        prepare(arguments.source, data, valid_fraction=0)

    def on_epoch(record: dict) -> None:
        epoch, seconds = record["epoch"], record["time"]["train_seconds"]
        print(f"epoch {epoch}: loss {record['loss']:.4f}, {seconds:.0f} s", flush=True)
        if epoch not in EPOCHS:
            return
        # Without validation the best epoch is the latest, so this is the model as it now is.
        metrics = evaluate(out)["metrics"]
        curve[str(epoch)] = {
            "recall@20": metrics["recall@20"],
            "ndcg@20": metrics["ndcg@20"],
            "seconds_an_epoch": seconds,
        }
        print(
            f"epoch {epoch}: recall@20 {metrics['recall@20']:.4f}, ndcg@20 {metrics['ndcg@20']:.4f}",
            flush=True,
        )
        content = {
            "what": "LightGCN, BPR, uniform negatives, Gowalla, test, all items ranked",
            "published": {str(epoch): figures for epoch, figures in PUBLISHED.items()},
            "curve": curve,
            "settings": [*SETTINGS, f"train.threads={arguments.threads}"],
            "seed": 0,
            "command": "python benchmarks/parity/lightgcn_gowalla.py --source gowalla --work scratch",
            **environment(),
        }
        results.write_text(json.dumps(content, indent=1) + "\n")

    if out.exists():
        resume(out, on_epoch=on_epoch)
    else:
        settings = [*SETTINGS, f"train.threads={arguments.threads}", f"train.epochs={arguments.epochs}"]
        train(data, out, load_config(settings=settings), workers=0, on_epoch=on_epoch)


if __name__ == "__main__":
    main()
