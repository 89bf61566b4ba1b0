"""A compiled kernel of the same rule: MF, BPR, one uniform unseen negative, Adam on the rows of the batch.

The floor that an interpreter with tensors can be measured against: one pass over the batch accumulates the
gradients, one over the touched rows applies them.

Legend: E interactions, U users, I items, D dimensions.
"""

from __future__ import annotations

from typing import Any

from benchmarks.speed.peer_protocol import seconds, serve

held: dict[str, Any] = {}


def _compile() -> Any:
    import math

    import numba
    import numpy as np

    @numba.njit(fastmath=True)
    def draw(state):
        """xorshift64*; the state changes in place."""
        x = state[0]
        x ^= x >> np.uint64(12)
        x ^= x << np.uint64(25)
        x ^= x >> np.uint64(27)
        state[0] = x
        return (x * np.uint64(2685821657736338717)) >> np.uint64(33)

    @numba.njit(fastmath=True)
    def lower_bound(item_E, low, high, item):
        while low < high:
            middle = (low + high) // 2
            if item_E[middle] < item:
                low = middle + 1
            else:
                high = middle
        return low

    @numba.njit(fastmath=True)
    def update(weight, first, second, gradient, touched, count, rate, root):
        """Adam on the touched rows, whose gradients are cleared."""
        D = weight.shape[1]
        for at in range(count):
            row = touched[at]
            for d in range(D):
                g = gradient[row, d]
                m = np.float32(0.9) * first[row, d] + np.float32(0.1) * g
                v = np.float32(0.999) * second[row, d] + np.float32(0.001) * g * g
                first[row, d] = m
                second[row, d] = v
                weight[row, d] -= rate * m / (math.sqrt(v) * root + np.float32(1e-8))
                gradient[row, d] = 0

    @numba.njit(fastmath=True)
    def add(gradient, marked, touched, count, row, step):
        """The number of touched rows, with this one among them."""
        if marked[row] != step:
            marked[row] = step
            touched[count] = row
            return count + 1
        return count

    @numba.njit(fastmath=True)
    def epoch(order, user_E, item_E, start_U, user, item, batch, rate, l2, step, state):
        (user_W, user_1, user_2, user_G, user_M, user_T) = user
        (item_W, item_1, item_2, item_G, item_M, item_T) = item
        D, n_items = user_W.shape[1], np.uint64(item_W.shape[0])
        for begin in range(0, len(order), batch):
            step += 1
            end = min(begin + batch, len(order))
            share = np.float32(1.0 / (end - begin))
            users = items = 0
            for at in range(begin, end):
                e = order[at]
                u, i = user_E[e], item_E[e]
                low, high = start_U[u], start_U[u + 1]
                while True:
                    j = np.int64((draw(state) * n_items) >> np.uint64(31))
                    found = lower_bound(item_E, low, high, j)
                    if found == high or item_E[found] != j:
                        break
                users = add(user_G, user_M, user_T, users, u, step)
                items = add(item_G, item_M, item_T, items, i, step)
                items = add(item_G, item_M, item_T, items, j, step)
                x = np.float32(0)
                for d in range(D):
                    x += user_W[u, d] * (item_W[i, d] - item_W[j, d])
                g = -share / (np.float32(1) + np.float32(math.exp(x)))
                decay = share * l2
                for d in range(D):
                    w, p, n = user_W[u, d], item_W[i, d], item_W[j, d]
                    user_G[u, d] += g * (p - n) + decay * w
                    item_G[i, d] += g * w + decay * p
                    item_G[j, d] += -g * w + decay * n
            root = np.float32(1 / math.sqrt(1 - 0.999**step))
            stride = np.float32(rate / (1 - 0.9**step))
            update(user_W, user_1, user_2, user_G, user_T, users, stride, root)
            update(item_W, item_1, item_2, item_G, item_T, items, stride, root)
        return step

    return epoch


def start(arrays: str, batch_size: int) -> dict[str, Any]:
    import numpy as np

    rows = np.load(f"{arrays}/train.npy").astype(np.int64)
    rows = rows[np.lexsort((rows[:, 1], rows[:, 0]))]
    user_E, item_E = np.ascontiguousarray(rows[:, 0]), np.ascontiguousarray(rows[:, 1])
    n_users, n_items = np.load(f"{arrays}/sizes.npy").tolist()
    rng = np.random.default_rng(0)

    def table(rows: int) -> tuple[Any, ...]:
        weight = rng.normal(0, 0.1, (rows, 64)).astype(np.float32)
        moments = tuple(np.zeros_like(weight) for _ in range(3))
        return weight, *moments, np.zeros(rows, np.int64), np.zeros(rows, np.int64)

    held.update(
        epoch=_compile(),
        user_E=user_E,
        item_E=item_E,
        start_U=np.searchsorted(user_E, np.arange(n_users + 1)),
        user=table(n_users),
        item=table(n_items),
        batch=batch_size,
        step=0,
        state=np.array([88172645463325252], np.uint64),
        rng=rng,
    )
    return {}


def epoch() -> dict[str, Any]:
    def run() -> None:
        order = held["rng"].permutation(len(held["user_E"]))
        names = ("user_E", "item_E", "start_U", "user", "item", "batch")
        given = (held[name] for name in names)
        held["step"] = held["epoch"](order, *given, 1e-3, 1e-4, held["step"], held["state"])

    return seconds(run)


if __name__ == "__main__":
    serve({"start": start, "epoch": epoch})
