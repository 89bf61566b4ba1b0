"""The adapter to RecBole: that it is given our split, and that ADAR's term is what it claims to be.

Legend: B rows of the batch, K negatives a row, D dimensions, E interactions.
"""

import importlib.util
import os
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch

from adar_ray.adapters.recbole import add_adar, train
from adar_ray.adapters.recbole_library import training_pairs, write_interactions
from adar_ray.adar import AdarSampler, AdarSettings
from adar_ray.data.dataset import SPLITS, Dataset
from adar_ray.data.lanes import Homes
from adar_ray.data.manifest import SyntheticSettings, SyntheticSource
from adar_ray.data.sequences import Windows
from adar_ray.data.split import SplitProtocol, assign
from adar_ray.data.write import write_manifest, write_shard
from adar_ray.errors import AdarError
from adar_ray.samplers.base import Negatives
from adar_ray.storage import Folder

USERS, ITEMS = 24, 15
IS_INSTALLED = importlib.util.find_spec("recbole") is not None
needs_recbole = pytest.mark.skipif(
    not IS_INSTALLED, reason="RecBole is not installed: adar_ray/adapters/recbole_library.py says how"
)
GENERAL = ("BPR", "LightGCN", "NGCF", "SGL")
SEQUENTIAL = ("GRU4Rec", "STAMP", "Caser", "SHAN", "HGN")
SETTINGS = {
    "epochs": 1,
    "train_batch_size": 16,
    "metrics": ["Recall"],
    "topk": [5],
    "valid_metric": "Recall@5",
    "use_gpu": False,
    "show_progress": False,
    "MAX_ITEM_LIST_LENGTH": 5,
}


