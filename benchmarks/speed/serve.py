"""Latency of `adar-ray serve` under load, and of the step that finds a user's items, by size of the catalog.

    python -m benchmarks.speed.serve --work scratch/

Clients in this process ask for one user's top 20 over HTTP, each as soon as it has its answer. Vectors are
random and of a spectrum that falls off, as trained ones' does. The finding runs on one thread.

Legend: I items, U users, D dimensions, k items of an answer.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
import torch
from safetensors.torch import save

from adar_ray import load
from adar_ray.config import load_config
from adar_ray.data.synthetic import synthesize
from adar_ray.inference.recommender import SPARE, Recommender
from adar_ray.serving import served_model
from adar_ray.serving.served_model import shortlists
from adar_ray.storage import Folder
from adar_ray.training.saved_model import save_model
from benchmarks import record
from benchmarks.arguments import add_work, argument_parser
from benchmarks.speed import ours
from benchmarks.speed.measure import add, alternate, compare, one_thread, short, timed

DIM, USERS, K = 64, 1_000, 20
CATALOGS = (10_000, 100_000, 1_000_000)
SERVED = CATALOGS[:2]
CLIENTS = (1, 8)
TOGETHER = 8


def main() -> None:
    parser = argument_parser(__doc__)
    add_work(parser)
    parser.add_argument("--seconds", type=float, default=5, help="of load, for each number of clients")
    parser.add_argument("--rounds", type=int, default=15, help="of the finding, on each side")
    arguments = parser.parse_args()
    one_thread()
    figures: dict[str, Any] = {"http": {}, "recall": {}}
    for n_items in SERVED:
        folder = _model(arguments.work.resolve(), n_items)
        figures["http"][str(n_items)] = _under_load(folder, arguments.seconds)
        print(n_items, figures["http"][str(n_items)], flush=True)
        add(figures, _whole_answers(load(folder), f"{n_items}.", arguments.rounds))
    for n_items in CATALOGS:
        compared, figures["recall"][str(n_items)] = _shortlists(n_items, arguments.rounds)
        add(figures, compared)
        print(n_items, compared, figures["recall"][str(n_items)], flush=True)
    record.write(
        "speed_serve",
        figures,
        description="Milliseconds of asking for a user's top 20 over HTTP, by items and clients, who share "
        "the machine with the server. Seconds to find a user's items on a thread: on an exact shortlist, on "
        "FAISS's, for eight users in one product, and by ranking all items; ratios to the exact one's.",
        seeds=[0],
        packages=("fastapi", "uvicorn", "faiss-cpu"),
    )


def _vectors(rows: int, generator: torch.Generator) -> torch.Tensor:
    scale_D = torch.arange(1.0, DIM + 1).rsqrt()
    return torch.randn(rows, DIM, generator=generator) * scale_D


def _model(work: Path, n_items: int) -> Path:
    """A model folder of random vectors."""
    folder = work / "models" / f"serve-{n_items}"
    if not folder.exists():
        dataset = synthesize(USERS, n_items, 20 * USERS, 0, work / "data" / f"serve-{n_items}", replace=True)
        draw = torch.Generator().manual_seed(0)
        weights = {
            "user.weight": _vectors(dataset.n_users, draw),
            "item.weight": _vectors(dataset.n_items, draw),
        }
        config = load_config(settings=[*ours.MF, "model.cosine=false"])
        save_model(Folder.at(folder), config, dataset, save(weights))
    return folder


@contextlib.contextmanager
def _served(folder: Path) -> Iterator[str]:
    """Serves a model in a process of its own; yields the URL."""
    command = [sys.executable, "-m", "adar_ray.cli.main", "serve", str(folder), "--port", "0", "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as server:
        assert server.stdout
        try:
            yield json.loads(server.stdout.readline())["url"]
        finally:
            server.terminate()


def _under_load(folder: Path, seconds: float) -> dict[str, Any]:
    """By the number of clients: p50 and p99 in milliseconds, and requests a second."""
    found = {}
    with _served(folder) as url:
        asyncio.run(_ask(url, 1, 2))  # to warm up
        for clients in CLIENTS:
            taken = np.array(asyncio.run(_ask(url, clients, seconds))) * 1e3
            found[str(clients)] = {
                "p50_ms": short(float(np.percentile(taken, 50))),
                "p99_ms": short(float(np.percentile(taken, 99))),
                "per_second": short(len(taken) / seconds),
            }
    return found


async def _ask(url: str, clients: int, seconds: float) -> list[float]:
    """Seconds that each request took."""
    taken: list[float] = []
    end = time.perf_counter() + seconds

    async def client(session: aiohttp.ClientSession, number: int) -> None:
        user = number
        while time.perf_counter() < end:
            started = time.perf_counter()
            async with session.post(f"{url}/recommend", json={"user": str(user % USERS), "k": K}) as answer:
                await answer.read()
                answer.raise_for_status()
            taken.append(time.perf_counter() - started)
            user += clients

    async with aiohttp.ClientSession() as session:
        await asyncio.gather(*(client(session, number) for number in range(clients)))
    return taken


def _whole_answers(model: Recommender, prefix: str, rounds: int) -> dict[str, dict[str, Any]]:
    """A user's answer as a server finds it, against the ranking of all items."""
    short_listed = Recommender(model.trained, shortlists)
    sides = {"shortlisted": short_listed, "all": model}
    for side in sides.values():
        side.recommend("0", K)  # to warm up
    times = alternate(
        {name: lambda side=side: timed(lambda: side.recommend("7", K)) for name, side in sides.items()},
        rounds,
    )
    return compare(times, f"{prefix}answer.", ours="shortlisted")


def _shortlists(n_items: int, rounds: int) -> tuple[dict[str, dict[str, Any]], float]:
    """The time of shortlists for a user, and which part of the top k is on FAISS's."""
    draw = torch.Generator().manual_seed(0)
    item_ID, user_UD = _vectors(n_items, draw), _vectors(100, draw)
    sides = {}
    for name, most in (("exact", n_items), ("faiss", 0)):
        served_model.MOST_EXACT = most
        sides[name] = shortlists(item_ID)
    times = alternate(
        {
            "exact": lambda: timed(lambda: sides["exact"](user_UD[0], SPARE * K)),
            "faiss": lambda: timed(lambda: sides["faiss"](user_UD[0], SPARE * K)),
            "together": lambda: (
                timed(lambda: torch.topk(user_UD[:TOGETHER] @ item_ID.T, SPARE * K)) / TOGETHER
            ),
        },
        rounds,
    )
    best_Uk = torch.topk(user_UD @ item_ID.T, K).indices
    on_list = [
        float(torch.isin(best_k, sides["faiss"](user_D, SPARE * K)).float().mean())
        for user_D, best_k in zip(user_UD, best_Uk, strict=True)
    ]
    return compare(times, f"{n_items}.", ours="exact"), short(float(np.mean(on_list)))


if __name__ == "__main__":
    main()
