"""Steps and ranking on a GPU, as a share of what the device can do: no Ray, synthetic tensors in its memory.

    python -m benchmarks.speed.gpu

Needs torch, numpy, pyarrow, pydantic and PyYAML besides the clone, and less than four minutes. Each part runs
by itself, and one that fails leaves its error in the result. Without a GPU, sizes are small: then it only
shows that all parts work.

`bytes` and `flops` of a case count what the step needs at least: the rows of the batch read, their gradients,
weights and moments read and written; the products and the two passes of the gradient. Shares of the ceiling
follow from them and from the median time. Host syncs are the points where Python waits for the device.

Legend: B rows of a batch, D dimensions, E interactions, L positions of a history, k items kept.
"""

from __future__ import annotations

import collections
import contextlib
import functools
import multiprocessing
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from adar_ray.errors import one_line
from adar_ray.interactions import PADDING
from adar_ray.interactions.user_items import UserItems
from adar_ray.ranking.top_items import top_items
from benchmarks import record
from benchmarks.arguments import argument_parser
from benchmarks.speed.measure import ceiling, one_thread, short, spread, timed
from benchmarks.speed.ours import MF, UNIFORM, Steps, pair_batches, synthetic_pairs

BUDGET = 170.0
"""Seconds after which no other part starts."""
_LONGEST = 60.0
"""Seconds after which a variant is given up."""
_ADAM = 6  # weight and two moments, read and written
D = 64
K = 20


@dataclass(frozen=True)
class Sizes:
    """Users, items, interactions and rows of a batch; L for sequential models."""

    users: int
    items: int
    interactions: int
    batch: int
    length: int = 0


@dataclass(frozen=True)
class Case:
    """A training step to time.

    Attributes:
        bytes, flops: what the step needs at least, from the sizes.
    """

    settings: tuple[str, ...]
    sizes: Sizes
    bytes: Callable[[Sizes], float]
    flops: Callable[[Sizes], float]


def _rows(candidates: int) -> Callable[[Sizes], float]:
    """Bytes of a step of MF: two rows and the candidates' are read, three change."""
    return lambda sizes: 4.0 * D * sizes.batch * (2 + candidates + 3 * (1 + _ADAM))


def _products(candidates: int) -> Callable[[Sizes], float]:
    return lambda sizes: 2.0 * D * sizes.batch * (candidates + 3 * 3)


def _graph_bytes(sizes: Sizes) -> float:
    """Two layers forward and back, each reads a row per edge in both directions; Adam touches all rows."""
    return 4.0 * D * (4 * 2 * sizes.interactions + (sizes.users + sizes.items) * (4 + 1 + _ADAM))


def _graph_flops(sizes: Sizes) -> float:
    return 2.0 * D * 4 * 2 * sizes.interactions


def _sasrec_bytes(sizes: Sizes) -> float:
    rows = sizes.batch * sizes.length
    return 4.0 * D * rows * (2 * (1 + _ADAM) + 2 * 2 * 12)


def _sasrec_flops(sizes: Sizes) -> float:
    """Two blocks: 12 D^2 products per position and 2 L D for attention; twice as many for gradients."""
    rows = sizes.batch * sizes.length
    return 3.0 * 2 * 2 * rows * (12 * D * D + 2 * sizes.length * D)


_LIGHTGCN = ("model.name=lightgcn", "loss.name=bpr", *UNIFORM)
_SASREC = ("model.name=sasrec", "sasrec.layers=2", "loss.name=bce", *UNIFORM)


