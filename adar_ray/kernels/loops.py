"""Compiled loops for a CPU, each beside the plain torch that does the same on any device.

A training step looks up and updates thousands of single rows. There, torch's operations spend their time on
memory that nothing else needs. Numba compiles each loop once and keeps the result on disk.

Legend: B rows, K numbers per row, E pairs, R rows of gradients, N rows of a table, P vectors of a pool, D
dimensions.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numba import njit

_OPTIONS: dict[str, Any] = {
    "nogil": True,
    "fastmath": {"contract", "nsz", "arcp", "reassoc"},
    "error_model": "numpy",
}


def _compiled(loop: Callable[..., Any]) -> Callable[..., Any]:
    try:
        return njit(cache=True, **_OPTIONS)(loop)
    except RuntimeError:  # no folder that Numba may write to: it compiles in each process
        return njit(**_OPTIONS)(loop)


@_compiled
def _contains(
    start: np.ndarray, pair: np.ndarray, bits: np.ndarray, n_items: int, user: int, item: int
) -> bool:
    """Whether a user has interacted with an item: one bit, or a binary search among the user's own."""
    if len(bits):
        at = user * n_items + item
        return (bits[at >> 3] >> (at & 7)) & 1 != 0
    low, high, wanted = start[user], start[user + 1], user * n_items + item
    while low < high:
        middle = (low + high) >> 1
        if pair[middle] < wanted:
            low = middle + 1
        else:
            high = middle
    return low < start[user + 1] and pair[low] == wanted


@_compiled
def contains(
    start: np.ndarray,
    pair: np.ndarray,
    bits: np.ndarray,
    n_items: int,
    user: np.ndarray,
    item: np.ndarray,
    found: np.ndarray,
) -> None:
    """`UserItems.contains`. Writes `found`, `[B, K]`."""
    for row in range(item.shape[0]):
        for k in range(item.shape[1]):
            found[row, k] = _contains(start, pair, bits, n_items, user[row], item[row, k])


@_compiled
def unseen(
    start: np.ndarray,
    pair: np.ndarray,
    bits: np.ndarray,
    n_items: int,
    user: np.ndarray,
    number: np.ndarray,
    item: np.ndarray,
    found: np.ndarray,
) -> None:
    """`UserItems.unseen`: a binary search among each user's items. Writes `item` and `found`, `[B, K]`."""
    for row in range(len(user)):
        first, end = start[user[row]], start[user[row] + 1]
        unseen = n_items - (end - first)
        offset = user[row] * n_items
        for column in range(number.shape[1]):
            rank = number[row, column] * unseen >> 31
            low, high = first, end
            while low < high:
                middle = (low + high) >> 1
                if pair[middle] - offset - (middle - first) <= rank:
                    low = middle + 1
                else:
                    high = middle
            item[row, column] = min(rank + low - first, n_items - 1)
            found[row, column] = unseen > 0


@_compiled
def users_by_item(start: np.ndarray, pair: np.ndarray, first: np.ndarray, user: np.ndarray) -> None:
    """Sorts pairs by their items.

    Args:
        start, pair: as in `UserItems.arrays`.
        first: receives where each item's users begin, `[n_items + 1]`; zeros before.
        user: receives the users of all items, `[E]`.
    """
    n_items = len(first) - 1
    for of in range(len(start) - 1):
        for entry in range(start[of], start[of + 1]):
            first[pair[entry] - of * n_items + 1] += 1
    for item in range(n_items):
        first[item + 1] += first[item]
    at = first.copy()
    for of in range(len(start) - 1):
        for entry in range(start[of], start[of + 1]):
            item = pair[entry] - of * n_items
            user[at[item]] = of
            at[item] += 1


@_compiled
def contains_shared(
    first: np.ndarray,
    by_item: np.ndarray,
    item: np.ndarray,
    user: np.ndarray,
    found: np.ndarray,
    place: np.ndarray,
) -> None:
    """`UserItems.contains_shared`.

    Args:
        first, by_item: as from `users_by_item`.
        item: `[P]`.
        user: `[B]`.
        found: receives True where the user has interacted with the item, `[B + 1, P]`; False before. The last
            row is for those of other users.
        place: -1 for each user, before and after.
    """
    same = np.empty(len(user), np.int32)  # the first row of the row's user
    for row in range(len(user)):
        if place[user[row]] < 0:
            place[user[row]] = row
        same[row] = place[user[row]]
    for column in range(len(item)):
        for entry in range(first[item[column]], first[item[column] + 1]):
            found[place[by_item[entry]], column] = True  # in the last row if the user has none
    for row in range(len(user)):
        if same[row] < row:
            found[row] = found[same[row]]
        place[user[row]] = -1


