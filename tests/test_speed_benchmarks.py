"""What the speed benchmarks compute from times, and how they talk to other processes."""

import sys
from pathlib import Path

import pytest
import torch

from adar_ray.interactions.user_items import UserItems
from benchmarks import record
from benchmarks.speed import measure, targets
from benchmarks.speed.measure import ProcessError, alternate, compare, run_process
from benchmarks.speed.peers import Peer, PeerError
from benchmarks.speed.ranking import K, least
from benchmarks.speed.targets import Row, Target


def test_sides_take_turns_and_every_other_round_is_reversed() -> None:
    turns: list[str] = []
    sides = {name: lambda name=name: float(turns.append(name) or len(turns)) for name in "ab"}
    assert alternate(sides, 2) == {"a": [1.0, 4.0], "b": [2.0, 3.0]}
    assert turns == ["a", "b", "b", "a"]


def test_a_ratio_is_that_of_the_medians_with_the_extremes_of_the_rounds() -> None:
    compared = compare({"ours": [1.0, 2.0, 4.0], "peer": [4.0, 4.0, 4.0]}, "case.")
    assert compared["ratios"] == {"case.peer": {"median": 2.0, "low": 1.0, "high": 4.0}}
    assert compared["seconds"]["case.ours"] == {"median": 2.0, "low": 1.0, "high": 4.0}


@pytest.mark.parametrize(
    ("at_most", "measured", "verdict"),
    [
        (False, 1.5, "reached"),
        (False, 1.4, "**not reached**"),
        (True, 1.5, "reached"),
        (True, 1.6, "**not reached**"),
        (False, None, "not measured"),
    ],
)
def test_a_target_is_reached_at_its_limit(at_most: bool, measured: float | None, verdict: str) -> None:
    assert Row(Target("a", (), "a figure", 1.5, at_most), measured).verdict == verdict


def test_rows_read_ratios_and_plain_figures_from_the_results(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(record, "RESULTS", tmp_path)
    wanted = (Target("a", ("ratios", "x"), "x", 1), Target("a", ("peak_gb", "y"), "y", 1, at_most=True))
    monkeypatch.setattr(targets, "TARGETS", wanted)
    spread = {"median": 2.0, "low": 1.0, "high": 3.0}
    figures = {"ratios": {"x": spread}, "peak_gb": {"y": 0.5}}
    record.write("speed_a", figures, description="Figures.", seeds=[0])
    assert list(targets.rows()) == [Row(wanted[0], 2.0, 1.0, 3.0), Row(wanted[1], 0.5)]


def test_every_target_names_a_benchmark() -> None:
    folder = Path(measure.__file__).parent
    assert {t.benchmark for t in targets.TARGETS} <= {path.stem for path in folder.glob("*.py")}


def test_a_process_is_measured_by_its_own_memory_and_not_by_ours() -> None:
    ours = torch.ones(1 << 26)  # 256 MiB, all of them in use
    finished = run_process([sys.executable, "-I", "-c", "block = b'x' * (64 << 20)"])
    assert 64 << 20 < finished.peak_bytes < ours.numel() * ours.element_size()
    assert finished.seconds > 0


def test_a_process_that_fails_is_named_by_its_last_words() -> None:
    with pytest.raises(ProcessError, match="out of eggs"):
        run_process([sys.executable, "-c", "raise SystemExit('out of eggs')"])


def test_a_peer_answers_or_says_what_is_wrong(tmp_path: Path) -> None:
    peer = Peer("kernel", Path(sys.executable), tmp_path / "peer.log")
    try:
        with pytest.raises(PeerError, match=r"kernel: start failed \((FileNotFound|ModuleNotFound)Error"):
            peer.ask("start", arrays=str(tmp_path), batch_size=8)
        with pytest.raises(PeerError, match=r"kernel: dance failed \(KeyError"):
            peer.ask("dance")
    finally:
        peer.close()


def test_the_ranking_to_compare_with_is_exact() -> None:
    torch.manual_seed(0)
    user_UD, item_ID = torch.randn(7, 4), torch.randn(2003, 4)
    user_E, item_E = torch.randint(7, (60,)), torch.randint(2003, (60,))
    seen, user = UserItems(user_E, item_E, 7, 2003), torch.arange(7)
    score_UI = user_UD @ item_ID.T
    score_UI[user_E, item_E] = -torch.inf
    (best_Uk,) = least(user_UD, item_ID, user, seen)
    assert torch.equal(best_Uk, score_UI.topk(K, dim=1).indices)
