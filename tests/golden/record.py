"""Trains the golden runs and writes each one's `metrics.jsonl`, without times, into a folder.

    python -m tests.golden.record OUT --workers 0           # in this process
    python -m tests.golden.record OUT --workers 2           # in two processes that talk through gloo
    python -m tests.golden.record OUT --workers 2 --ray     # on two Ray Train workers
    python -m tests.golden.record OUT --workers 0 --runs model-mf loss-bce

Kernels are limited to the instructions that every x86-64 processor has, so that the bytes do not depend on
the machine.
"""

from __future__ import annotations

import os

if __name__ == "__main__":  # not where tests import this: they would all run with slow kernels
    os.environ["ATEN_CPU_CAPABILITY"] = "default"
    os.environ["MKL_CBWR"] = "COMPATIBLE"
    os.environ["ONEDNN_MAX_CPU_ISA"] = "SSE41"
    os.environ["NUMBA_CPU_NAME"] = "generic"
    os.environ["NUMBA_CPU_FEATURES"] = ""

import argparse
import json
import tempfile
from pathlib import Path

import torch
import torch.distributed as dist
from torch.multiprocessing import start_processes

from adar_ray.config import Config, load_config
from adar_ray.data.dataset import Dataset
from adar_ray.training.data_source import local_data
from adar_ray.training.loop import fit
from adar_ray.training.run import Run
from adar_ray.training.trainer import train
from adar_ray.training.worker import Worker

DATA = (
    Path(__file__).parent / "data"
)  # made by `synthesize(120, 150, 2500, seed=1, rows_per_shard=900)`, with features of items
SMALL = ["model.embedding_dim=16", "train.epochs=2", "train.batch_size=256", "train.device=cpu"]
SMALL += [
    "model.name=mf",
    "optimizer.lr=1e-3",
    "loss.l2=1e-4",
    "loss.name=bpr",
    "model.cosine=false",
    "model.length_power=0",
    "adar.pool=64",
    "sampled_softmax.temperature=0.2",
    "sampled_softmax.shared_negatives=64",
]
MODELS = ("mf", "twotower", "neumf", "ngcf", "lightgcn", "simgcl", "gru4rec", "sasrec", "bert4rec", "fmlprec")
SAMPLERS = ("uniform", "popularity", "in_batch", "dns", "mixgcf", "dens", "ahns", "srns")
SOFTMAX = "loss.name=sampled_softmax"

RUNS: dict[str, list[str]] = {
    **{f"model-{name}": [f"model.name={name}"] for name in MODELS},
    **{f"sampler-{name}": [f"sampler.name={name}"] for name in SAMPLERS},
    "sampler-adar-gamma": ["adar.gamma=0.5"],
    "sampler-adar-isotropic": ["adar.noise=isotropic"],
    "sampler-mixgcf-hops": ["sampler.name=mixgcf", "model.name=lightgcn", "mixgcf.negatives=2"],
    "sampler-dns-top": ["sampler.name=dns", "dns.negatives=2", "dns.candidates=8", "dns.top=3"],
    "loss-bce": ["loss.name=bce", "sampler.name=uniform", "uniform.negatives=3"],
    "loss-bce-adar": ["loss.name=bce", "adar.negatives=2", "adar.candidates=4"],
    "loss-softmax": [SOFTMAX, "sampler.name=uniform"],
    "loss-softmax-popularity": [SOFTMAX, "sampler.name=popularity", "sampled_softmax.temperature=0.5"],
    "loss-softmax-in_batch": [SOFTMAX, "sampler.name=in_batch", "model.cosine=true"],
    "loss-softmax-adar": [SOFTMAX, "adar.joins=popularity"],
    "loss-softmax-sasrec": [SOFTMAX, "model.name=sasrec"],
    "loss-cross_entropy": ["loss.name=cross_entropy", "sampler.name=all", "cross_entropy.temperature=1"],
    "loss-cross_entropy-adar": ["loss.name=cross_entropy", "adar.weight=0.3"],
    **{
        f"steady-{name}": [f"model.name={name}", f"{name}.dropout=0"]
        for name in ("neumf", "ngcf", "gru4rec", "sasrec", "bert4rec", "fmlprec")
    },
    "optimizer-options": [
        "optimizer.schedule=cosine",
        "optimizer.warmup=0.2",
        "optimizer.clip=0.01",
        "optimizer.weight_decay=0.1",
        "train.accumulate=3",
    ],
    "streamed": ["data.cache=never", "sampler.mask_seen=false", "train.valid_users=50"],
}


def config_of(name: str) -> Config:
    return load_config(settings=[*SMALL, *RUNS[name]])


def without_times(metrics: Path) -> str:
    lines = []
    for line in metrics.read_text(encoding="utf-8").splitlines():
        record = json.loads(line)
        lines.append(json.dumps({k: v for k, v in record.items() if k not in ("time", "sha256")}) + "\n")
    return "".join(lines)


def train_in_two_processes(names: list[str], scratch: str) -> None:
    """Runs the loop that Ray Train's workers run, without Ray."""
    for name in names:
        Run.create(f"{scratch}/{name}", config_of(name), Dataset.open(DATA), workers=2)
    start_processes(_worker, (names, scratch), nprocs=2, start_method="spawn")


def _worker(rank: int, names: list[str], scratch: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"file://{scratch}/rendezvous", rank=rank, world_size=2)
    worker = Worker(rank, 2, "cpu")
    for name in names:
        run = Run.open(f"{scratch}/{name}")
        fit(run, local_data(run.config, run.dataset(), worker), worker)
        dist.barrier()
    dist.destroy_process_group()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--workers", type=int, choices=[0, 2], required=True)
    parser.add_argument("--ray", action="store_true")
    parser.add_argument("--runs", nargs="+", choices=[*RUNS], default=[*RUNS], metavar="NAME")
    arguments = parser.parse_args()
    names = arguments.runs
    arguments.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        if arguments.workers and not arguments.ray:
            train_in_two_processes(names, scratch)
        else:
            for name in names:
                train(DATA, f"{scratch}/{name}", config_of(name), workers=arguments.workers)
        for name in names:
            metrics = without_times(Path(scratch, name, "metrics.jsonl"))
            (arguments.out / f"{name}.jsonl").write_text(metrics, encoding="utf-8")


if __name__ == "__main__":
    main()
