"""Trains every golden run and keeps its `metrics.jsonl`, without times.

    python tests/golden/record.py --workers 0 --out tests/golden/workers-0
    python tests/golden/record.py --workers 2 --out tests/golden/workers-2

Kernels are pinned to the instructions that every x86-64 processor has, so that the bytes do not depend on the
machine.
"""

from __future__ import annotations

import os

os.environ["ATEN_CPU_CAPABILITY"] = "default"
os.environ["MKL_CBWR"] = "COMPATIBLE"
os.environ["ONEDNN_MAX_CPU_ISA"] = "SSE41"

import argparse
import json
import logging
import tempfile
from pathlib import Path

from adar_ray.config import load_config
from adar_ray.data.synthetic import synthesize
from adar_ray.training.trainer import train

SMALL = [
    "model.embedding_dim=16",
    "train.epochs=2",
    "train.batch_size=256",
    "train.device=cpu",
    "adar.pool=64",
]
MODELS = ("mf", "neumf", "ngcf", "lightgcn", "simgcl", "gru4rec", "sasrec", "bert4rec", "fmlprec")
SAMPLERS = ("uniform", "popularity", "in_batch", "dns", "mixgcf", "dens", "ahns", "srns")

RUNS: dict[str, list[str]] = {
    **{f"model-{name}": [f"model.name={name}"] for name in MODELS},
    **{f"sampler-{name}": [f"sampler.name={name}"] for name in SAMPLERS},
    "sampler-adar-gamma": ["adar.gamma=0.5", "adar.warmup=1"],
    "sampler-adar-gaussian": ["adar.noise=gaussian", "adar.schedule=linear"],
    "sampler-adar-isotropic": ["adar.noise=isotropic", "adar.schedule=sigmoid", "adar.attach=true"],
    "sampler-mixgcf-hops": ["sampler.name=mixgcf", "model.name=lightgcn", "mixgcf.negatives=2"],
    "sampler-dns-top": ["sampler.name=dns", "dns.negatives=2", "dns.candidates=8", "dns.top=3"],
    "loss-bce": ["loss.name=bce", "sampler.name=uniform", "uniform.negatives=3"],
    "loss-bce-adar": ["loss.name=bce", "adar.negatives=2", "adar.candidates=4"],
    "loss-softmax": [
        "loss.name=sampled_softmax",
        "sampler.name=uniform",
        "sampled_softmax.shared_negatives=64",
    ],
    "loss-softmax-popularity": [
        *(
            "loss.name=sampled_softmax",
            "sampler.name=popularity",
            "sampled_softmax.shared_negatives=64",
            "sampled_softmax.temperature=0.5",
        ),
    ],
    "loss-softmax-in_batch": ["loss.name=sampled_softmax", "sampler.name=in_batch", "model.cosine=true"],
    "loss-softmax-adar": [
        "loss.name=sampled_softmax",
        "sampled_softmax.shared_negatives=64",
        "adar.joins=popularity",
    ],
    "loss-softmax-sasrec": [
        "loss.name=sampled_softmax",
        "sampled_softmax.shared_negatives=64",
        "model.name=sasrec",
    ],
    "loss-cross_entropy": ["loss.name=cross_entropy", "sampler.name=all", "cross_entropy.temperature=1"],
    "loss-cross_entropy-adar": ["loss.name=cross_entropy", "adar.weight=0.3"],
    "optimizer-sparse_adam": ["optimizer.name=sparse_adam", "optimizer.lr=0.003"],
    "streamed": ["data.cache=never", "sampler.mask_seen=false", "train.valid_users=50"],
}


def without_times(metrics: Path) -> str:
    lines = []
    for line in metrics.read_text(encoding="utf-8").splitlines():
        record = json.loads(line)
        del record["time"]
        lines.append(json.dumps(record) + "\n")
    return "".join(lines)


def record(out: Path, workers: int, names: list[str]) -> None:
    import ray

    out.mkdir(parents=True, exist_ok=True)
    quiet = {"log_to_driver": False, "logging_level": logging.ERROR, "include_dashboard": False}
    ray.init(address="local", num_cpus=4, **quiet)
    with tempfile.TemporaryDirectory() as scratch:
        dataset = synthesize(120, 150, 2500, 1, f"{scratch}/data", rows_per_shard=900)
        for name in names:
            config = load_config(settings=[*SMALL, *RUNS[name]])
            train(dataset, f"{scratch}/{name}", config, workers=workers)
            (out / f"{name}.jsonl").write_text(without_times(Path(scratch, name, "metrics.jsonl")))
    ray.shutdown()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--workers", type=int, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("names", nargs="*", default=[*RUNS])
    arguments = parser.parse_args()
    record(arguments.out, arguments.workers, arguments.names)
