"""Adam on the rows of a batch against Adam on whole tables: the same model, settings and seeds.

    python -m benchmarks.quality.row_updates --sources DATA --work WORK

MF with BPR and ADAR at the settings that were tuned with Adam on whole tables (`quality_pairwise.json`). Best
validation NDCG@20, NDCG@20 on test, epochs and seconds of training, of each seed.
"""

from __future__ import annotations

import functools
from typing import Any
from unittest.mock import patch

from adar_ray import evaluate, train
from adar_ray.config import load_config
from adar_ray.training import loop
from adar_ray.training.optimizer import Adam
from benchmarks import record
from benchmarks.arguments import add_sources, argument_parser
from benchmarks.quality.data import DATA, prepared

SETTINGS = {
    "beauty": ["optimizer.lr=0.003", "loss.l2=0.03"],
    "phone": ["optimizer.lr=0.003", "loss.l2=0.03"],
    "ml-1m": ["optimizer.lr=0.003", "loss.l2=0.03"],
    "gowalla": ["optimizer.lr=0.003", "loss.l2=0.001"],
}
MODES = {"rows": True, "tables": False}


def build_optimizer(by_rows: bool, config: Any, model: Any, samplers: Any) -> Adam:
    optimizer = loop_build(config, model, samplers)
    return optimizer if by_rows else Adam(modules_of(model, samplers), optimizer.lr, by_rows=False)


loop_build = loop.build_optimizer


def modules_of(model: Any, samplers: Any) -> Any:
    from torch import nn

    for module in model.modules():
        if hasattr(module, "gradients"):
            module.gradients = None
    return nn.ModuleDict({"model": model, "samplers": samplers})


def main() -> None:
    parser = argument_parser(__doc__)
    add_sources(parser)
    parser.add_argument("--data", nargs="+", default=[*SETTINGS], choices=[*SETTINGS])
    parser.add_argument("--seeds", type=int, default=3)
    arguments = parser.parse_args()
    figures = record.read_figures("quality_row_updates")
    for data in arguments.data:
        dataset = prepared(data, arguments.sources, arguments.work, DATA[data])
        for mode, by_rows in MODES.items():
            runs = []
            for seed in range(arguments.seeds):
                config = load_config(settings=[*SETTINGS[data], f"train.seed={seed}", "train.patience=5"])
                out = arguments.work / "row_updates" / f"{data}-{mode}-{seed}"
                with patch.object(loop, "build_optimizer", functools.partial(build_optimizer, by_rows)):
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
