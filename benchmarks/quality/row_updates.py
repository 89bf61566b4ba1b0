"""Adam on the rows of a batch against Adam on whole tables: the same model, settings and seeds.

    python -m benchmarks.quality.row_updates --sources DATA --work WORK

MF with BPR and ADAR at the settings that were tuned with Adam on whole tables (`quality_pairwise.json`). Best
validation NDCG@20, NDCG@20 on test, epochs and seconds of training, of each seed.
"""

from __future__ import annotations

from unittest.mock import patch

from torch import nn

from adar_ray import evaluate, train
from adar_ray.config import Config, load_config
from adar_ray.models.user_tables import user_tables
from adar_ray.training import loop
from adar_ray.training.build import build_optimizer
from adar_ray.training.optimizer import Adam
from benchmarks import record
from benchmarks.arguments import add_sources, argument_parser
from benchmarks.quality.data import DATA, prepared

COMMON = ["model.name=mf", "loss.name=bpr", "train.patience=5"]
SETTINGS = {
    "beauty": ["optimizer.lr=0.003", "loss.l2=0.03"],
    "phone": ["optimizer.lr=0.003", "loss.l2=0.03"],
    "ml-1m": ["optimizer.lr=0.003", "loss.l2=0.03"],
    "gowalla": ["optimizer.lr=0.003", "loss.l2=0.001"],
}


def table_optimizer(config: Config, model: nn.Module, samplers: nn.Module) -> Adam:
    """Takes the place of `build_optimizer`: all rows follow every step."""
    modules = nn.ModuleDict({"model": model, "samplers": samplers})
    own = [f"model.{name}" for name in user_tables(model)]
    return Adam(modules, config.optimizer.lr, by_rows=False, own=own)


OPTIMIZERS = {"rows": build_optimizer, "tables": table_optimizer}


def main() -> None:
    parser = argument_parser(__doc__)
    add_sources(parser)
    parser.add_argument("--data", nargs="+", default=[*SETTINGS], choices=[*SETTINGS])
    parser.add_argument("--seeds", type=int, default=3)
    arguments = parser.parse_args()
    figures = record.read_figures("quality_row_updates")
    for data in arguments.data:
        dataset = prepared(data, arguments.sources, arguments.work, DATA[data])
        for mode, build in OPTIMIZERS.items():
            runs = []
            for seed in range(arguments.seeds):
                config = load_config(settings=[*COMMON, *SETTINGS[data], f"train.seed={seed}"])
                out = arguments.work / "row_updates" / f"{data}-{mode}-{seed}"
                with patch.object(loop, "build_optimizer", build):
                    run = train(dataset, out, config, workers=0, replace=True)
                result = run.result()
                assert result is not None
                assert result.valid is not None
                test = evaluate(run, "test").metrics["ndcg@20"]
                runs.append(
                    {
                        "valid": result.valid["ndcg@20"],
                        "test": test,
                        "epochs": result.epochs,
                        "seconds": result.train_seconds,
                    }
                )
                print(data, mode, seed, runs[-1], flush=True)
            figures[f"{data}-{mode}"] = runs
            record.write(
                "quality_row_updates",
                figures,
                description="MF, BPR, ADAR: Adam on the rows of a batch, and on whole tables",
                seeds=range(arguments.seeds),
            )


if __name__ == "__main__":
    main()