@_compiled
def sum_rows(
    row: np.ndarray,
    gradient: np.ndarray,
    place: np.ndarray,
    distinct: np.ndarray,
    total: np.ndarray,
    counts: np.ndarray,
) -> None:
    """Adds gradients to the sums of the rows of a table that they belong to.

    Args:
        row: rows of the table, `[R]`.
        gradient: `[R, D]`.
        place: of each of the table's rows among `distinct`, `[N]`; -1 for those that have no sum yet.
        distinct, total: the rows that have a sum, in order of appearance, and their sums: a stretch for each
            worker that rows are dealt to.
        counts: how many each worker has.
    """
    room = len(distinct) // len(counts)
    for entry in range(len(row)):
        this = row[entry]
        at = place[this]
        if at < 0:
            worker = this % len(counts)
            at = worker * room + counts[worker]
            counts[worker] += 1
            place[this], distinct[at] = at, this
            total[at] = gradient[entry]
        else:
            for column in range(gradient.shape[1]):
                total[at, column] += gradient[entry, column]


@_compiled
def sum_products(
    row: np.ndarray,
    factor: np.ndarray,
    vector: np.ndarray,
    of: np.ndarray,
    own: np.ndarray,
    weight: np.ndarray,
    place: np.ndarray,
    distinct: np.ndarray,
    total: np.ndarray,
    counts: np.ndarray,
) -> None:
    """`sum_rows` of gradients that are never made.

    That of row `row[r]` of the table `weight` is `own[r]` times the row itself and, for each k,
    `factor[r, k]` times row `of[r, k]` of the table `vector`.
    """
    room = len(distinct) // len(counts)
    for entry in range(len(row)):
        this, f = row[entry], own[entry]
        at = place[this]
        if at < 0:
            worker = this % len(counts)
            at = worker * room + counts[worker]
            counts[worker] += 1
            place[this], distinct[at] = at, this
            for column in range(weight.shape[1]):
                total[at, column] = f * weight[this, column]
        elif f != 0:
            for column in range(weight.shape[1]):
                total[at, column] += f * weight[this, column]
        for k in range(factor.shape[1]):
            f, other = factor[entry, k], of[entry, k]
            for column in range(weight.shape[1]):
                total[at, column] += f * vector[other, column]


@_compiled
def adam_rows(
    weight: np.ndarray,
    mean: np.ndarray,
    square: np.ndarray,
    row: np.ndarray,
    moment: np.ndarray,
    gradient: np.ndarray,
    lr: float,
    beta_1: float,
    beta_2: float,
    eps: float,
    step: float,
    decay: float,
) -> None:
    """Adam on some rows of a table, each once, in place. `moment` has their rows in `mean` and `square`;
    weights lose the share `decay` before."""
    one, kept = np.float32(1), np.float32(1 - decay)
    rate, epsilon = np.float32(lr / (1 - beta_1**step)), np.float32(eps)
    scale = np.float32(1 / np.sqrt(1 - beta_2**step))
    b1, b2 = np.float32(beta_1), np.float32(beta_2)
    for entry in range(len(row)):
        at, state = row[entry], moment[entry]
        for column in range(gradient.shape[1]):
            g = gradient[entry, column]
            m = b1 * mean[state, column] + (one - b1) * g
            v = b2 * square[state, column] + (one - b2) * g * g
            mean[state, column], square[state, column] = m, v
            weight[at, column] = kept * weight[at, column] - rate * m / (np.sqrt(v) * scale + epsilon)


@_compiled
def dots(user: np.ndarray, item: np.ndarray, score: np.ndarray) -> None:
    """Dot products of a row's vector, `[B, D]`, with K others, `[B, K, D]`. Writes `score`, `[B, K]`."""
    for row in range(item.shape[0]):
        for k in range(item.shape[1]):
            total = np.float32(0)
            for column in range(item.shape[2]):
                total += user[row, column] * item[row, k, column]
            score[row, k] = total


@_compiled
def pair_terms(
    user_table: np.ndarray,
    user: np.ndarray,
    item_table: np.ndarray,
    positive: np.ndarray,
    negative: np.ndarray,
    positive_score: np.ndarray,
    negative_score: np.ndarray,
    penalty: np.ndarray,
) -> None:
    """`TablePairs.terms`. Writes both scores, `[B]` and `[B, K]`, and `penalty`, `[B]`."""
    half, K = np.float32(0.5), negative.shape[1]
    share = np.float32(0.5 / max(K, 1))
    for row in range(len(user)):
        u, p = user[row], positive[row]
        score = user_square = item_square = np.float32(0)
        for column in range(user_table.shape[1]):
            left, right = user_table[u, column], item_table[p, column]
            score += left * right
            user_square += left * left
            item_square += right * right
        total = half * (user_square + item_square)
        positive_score[row] = score
        for k in range(K):
            n = negative[row, k]
            score = item_square = np.float32(0)
            for column in range(user_table.shape[1]):
                right = item_table[n, column]
                score += user_table[u, column] * right
                item_square += right * right
            negative_score[row, k] = score
            total += share * item_square
        penalty[row] = total


