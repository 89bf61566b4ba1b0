"""MF with AHNS on Amazon phone, compared with the training log in the AHNS repository.

    python -m benchmarks.parity.ahns_phone --source path/to/phone --work scratch/

Settings are the repository's: d = 64, learning rate 1e-3, L2 1e-4, batches of 2048, 32 candidates, alpha 1,
beta 0.1, p -2, Xavier initialization, all training interactions. Epochs are those of the published log, which
counts from 0: its epoch 35 is the 36th pass. Nothing is chosen on test.
"""

from __future__ import annotations

from pathlib import Path

from adar_ray import evaluate, prepare, train
from adar_ray.config import load_config
from adar_ray.training.records import EpochRecord
from benchmarks import record
from benchmarks.arguments import add_source, argument_parser

PUBLISHED = {6: (0.0969, 0.0535), 21: (0.1275, 0.0699), 36: (0.1297, 0.0712)}
METRICS = ("recall@20", "ndcg@20")
SETTINGS = (
    "model.name=mf",
    "model.embedding_dim=64",
    "loss.name=bpr",
    "loss.l2=1e-4",
    "sampler.name=ahns",
    "ahns.candidates=32",
    "ahns.alpha=1",
    "ahns.beta=0.1",
    "ahns.p=-2",
    "optimizer.lr=1e-3",
    "train.batch_size=2048",
    f"train.epochs={max(PUBLISHED)}",
)


def main() -> None:
    parser = argument_parser(__doc__)
    add_source(parser, "Amazon phone, with train.txt and test.txt,")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    arguments = parser.parse_args()
    data = arguments.work / "data"
    if not data.exists():
        prepare(arguments.source, data, valid_fraction=0)
    curves = [_curve(data, arguments.work / f"seed-{seed}", seed) for seed in arguments.seeds]
    figures = {
        "published": {epoch: dict(zip(METRICS, values, strict=True)) for epoch, values in PUBLISHED.items()},
        "ours": {
            epoch: {name: _summary([curve[epoch][name] for curve in curves]) for name in METRICS}
            for epoch in PUBLISHED
        },
        "settings": SETTINGS,
    }
    record.write(
        "parity_ahns_phone",
        figures,
        description="MF with AHNS on Amazon phone: test figures by epoch, all items ranked, mean and "
        "standard deviation over seeds.",
        seeds=arguments.seeds,
    )


def _curve(data: Path, out: Path, seed: int) -> dict[int, dict[str, float]]:
    """Test figures of one seed at the published epochs."""
    curve: dict[int, dict[str, float]] = {}

    def on_epoch(epoch: EpochRecord) -> None:
        if epoch.epoch in PUBLISHED:
            # Without validation, the latest epoch counts as the best: this is the current model.
            metrics = evaluate(out).metrics
            curve[epoch.epoch] = {name: metrics[name] for name in METRICS}
            print(f"seed {seed}, epoch {epoch.epoch}: {curve[epoch.epoch]}", flush=True)

    config = load_config(settings=[*SETTINGS, f"train.seed={seed}"])
    train(data, out, config, workers=0, replace=True, on_epoch=on_epoch)
    return curve


def _summary(values: list[float]) -> dict[str, float]:
    return {name: round(value, 5) for name, value in record.mean_and_deviation(values).items()}


if __name__ == "__main__":
    main()
