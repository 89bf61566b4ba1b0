"""LightGCN on Gowalla with BPR and uniform negatives, compared with the published repository's log.

    python -m benchmarks.parity.lightgcn_gowalla --source path/to/gowalla --work scratch/

Settings are those of LightGCN-PyTorch: three layers, d = 64, learning rate 1e-3, decay 1e-4, batches of 2048,
all training interactions. An interrupted run continues after its last epoch. Test is read at the epochs of
the published curve; nothing is chosen on it.
"""

from __future__ import annotations

from adar_ray import evaluate, prepare, resume, train
from adar_ray.config import load_config
from adar_ray.training.records import EpochRecord
from benchmarks import record
from benchmarks.arguments import add_source, argument_parser

NAME = "parity_lightgcn_gowalla"
METRICS = ("recall@20", "ndcg@20")
# Epoch 5 is from the repository's log; "final" is from its README, for three layers.
PUBLISHED = {"5": (0.1071, 0.0894), "final": (0.1824, 0.1547)}
EPOCHS = (1, 5, 20, 50)
SETTINGS = (
    "model.name=lightgcn",
    "lightgcn.layers=3",
    "model.embedding_dim=64",
    "loss.name=bpr",
    "loss.l2=1e-4",
    "sampler.name=uniform",
    "optimizer.lr=1e-3",
    "train.batch_size=2048",
)


def main() -> None:
    parser = argument_parser(__doc__)
    add_source(parser, "Gowalla, with train.txt and test.txt,")
    parser.add_argument("--epochs", type=int, default=max(EPOCHS))
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    data, out = arguments.work / "data", arguments.work / "run"
    settings = [*SETTINGS, f"train.threads={arguments.threads}"]
    curve = record.read_figures(NAME).get("ours", {}) if out.exists() else {}
    if not data.exists():
        prepare(arguments.source, data, valid_fraction=0)

    def on_epoch(epoch: EpochRecord) -> None:
        seconds = epoch.time.train_seconds
        print(f"epoch {epoch.epoch}: loss {epoch.loss:.4f}, {seconds:.0f} s", flush=True)
        if epoch.epoch not in EPOCHS:
            return
        # Without validation, the latest epoch counts as the best: this is the current model.
        metrics = evaluate(out).metrics
        row = {name: metrics[name] for name in METRICS} | {"epoch_seconds": seconds}
        curve[str(epoch.epoch)] = row
        print(f"epoch {epoch.epoch}: {row}", flush=True)
        published = {at: dict(zip(METRICS, values, strict=True)) for at, values in PUBLISHED.items()}
        record.write(
            NAME,
            {"published": published, "ours": curve, "settings": settings},
            description="LightGCN with BPR and uniform negatives on Gowalla: test figures by epoch, all "
            "items ranked.",
            seeds=[0],
        )

    if out.exists():
        resume(out, on_epoch=on_epoch)
    else:
        config = load_config(settings=[*settings, f"train.epochs={arguments.epochs}"])
        train(data, out, config, workers=0, on_epoch=on_epoch)


if __name__ == "__main__":
    main()