def cases(large: bool) -> dict[str, Case]:
    """The steps by name; small ones where there is no GPU."""
    million = Sizes(1_000_000, 1_000_000, 20_000_000, 8_192) if large else Sizes(2_000, 3_000, 40_000, 512)
    wide = Sizes(1_000_000, 1_000_000, 20_000_000, 65_536) if large else million
    gowalla = Sizes(29_858, 40_981, 810_128, 2_048) if large else million
    graph = Sizes(300_000, 300_000, 10_000_000, 8_192) if large else million
    rows = Sizes(100_000, 200_000, 1_000_000, 512, 50) if large else Sizes(500, 800, 8_000, 32, 20)
    long = Sizes(100_000, 200_000, 1_000_000, 256, 200) if large else rows
    uniform, adar, dns = (*MF, *UNIFORM), (*MF, "sampler.name=adar"), (*MF, "sampler.name=dns")
    return {
        "mf_gowalla_2048": Case(uniform, gowalla, _rows(1), _products(1)),
        "mf_1m_8192": Case(uniform, million, _rows(1), _products(1)),
        "mf_1m_65536": Case(uniform, wide, _rows(1), _products(1)),
        "mf_dns_1m_8192": Case(dns, million, _rows(16), _products(16)),
        "mf_adar_1m_8192": Case(adar, million, _rows(4), _products(256)),
        "mf_adar_1m_65536": Case(adar, wide, _rows(4), _products(256)),
        "lightgcn_gowalla_2048": Case(_LIGHTGCN, gowalla, _graph_bytes, _graph_flops),
        "lightgcn_10m_8192": Case(_LIGHTGCN, graph, _graph_bytes, _graph_flops),
        "sasrec_50_512": Case(_SASREC, rows, _sasrec_bytes, _sasrec_flops),
        "sasrec_200_256": Case(_SASREC, long, _sasrec_bytes, _sasrec_flops),
    }


VARIED = ("mf_1m_8192", "mf_adar_1m_8192", "sasrec_50_512")
"""The steps that also run in other ways."""


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("--steps", type=int, default=30, help="timed steps of each case")
    arguments = parser.parse_args()
    one_thread()
    started = time.perf_counter()
    device, count = "cuda" if torch.cuda.is_available() else "cpu", arguments.steps
    figures: dict[str, Any] = {"device": device, "ceiling": ceiling(device), "steps": {}, "variants": {}}
    print(figures["ceiling"], flush=True)

    def part(into: dict[str, Any], name: str, work: Callable[[], dict[str, Any]], way: str = "plain") -> None:
        try:
            if time.perf_counter() - started > BUDGET:
                raise TimeoutError("not run, since the time is used up")
            into[name] = work()
        except Exception as error:  # whatever fails, the other parts still count
            into[name] = {"error": f"{type(error).__name__}: {one_line(error, 300)}"}
        if device == "cuda":
            with contextlib.suppress(Exception):
                torch.cuda.empty_cache()
                torch.cuda.reset_peak_memory_stats()
        print(f"{time.perf_counter() - started:.0f} s, {way} {name}: {into[name]}", flush=True)
        record.write(
            "speed_gpu",
            figures,
            description="Training steps and full ranking on a GPU: milliseconds, shares of the copy's "
            "bandwidth and of the product's GFLOP/s, host syncs and kernels; other ways to run a step.",
            seeds=[0],
        )

    for name, case in cases(device == "cuda").items():
        part(figures["steps"], name, functools.partial(_time_case, case, device, count, figures))
    part(figures, "ranking", functools.partial(_time_ranking, device, figures))
    for variant in VARIANTS:
        of_variant = figures["variants"].setdefault(variant, {})
        for name in VARIED:
            work = functools.partial(_alone, name, variant, device, count)
            part(of_variant, name, work, variant)


