"""Splits into training, validation and test, against brute force and by hand."""

import numpy as np
import pytest

from adar_ray.data.split import TEST, TRAIN, VALID, SplitProtocol, assign, hash_pairs, temporal_cuts


def split_rows(protocol: SplitProtocol, user, item=None, timestamp=None, given=None, cuts=None) -> np.ndarray:
    user = np.asarray(user, dtype=np.int32)
    item = np.arange(len(user), dtype=np.int32) if item is None else np.asarray(item, dtype=np.int32)
    timestamp = np.zeros(len(user), dtype=np.int64) if timestamp is None else np.asarray(timestamp)
    given = np.zeros(len(user), dtype=np.int8) if given is None else np.asarray(given, dtype=np.int8)
    result = assign(protocol, user, item, timestamp, given, cuts)
    assert len(result) == len(user)
    assert set(result.tolist()) <= {TRAIN, VALID, TEST}
    return result


def users_of_sizes(*sizes: int) -> np.ndarray:
    """User 0 has sizes[0] rows, user 1 has sizes[1], ...; sorted by user."""
    return np.repeat(np.arange(len(sizes)), sizes)


def rounded(x: float) -> int:
    return int(x + 0.5)


# Leave one out


def test_leave_one_out_holds_out_the_last_two_and_keeps_small_users_in_training():
    result = split_rows(SplitProtocol(protocol="leave-one-out"), users_of_sizes(1, 2, 3, 5, 1))
    assert result.tolist() == [
        *[TRAIN],
        *[TRAIN, TRAIN],
        *[TRAIN, VALID, TEST],
        *[TRAIN, TRAIN, TRAIN, VALID, TEST],
        *[TRAIN],
    ]


def test_leave_one_out_with_gaps_in_user_ids():
    result = split_rows(SplitProtocol(protocol="leave-one-out"), [7, 7, 7, 900, 900, 900, 900])
    assert result.tolist() == [TRAIN, VALID, TEST, TRAIN, TRAIN, VALID, TEST]


# Ratio


def test_repeats_of_a_pair_are_split_alike_whoever_else_is_there():
    random = np.random.default_rng(0)
    user = np.sort(random.integers(0, 300, 6000))
    item = random.integers(0, 8, 6000)
    protocol = SplitProtocol(protocol="ratio", test_fraction=0.3, valid_fraction=0.2)
    together = split_rows(protocol, user, item)
    alone = [split_rows(protocol, user[user == u], item[user == u]) for u in range(300)]
    assert together.tolist() == np.concatenate(alone).tolist()


@pytest.mark.parametrize(("test", "valid"), [(0.2, 0.1), (0.5, 0.5), (0.1, 0.0), (0.9, 0.9)])
def test_ratio_takes_a_rounded_share_of_every_user_but_never_all(test, valid):
    sizes = range(1, 40)
    user = users_of_sizes(*sizes)
    protocol = SplitProtocol(protocol="ratio", test_fraction=test, valid_fraction=valid)
    result = split_rows(protocol, user)
    for u, size in enumerate(sizes):
        mine = result[user == u].tolist()
        in_test = min(rounded(size * test), size - 1)
        left = size - in_test
        assert mine.count(TEST) == in_test
        assert mine.count(VALID) == min(rounded(left * valid), left - 1)
        assert mine.count(TRAIN) >= 1


def test_ratio_depends_only_on_the_pair_and_the_seed():
    protocol = SplitProtocol(protocol="ratio", seed=4)
    user = users_of_sizes(30, 25, 40)
    item = np.arange(95) * 13 % 101
    result = split_rows(protocol, user, item)
    alone = user == 1
    assert (split_rows(protocol, user[alone], item[alone]) == result[alone]).all()
    shuffled = np.lexsort((np.random.default_rng(0).random(95), user))
    assert (split_rows(protocol, user[shuffled], item[shuffled]) == result[shuffled]).all()
    assert (split_rows(protocol.model_copy(update={"seed": 5}), user, item) != result).any()


@pytest.mark.parametrize("part", [TEST, VALID])
def test_ratio_chooses_evenly(part):
    """Every place in a user's history is chosen equally often, whatever user or item it is."""
    users, size = 3000, 10
    user = np.repeat(np.arange(users), size)
    item = np.tile(np.arange(size), users)
    protocol = SplitProtocol(protocol="ratio", test_fraction=0.2, valid_fraction=0.25)
    chosen = (split_rows(protocol, user, item) == part).reshape(users, size).sum(0)
    assert chosen.sum() == users * 2
    assert np.abs(chosen - users * 0.2).max() < 4 * np.sqrt(users * 0.2 * 0.8)


def test_the_lowest_hashes_go_to_test_and_those_of_the_next_seed_to_validation():
    """So that whoever prepares a source again gets the same split, also with another version."""
    user, item = users_of_sizes(10, 20), np.arange(30, dtype=np.int32)
    protocol = SplitProtocol(protocol="ratio", test_fraction=0.3, valid_fraction=0.3, seed=4)
    result = split_rows(protocol, user, item)
    for of, in_test, in_valid in ((0, 3, 2), (1, 6, 4)):
        hashes = {seed: hash_pairs(user, item, seed).tolist() for seed in (4, 5)}
        rows = sorted(np.flatnonzero(user == of).tolist(), key=hashes[4].__getitem__)
        rest = sorted(rows[in_test:], key=hashes[5].__getitem__)
        assert set(np.flatnonzero((result == TEST) & (user == of))) == {*rows[:in_test]}
        assert set(np.flatnonzero((result == VALID) & (user == of))) == {*rest[:in_valid]}