@_compiled
def dots_backward(
    user: np.ndarray,
    item: np.ndarray,
    score_gradient: np.ndarray,
    user_gradient: np.ndarray,
    item_gradient: np.ndarray,
) -> None:
    """The gradients of `dots` from that of its scores."""
    for row in range(item.shape[0]):
        for column in range(item.shape[2]):
            user_gradient[row, column] = 0
        for k in range(item.shape[1]):
            g = score_gradient[row, k]
            for column in range(item.shape[2]):
                user_gradient[row, column] += g * item[row, k, column]
                item_gradient[row, k, column] = g * user[row, column]


@_compiled
def hardest_of_windows(
    user_table: np.ndarray,
    user: np.ndarray,
    positive_table: np.ndarray,
    positive: np.ndarray,
    pool: np.ndarray,
    mean: np.ndarray,
    seen: np.ndarray,
    offset: np.ndarray,
    width: np.ndarray,
    M: int,
    noise: np.ndarray,
    found: np.ndarray,
    noise_score: np.ndarray,
    mean_score: np.ndarray,
    positive_score: np.ndarray,
) -> None:
    """The noise of `AdarSampler`, and all scores that its transition point depends on.

    Args:
        user_table, user: vectors, and which of them each row has, `[B]`.
        positive_table, positive: the same of positives.
        pool, mean: `[P, D]`, and their mean, `[D]`.
        seen: True where a vector must not be the noise, `[B, P]`; without columns if all may be.
        offset: where each row's K windows into the pool begin, `[B]`; they follow each other around it.
        width: how many members of each window count, `[B]`, rounded down.
        M: how many there are.
        noise, found: receive positions in the pool `[B, K]`, and False where all have been seen.
        noise_score, mean_score, positive_score: receive scores of the noise, `[B, K]`, and `[B]` of the mean
            and of the positive.
    """
    size, dim = pool.shape
    widest = min(M, size)
    around = np.empty((size + widest + 3, dim), np.float32)  # the pool, and its first vectors again
    for at in range(len(around)):
        around[at] = pool[at % size]
    window = np.empty(widest + 3, np.float32)
    for row in range(len(user)):
        u, p = user[row], positive[row]
        of_mean, of_positive = np.float32(0), np.float32(0)
        for column in range(dim):
            of_mean += user_table[u, column] * mean[column]
            of_positive += user_table[u, column] * positive_table[p, column]
        mean_score[row], positive_score[row] = of_mean, of_positive
        begin, members = offset[row], min(int(width[row]), widest)
        for k in range(noise.shape[1]):
            for member in range(0, members, 4):  # four at a time, which is faster
                at = begin + member
                s0 = s1 = s2 = s3 = np.float32(0)
                for column in range(dim):
                    of_user = user_table[u, column]
                    s0 += of_user * around[at, column]
                    s1 += of_user * around[at + 1, column]
                    s2 += of_user * around[at + 2, column]
                    s3 += of_user * around[at + 3, column]
                window[member], window[member + 1], window[member + 2], window[member + 3] = s0, s1, s2, s3
            best, hardest = np.float32(-np.inf), 0
            for member in range(members):
                if window[member] > best:
                    best, hardest = window[member], member
            is_found = best > -np.inf
            if seen.shape[1] and seen[row, (begin + hardest) % size]:  # few users have
                best, hardest, is_found = window[0], 0, False
                for member in range(members):
                    if not seen[row, (begin + member) % size] and (not is_found or window[member] > best):
                        best, hardest, is_found = window[member], member, True
            noise[row, k], found[row, k], noise_score[row, k] = (begin + hardest) % size, is_found, best
            begin = (begin + M) % size