def make_dataset(out: Path, protocol: str, fewest: int = 6) -> Dataset:
    """Users with `fewest` or more items, whose times tie in pairs: their order is that of the source."""
    generator = np.random.default_rng(0)
    counts = generator.integers(fewest, 10, USERS)
    item = np.concatenate([generator.permutation(ITEMS)[:count] for count in counts])
    user = np.repeat(np.arange(USERS), counts)
    time = np.concatenate([np.arange(count) // 2 for count in counts])
    split, windows, folder = SplitProtocol(protocol=protocol), Windows(), Folder.at(out)
    splits = assign(split, user, item, time, np.zeros(len(user), np.int8), None)
    homes = Homes.of(np.arange(USERS) * 64 // USERS, 64, shards=1)
    shard = write_shard(folder, 0, homes, splits, windows, user, item, time)
    write_manifest(
        folder,
        name="made",
        source=SyntheticSource(
            synthetic=SyntheticSettings(users=USERS, items=ITEMS, interactions=len(user), seed=0)
        ),
        split=split,
        windows=windows,
        notes=[],
        homes=homes,
        shards=[shard],
        user_keys=pa.array([f"u{n}" for n in range(USERS)]),
        item_keys=pa.array([f"i{n}" for n in range(ITEMS)]),
        user_counts=counts,
        item_counts=np.bincount(item, minlength=ITEMS),
    )
    return Dataset.open(out)


@pytest.fixture(scope="module")
def ratio(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return make_dataset(tmp_path_factory.mktemp("recbole") / "ratio", "ratio")


@pytest.fixture(scope="module")
def left_out(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return make_dataset(tmp_path_factory.mktemp("recbole") / "loo", "leave-one-out")


class FirstItem:
    """The vector of item 0 as everybody's only negative; keeps what it was asked."""

    def __call__(self, user_BD, positive_BD, items, rng=None) -> Negatives:
        self.user_BD, self.positive_BD, self.items = user_BD, positive_BD, items
        rows = len(user_BD)
        vector_BKD = items.vectors(torch.zeros(rows, 1, dtype=torch.int64))
        return Negatives(vector_BKD, torch.ones(rows, 1, dtype=torch.bool))


def settings_for(model: str) -> dict:
    return SETTINGS | ({"train_neg_sample_args": None} if model in SEQUENTIAL else {})


def our_pairs(recbole_dataset, user: torch.Tensor, item: torch.Tensor) -> set[tuple[int, int]]:
    columns = [
        recbole_dataset.id2token(n, x.numpy()).astype(int) for n, x in (("user_id", user), ("item_id", item))
    ]
    return set(zip(*(column.tolist() for column in columns), strict=True))


def pairs_of(dataset: Dataset, split: str) -> set[tuple[int, int]]:
    users, items = dataset.read_split(split)
    return set(zip(users.tolist(), items.tolist(), strict=True))


@needs_recbole
@pytest.mark.parametrize("model", ["BPR", "GRU4Rec"])
def test_recbole_trains_and_tests_on_our_split(model: str, ratio: Dataset, left_out: Dataset) -> None:
    dataset = left_out if model in SEQUENTIAL else ratio
    trained = train(model, dataset, settings_for(model))
    for split, loader in zip(SPLITS, trained.loaders, strict=True):
        rows = loader._dataset.inter_feat
        user_E, item_E = training_pairs(loader) if split == "train" else (rows["user_id"], rows["item_id"])
        assert our_pairs(loader._dataset, user_E, item_E) == pairs_of(dataset, split)


@needs_recbole
def test_training_leaves_the_process_as_it_was(ratio: Dataset) -> None:
    def process() -> tuple:
        return Path.cwd(), list(sys.argv), dict(os.environ), torch.is_anomaly_enabled()

    before = process()
    train("BPR", ratio, SETTINGS)
    assert process() == before


@needs_recbole
def test_a_test_history_is_all_but_the_last_item_in_our_order(left_out: Dataset) -> None:
    loader = train("STAMP", left_out, settings_for("STAMP")).loaders[2]
    rows, data = loader._dataset.inter_feat, loader._dataset
    users, items = (np.concatenate([left_out.read_split(split)[n] for split in SPLITS]) for n in (0, 1))
    for user, history, length in zip(rows["user_id"], rows["item_id_list"], rows["item_length"], strict=True):
        (ours,) = (int(key) for key in data.id2token("user_id", [int(user)]))
        theirs = data.id2token("item_id", history[:length].numpy()).astype(int).tolist()
        assert theirs == items[users == ours][:-1][-5:].tolist()


@needs_recbole
@pytest.mark.parametrize("model", GENERAL + SEQUENTIAL)
def test_the_term_is_bpr_between_what_the_model_scores(model: str, ratio: Dataset, left_out: Dataset) -> None:
    """Against the model's own `predict` for the positive and for item 0: -ln sigmoid of their difference."""
    dataset = left_out if model in SEQUENTIAL else ratio
    trained = train(model, dataset, settings_for(model))
    network, loader = trained.model.eval(), trained.loaders[0]
    batch = next(iter(loader))
    # SGL and NGCF draw at random within the loss.
    torch.manual_seed(0)
    own = float(network.calculate_loss(batch).detach())
    add_adar(network, loader, FirstItem(), weight=0.7)
    torch.manual_seed(0)
    with_term = float(network.calculate_loss(batch).detach())
    with torch.no_grad():
        positive_B = network.predict(batch).flatten()
        batch.interaction["item_id"] = torch.ones_like(batch["item_id"])  # our item 0: RecBole's 0 is padding
        negative_B = network.predict(batch).flatten()
    expected = 0.7 * -torch.nn.functional.logsigmoid(positive_B - negative_B).mean().item()
    assert with_term - own == pytest.approx(expected, abs=1e-5)


@needs_recbole
@pytest.mark.parametrize("model", ["LightGCN", "GRU4Rec"])
def test_seen_means_training_interactions_of_the_user(model: str, ratio: Dataset, left_out: Dataset) -> None:
    dataset, asked = (left_out if model in SEQUENTIAL else ratio), FirstItem()
    loader = train(model, dataset, settings_for(model), asked).loaders[0]
    data, everything_I = loader._dataset, torch.arange(ITEMS)
    assert asked.items.n_items == ITEMS
    seen_BI = asked.items.seen(everything_I)
    assert torch.equal(seen_BI, asked.items.seen(everything_I.expand(len(seen_BI), -1)))
    row, item = seen_BI.nonzero(as_tuple=True)
    users = set(data.id2token("user_id", asked.items.user_B.unique().numpy()).astype(int).tolist())
    expected = {pair for pair in pairs_of(dataset, "train") if pair[0] in users}
    assert our_pairs(data, asked.items.user_B[row], item + 1) == expected


@needs_recbole
@pytest.mark.parametrize("model", ["BPR", "GRU4Rec"])
def test_a_term_of_no_weight_changes_nothing(model: str, ratio: Dataset, left_out: Dataset) -> None:
    dataset, settings = (left_out if model in SEQUENTIAL else ratio), settings_for(model) | {"epochs": 3}
    alone = train(model, dataset, settings).model.state_dict()
    beside = train(model, dataset, settings, FirstItem(), weight=0.0).model.state_dict()
    assert all(torch.equal(alone[name], beside[name]) for name in alone)


@needs_recbole
@pytest.mark.parametrize("model", ["BPR", "STAMP"])
def test_with_adar_every_table_learns(model: str, ratio: Dataset, left_out: Dataset) -> None:
    """The term alone, without the model's own loss, reaches users and items."""
    dataset = left_out if model in SEQUENTIAL else ratio
    trained = train(
        model, dataset, settings_for(model), AdarSampler(AdarSettings(candidates=4, negatives=2, pool=8))
    )
    network, batch = trained.model, next(iter(trained.loaders[0]))
    network.zero_grad()
    with_term = network.calculate_loss(batch)
    own = type(network).calculate_loss(network, batch)
    (with_term - own).backward()
    gradients = [parameter.grad for parameter in network.parameters()]
    assert all(gradient is not None and gradient.abs().sum() > 0 for gradient in gradients)


@needs_recbole
@pytest.mark.parametrize("model", ["NeuMF", "FISM"])
def test_a_model_that_scores_otherwise_is_refused(model: str, ratio: Dataset) -> None:
    with pytest.raises(AdarError, match=f"{model}: does not score by the product"):
        train(
            model,
            ratio,
            settings_for(model)
            | {
                "train_neg_sample_args": {
                    "distribution": "uniform",
                    "sample_num": 1,
                    "alpha": 1.0,
                    "dynamic": False,
                    "candidate_num": 0,
                }
            },
            AdarSampler(),
        )


@needs_recbole
def test_an_unknown_model_is_named(ratio: Dataset) -> None:
    with pytest.raises(AdarError, match="LightGNC: RecBole has no such model"):
        train("LightGNC", ratio, SETTINGS)


@pytest.mark.skipif(IS_INSTALLED, reason="RecBole is installed")
def test_without_recbole_the_error_says_how_to_install_it(ratio: Dataset) -> None:
    with pytest.raises(AdarError, match="pip install"):
        train("BPR", ratio, SETTINGS)


def test_a_sequential_model_needs_leave_one_out(ratio: Dataset, tmp_path: Path) -> None:
    with pytest.raises(AdarError, match="split by ratio"):
        write_interactions(ratio, tmp_path, sequential=True)


def test_users_that_recbole_would_split_otherwise_are_refused(tmp_path: Path) -> None:
    short = make_dataset(tmp_path / "short", "leave-one-out", fewest=3)
    with pytest.raises(AdarError, match=r"user \d+ has 3 interactions.*--core 4"):
        write_interactions(short, tmp_path, sequential=True)