def _alone(name: str, variant: str, device: str, count: int) -> dict[str, Any]:
    """Times a variant in a process of its own: a graph that cannot be recorded spoils the process, and the
    compiler may take too long."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        try:
            return pool.apply_async(_time_variant, (name, variant, device, count)).get(_LONGEST)
        except multiprocessing.TimeoutError:
            raise TimeoutError(f"took more than {_LONGEST:.0f} s") from None


def _prepare(case: Case, device: str) -> tuple[Steps, Iterator[tuple[torch.Tensor, ...]]]:
    sizes = case.sizes
    user_E, item_E = synthetic_pairs(sizes.users, sizes.items, sizes.interactions, device)
    observed = UserItems(user_E, item_E, sizes.users, sizes.items)
    settings = [*case.settings, f"train.batch_size={sizes.batch}", f"model.embedding_dim={D}"]
    steps = Steps(settings, observed, device, sizes.length)
    if sizes.length:
        return steps, _sequence_batches(sizes, device)
    return steps, pair_batches(user_E, item_E, sizes.batch)


def _sequence_batches(sizes: Sizes, device: str) -> Iterator[tuple[torch.Tensor, ...]]:
    """Rows `[B, L + 1]` a third of which, on average, is padding."""
    row_B = torch.arange(sizes.batch)
    while True:
        user_B = torch.randint(sizes.users, (sizes.batch,), device=device)
        item_BN = torch.randint(sizes.items, (sizes.batch, sizes.length + 1), device=device)
        first_B1 = torch.randint(2 * sizes.length // 3, (sizes.batch, 1), device=device)
        empty_BN = torch.arange(sizes.length + 1, device=device) < first_B1
        yield user_B, item_BN.masked_fill(empty_BN, PADDING), row_B


def _time_case(case: Case, device: str, count: int, figures: dict[str, Any]) -> dict[str, Any]:
    steps, batches = _prepare(case, device)
    staged = [next(batches) for _ in range(8)]
    found: dict[str, Any] = {"ms": _milliseconds(lambda n: steps(*staged[n % 8]), device, count)}
    seconds = found["ms"]["median"] / 1e3
    limits = figures["ceiling"]
    found["share_of_copy"] = short(case.bytes(case.sizes) / seconds / 1e9 / limits["copy_gb_per_s"])
    found["share_of_gemm"] = short(case.flops(case.sizes) / seconds / 1e9 / limits["gemm_float32_gflops"])
    if device == "cuda":
        found["host_syncs"] = _host_syncs(lambda: steps(*staged[0]))
        found |= _kernels(lambda: steps(*staged[1]))
        found["memory_gib"] = short(torch.cuda.max_memory_allocated() / 2**30)
    return found


def _milliseconds(step: Callable[[int], None], device: str, count: int) -> dict[str, float]:
    """Of single steps, and of a step among many that the host may run ahead of."""
    wait = torch.cuda.synchronize if device == "cuda" else lambda: None
    for number in range(5):
        step(number)
    wait()
    single = []
    for number in range(count):
        started = time.perf_counter()
        step(number)
        wait()
        single.append(1e3 * (time.perf_counter() - started))

    def together() -> None:
        for number in range(count):
            step(number)
        wait()

    return spread(single) | {"of_many": short(1e3 * timed(together) / count)}


def _host_syncs(step: Callable[[], None]) -> dict[str, Any]:
    """How often a step makes Python wait for the device, and where."""
    torch.cuda.synchronize()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            step()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    syncs = [warning for warning in caught if "synchroniz" in str(warning.message)]
    where = collections.Counter(f"{Path(warning.filename).name}:{warning.lineno}" for warning in syncs)
    return {"count": len(syncs), "where": [f"{place} x{times}" for place, times in where.most_common()]}


def _kernels(step: Callable[[], None]) -> dict[str, Any]:
    """The number of kernels of a step, the milliseconds in which the device was busy, the slowest kernels."""
    from torch.profiler import ProfilerActivity, profile

    try:
        with profile(activities=[ProfilerActivity.CUDA]) as profiled:
            step()
            torch.cuda.synchronize()
        events = [event for event in profiled.key_averages() if event.self_device_time_total > 0]
    except Exception as error:
        return {"kernels": {"error": one_line(error, 200)}}
    slowest = sorted(events, key=lambda event: -event.self_device_time_total)[:6]
    return {
        "kernels": {
            "count": sum(event.count for event in events),
            "busy_ms": short(sum(event.self_device_time_total for event in events) / 1e3),
            "slowest": [
                f"{event.key[:90]}: {event.self_device_time_total / 1e3:.3f} ms x{event.count}"
                for event in slowest
            ],
        }
    }


def _time_ranking(device: str, figures: dict[str, Any]) -> dict[str, Any]:
    """The top items of many users out of all items, next to the product and a plain top-k alone."""
    users, items = (16_384, 1_000_000) if device == "cuda" else (1_024, 5_000)
    user_E, item_E = synthetic_pairs(users, items, 20 * users, device)
    observed = UserItems(user_E, item_E, users, items)
    steps = Steps((*MF, *UNIFORM), observed, device)
    model = steps.model.eval()
    every = torch.arange(users, device=device)

    def ours() -> None:
        for _ in top_items(model, every, observed, K, items):
            pass

    def product_and_top() -> None:
        with torch.no_grad():
            user_UD, item_ID = model.users({"user": every}), model.items(torch.arange(items, device=device))
            for start in range(0, users, 1024):
                (user_UD[start : start + 1024] @ item_ID.T).topk(K, dim=1)

    found = {
        name: _milliseconds(lambda _, work=work: work(), device, 3)
        for name, work in (("ours", ours), ("product_and_top", product_and_top))
    }
    seconds = found["ours"]["median"] / 1e3
    share = 2.0 * users * items * D / seconds / 1e9 / figures["ceiling"]["gemm_float32_gflops"]
    found["ratio"] = short(found["product_and_top"]["median"] / found["ours"]["median"])
    found["share_of_gemm"] = short(share)
    if device == "cuda":
        one = torch.arange(256, device=device)
        found["host_syncs_of_a_tile"] = _host_syncs(lambda: list(top_items(model, one, observed, K, items)))
    return found


def _time_variant(name: str, variant: str, device: str, count: int) -> dict[str, Any]:
    """A variant next to the plain step, in this process."""
    steps, batches = _prepare(cases(device == "cuda")[name], device)
    staged = [next(batches) for _ in range(8)]
    before = _milliseconds(lambda number: steps(*staged[number % 8]), device, count)
    started = time.perf_counter()
    step = VARIANTS[variant](steps, device, staged)
    step(0)
    first = time.perf_counter() - started
    after = _milliseconds(step, device, count)
    return {
        "plain_ms": before["median"],
        "ms": after["median"],
        "ratio": short(before["median"] / after["median"]),
        "of_many_ratio": short(before["of_many"] / after["of_many"]),
        "first_step_s": short(first),
    }


Batches = list[tuple[torch.Tensor, ...]]


def _tf32(steps: Steps, device: str, staged: Batches) -> Callable[[int], None]:
    torch.set_float32_matmul_precision("high")
    return lambda number: steps(*staged[number % 8])


def _bfloat16(steps: Steps, device: str, staged: Batches) -> Callable[[int], None]:
    def step(number: int) -> None:
        with torch.autocast(device, torch.bfloat16):
            loss, _ = steps.loss(*staged[number % 8], (0, 1, number))
        steps.descend(loss)

    return step


def _compiled(steps: Steps, device: str, staged: Batches) -> Callable[[int], None]:
    loss_of = torch.compile(steps.loss, dynamic=False)

    def step(number: int) -> None:
        loss, _ = loss_of(*staged[number % 8], (0, 1, 7))  # one key: another would compile again
        steps.descend(loss)

    return step


def _cuda_graph(steps: Steps, device: str, staged: Batches) -> Callable[[int], None]:
    """The whole step as one CUDA graph. It cannot be recorded if the step waits for the device."""
    if device != "cuda":
        raise RuntimeError("needs a GPU")
    batch, key = tuple(tensor.clone() for tensor in staged[0]), (0, 1, 7)

    def whole() -> None:
        loss, _ = steps.loss(*batch, key)
        steps.descend(loss)

    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            whole()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        whole()

    def step(number: int) -> None:
        for held, tensor in zip(batch, staged[number % 8], strict=True):
            held.copy_(tensor)
        graph.replay()

    return step


VARIANTS = {"bfloat16": _bfloat16, "tf32": _tf32, "cuda_graph": _cuda_graph, "compiled": _compiled}


if __name__ == "__main__":
    main()