def test_pair_hash_is_splitmix64_over_seed_and_pair():
    mask = (1 << 64) - 1

    def mix(x: int) -> int:
        x = (x + 0x9E3779B97F4A7C15) & mask
        x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9 & mask
        x = (x ^ (x >> 27)) * 0x94D049BB133111EB & mask
        return x ^ (x >> 31)

    expected = [mix(mix(mix(9) ^ a) ^ b) for a, b in ((0, 0), (3, 5), (2**31 - 1, 7))]
    a, b = np.array([0, 3, 2**31 - 1], dtype=np.int32), np.array([0, 5, 7], dtype=np.int32)
    assert [int(x) for x in hash_pairs(a, b, 9)] == expected


# Temporal


def brute_force_cuts(time: np.ndarray, split: SplitProtocol) -> tuple[int, int]:
    """The first moments from which on there is at most the share that is wanted, searched one by one."""
    moments = [*range(int(time.min()), int(time.max()) + 2)]
    test = next(m for m in moments if (time >= m).sum() <= split.test_fraction * len(time))
    in_test = int((time >= test).sum())
    wanted = in_test + split.valid_fraction * (len(time) - in_test)
    valid = next(m for m in moments if (time >= m).sum() <= wanted)
    return valid, test


def find_cuts(time: np.ndarray, split: SplitProtocol) -> tuple[int, int]:
    def rows_from(edges: list[int]) -> list[int]:
        return [int((time >= edge).sum()) for edge in edges]

    return temporal_cuts(rows_from, len(time), int(time.min()), int(time.max()), split)


@pytest.mark.parametrize("span", [1, 2, 5, 64, 65, 66, 300, 5000])
@pytest.mark.parametrize("start", [0, 1_500_000_000])
def test_temporal_cuts_match_brute_force_with_ties(span, start):
    draw = np.random.default_rng(span)
    for rows in (1, 2, 7, 100):
        time = start + draw.integers(span, size=rows)
        for test, valid in ((0.2, 0.1), (0.5, 0.0), (0.01, 0.9)):
            split = SplitProtocol(protocol="temporal", test_fraction=test, valid_fraction=valid)
            assert find_cuts(time, split) == brute_force_cuts(time, split)


def test_temporal_cuts_with_nanoseconds():
    time = 1_700_000_000_000_000_000 + np.arange(100) * 1_000_003 + np.arange(100) % 7
    split = SplitProtocol(protocol="temporal", test_fraction=0.2, valid_fraction=0.1)
    valid, test = find_cuts(time, split)
    assert (time >= test).sum() == 20
    assert (time >= valid).sum() == 28
    assert test == time[79] + 1  # the earliest moment that has no more


def test_temporal_moment_of_a_cut_comes_after_it():
    split = SplitProtocol(protocol="temporal")
    result = split_rows(split, [0, 0, 0, 1, 1, 1], timestamp=[9, 10, 20, 19, 20, 21], cuts=(10, 20))
    assert result.tolist() == [TRAIN, VALID, TEST, VALID, TEST, TEST]


def test_temporal_has_no_validation_if_both_cuts_are_equal():
    result = split_rows(SplitProtocol(protocol="temporal"), [0, 0, 0], timestamp=[1, 2, 3], cuts=(3, 3))
    assert result.tolist() == [TRAIN, TRAIN, TEST]


# Given


def test_given_takes_validation_from_training():
    user = users_of_sizes(*[20] * 30)
    given = np.where(np.arange(len(user)) % 4 == 0, TEST, TRAIN)
    result = split_rows(SplitProtocol(protocol="given", valid_fraction=0.2), user, given=given)
    assert ((result == TEST) == (given == TEST)).all()
    for u in range(30):
        assert (result[user == u] == VALID).sum() == 3  # of 15


def test_given_never_takes_all_training_of_a_user():
    result = split_rows(
        SplitProtocol(protocol="given", valid_fraction=0.9), [0, 1, 1], given=[TRAIN, TRAIN, TEST]
    )
    assert result.tolist() == [TRAIN, TRAIN, TEST]


def test_given_is_kept_if_no_validation_is_wanted():
    given = np.array([TRAIN, VALID, TEST, TRAIN, TRAIN, TRAIN, TRAIN, TRAIN, TRAIN, TEST])
    result = split_rows(
        SplitProtocol(protocol="given", valid_fraction=0.0), users_of_sizes(3, 7), given=given
    )
    assert result.tolist() == given.tolist()


def test_no_rows():
    for protocol in ("leave-one-out", "ratio", "temporal", "given"):
        assert split_rows(SplitProtocol(protocol=protocol), [], cuts=(1, 2)).tolist() == []


def test_record_holds_only_the_settings_that_the_protocol_uses():
    def described(protocol: str) -> dict:
        split = SplitProtocol(protocol=protocol, test_fraction=0.3, valid_fraction=0.2, seed=5)
        return split.record().model_dump()

    assert described("leave-one-out") == {"protocol": "leave-one-out"}
    assert described("ratio") == {"protocol": "ratio", "test_fraction": 0.3, "valid_fraction": 0.2, "seed": 5}
    assert described("temporal") == {"protocol": "temporal", "test_fraction": 0.3, "valid_fraction": 0.2}
    assert described("given") == {"protocol": "given", "valid_fraction": 0.2, "seed": 5}
