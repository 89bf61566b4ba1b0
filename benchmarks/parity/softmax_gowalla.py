"""LightGCN on Gowalla with sampled softmax and ADAR, compared with UltraGCN's published figures.

    python -m benchmarks.parity.softmax_gowalla --source path/to/gowalla --work scratch/

Trains on all training interactions for a number of epochs that was fixed in advance, and reads test once, at
the end. An interrupted run continues after its last epoch.
"""

from __future__ import annotations

from adar_ray import evaluate, prepare, resume, train
from adar_ray.config import load_config
from adar_ray.training.records import EpochRecord
from benchmarks import record
from benchmarks.arguments import add_source, argument_parser

NAME = "parity_softmax_gowalla"
PUBLISHED = {"recall@20": 0.1862, "ndcg@20": 0.1580}
# The batch's other positives are uncorrected; batch, learning rate and layers of the loss's authors.
_AUTHORS = (
    "sampled_softmax.log_q=false",
    "train.batch_size=2048",
    "optimizer.lr=1e-3",
    "lightgcn.layers=1",
)
SAMPLERS = {
    "adar": (
        "sampler.name=adar",
        "adar.negatives=4",
        "adar.candidates=4",
        "adar.hidden_positives=0",
        "adar.beta=0.8",
    ),
    "uniform": ("sampler.name=uniform",),
    "in_batch": ("sampler.name=in_batch", *_AUTHORS),
    "adar_in_batch": ("sampler.name=adar", "adar.joins=in_batch", *_AUTHORS),
}
SCORES = {
    # The length of a vector tells popular items from others. The penalty prevents overfitting. It was chosen
    # on validation interactions taken from training.
    "dot": ("model.cosine=false", "loss.l2=0.3"),
    # As the loss's authors do: train on cosines, rank by dot products.
    "cosine": ("model.cosine=true", "model.length_power=1", "loss.l2=0"),
}
SETTINGS = (
    "model.name=lightgcn",
    "lightgcn.layers=3",
    "model.embedding_dim=64",
    "loss.name=sampled_softmax",
    "sampled_softmax.shared_negatives=1024",
    "optimizer.lr=5e-3",
    "train.batch_size=8192",
)


def main() -> None:
    parser = argument_parser(__doc__)
    add_source(parser, "Gowalla, with train.txt and test.txt,")
    parser.add_argument("--temperature", type=float, default=0.1)
    parser.add_argument("--sampler", choices=SAMPLERS, default="adar")
    parser.add_argument("--score", choices=SCORES, default="dot")
    parser.add_argument("--epochs", type=int, default=24)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    of = "" if arguments.score == "dot" else f"-{arguments.score}"
    data, out = arguments.work / "data", arguments.work / f"{arguments.sampler}{of}-{arguments.temperature:g}"
    if not data.exists():
        prepare(arguments.source, data, valid_fraction=0)

    def on_epoch(epoch: EpochRecord) -> None:
        print(f"epoch {epoch.epoch}: loss {epoch.loss:.4f}, {epoch.time.train_seconds:.0f} s", flush=True)

    settings = [
        *SETTINGS,
        *SCORES[arguments.score],
        *SAMPLERS[arguments.sampler],
        f"sampled_softmax.temperature={arguments.temperature}",
        f"train.epochs={arguments.epochs}",
        f"train.threads={arguments.threads}",
    ]
    if out.exists():
        run = resume(out, on_epoch=on_epoch)
    else:
        run = train(data, out, load_config(settings=settings), workers=0, on_epoch=on_epoch)
    metrics = evaluate(run).metrics
    row = {
        **{name: metrics[name] for name in PUBLISHED},
        "train_seconds": run.result().train_seconds,
        "settings": settings,
    }
    print(out.name, row)
    runs = record.read_figures(NAME).get("runs", {})
    record.write(
        NAME,
        {"published": {"ultragcn": PUBLISHED}, "runs": runs | {out.name: row}},
        description="LightGCN with sampled softmax on Gowalla, by sampler and temperature: test figures, "
        "all items ranked.",
        seeds=[0],
    )


if __name__ == "__main__":
    main()