@_compiled
def stop_at_boundary(
    noise_score: np.ndarray,
    mean_score: np.ndarray,
    positive_score: np.ndarray,
    boundary: np.ndarray,
    timestep: np.ndarray,
    cos: np.ndarray,
    sin: np.ndarray,
    diffused: np.ndarray,
) -> None:
    """Diffuses positives up to their transition points, by scores alone (`transition_angle`).

    Args:
        noise_score, mean_score, positive_score: as from `hardest_of_windows`.
        boundary: how far above the mean it lies, `[B]`.
        timestep, cos, sin, diffused: receive timesteps, the cosines and sines of their angles, and the scores
            there, `[B, K]`.
    """
    for row in range(noise_score.shape[0]):
        middle = mean_score[row]
        r, z = np.float64(positive_score[row] - middle), np.float64(boundary[row])
        for k in range(noise_score.shape[1]):
            raw = noise_score[row, k]
            b = np.float64(raw - middle)
            square = r * r + b * b
            cosine = 0.0
            if b <= z and square > 0:
                # Of the sum of delta and arccos(z / R), with R^2 = r^2 + b^2 and delta = atan2(b, r).
                cosine = (r * z - b * math.sqrt(max(square - z * z, 0.0))) / square
            cosine = min(cosine, 1.0) if cosine > 0 else 0.0
            c, s = np.float32(cosine), np.float32(math.sqrt(1 - cosine * cosine))
            timestep[row, k] = math.acos(cosine) * (2 / math.pi)
            cos[row, k], sin[row, k] = c, s
            diffused[row, k] = c * positive_score[row] + s * raw + (np.float32(1) - c - s) * middle


@_compiled
def diffused_backward(
    user_table: np.ndarray,
    user: np.ndarray,
    positive_table: np.ndarray,
    positive: np.ndarray,
    pool: np.ndarray,
    mean: np.ndarray,
    noise: np.ndarray,
    cos: np.ndarray,
    sin: np.ndarray,
    score_gradient: np.ndarray,
    user_gradient: np.ndarray,
    pool_gradient: np.ndarray,
) -> None:
    """The gradients of dot products with diffused positives from that of the scores `[B, K]`.

    Args:
        user_table, user, positive_table, positive: as in `hardest_of_windows`.
        pool, mean: `[P, D]` and `[D]`.
        noise, cos, sin: `[B, K]`.
        user_gradient, pool_gradient: receive the gradients; the second is added to. The positive gets none.
    """
    for row in range(noise.shape[0]):
        u, p = user[row], positive[row]
        of_positive, of_mean = np.float32(0), np.float32(0)
        for k in range(noise.shape[1]):
            g = score_gradient[row, k]
            of_positive += g * cos[row, k]
            of_mean += g * (np.float32(1) - cos[row, k] - sin[row, k])
        for column in range(mean.shape[0]):
            user_gradient[row, column] = of_positive * positive_table[p, column] + of_mean * mean[column]
        for k in range(noise.shape[1]):
            g, at = score_gradient[row, k] * sin[row, k], noise[row, k]
            for column in range(mean.shape[0]):
                user_gradient[row, column] += g * pool[at, column]
                pool_gradient[at, column] += g * user_table[u, column]


@_compiled
def means(value: np.ndarray, at: np.ndarray, mean: np.ndarray) -> None:
    """`Source.means`: of values `[P]` at places `[B, K]`. Writes `mean`, `[B]`."""
    for row in range(at.shape[0]):
        total = np.float32(0)
        for k in range(at.shape[1]):
            total += value[at[row, k]]
        mean[row] = total / np.float32(at.shape[1])


@_compiled
def means_backward(mean_gradient: np.ndarray, at: np.ndarray, value_gradient: np.ndarray) -> None:
    """Adds the gradients of `means` to `value_gradient`, `[P]`."""
    for row in range(at.shape[0]):
        g = mean_gradient[row] / np.float32(at.shape[1])
        for k in range(at.shape[1]):
            value_gradient[at[row, k]] += g


@_compiled
def step_statistics(
    positive: np.ndarray,
    negative: np.ndarray,
    mask: np.ndarray,
    timestep: np.ndarray,
    temperature: float,
    histogram: np.ndarray,
) -> tuple[float, int, float, int]:
    """Sums over the negatives of a step: see `StepStatistics`.

    Args:
        positive, negative: scores, `[B]` and `[B, K]`.
        mask: False for negatives that do not count, `[B, K]`.
        timestep: `[B, K]`; no columns if there are none.
        histogram: receives how many timesteps are in each of its equal parts.

    Returns:
        The sum of the negatives' hardness, their number, the sum of their timesteps, and how many are 1.
    """
    hardness, count, timesteps, uncrossed = 0.0, 0, 0.0, 0
    for row in range(negative.shape[0]):
        for k in range(negative.shape[1]):
            if mask[row, k]:
                margin = (negative[row, k] - positive[row]) / temperature
                hardness += 1 / (1 + math.exp(-margin))
                count += 1
        for k in range(timestep.shape[1]):
            if mask[row, k]:
                share = timestep[row, k]
                timesteps += share
                uncrossed += share == 1
                part = 0 if math.isnan(share) else int(share * len(histogram))
                histogram[min(max(part, 0), len(histogram) - 1)] += 1
    return hardness, count, timesteps, uncrossed
