"""Full ranking of Gowalla, top 20, against RecBole's and against the least that torch needs, on one core.

    python -m benchmarks.speed.ranking --sources path/to/data --work scratch/

Against RecBole, both sides rank the users of test and compute Recall@20 and NDCG@20. The least is one matrix
product, training items masked, and an exact top 20 in two stages, without metrics; ours then ranks alone.

Legend: B users of a tile, I items, S blocks of W items, D dimensions, k items kept.
"""

from __future__ import annotations

from typing import Any

import torch

from adar_ray.inference.model import user_items
from adar_ray.interactions.user_items import UserItems
from adar_ray.ranking.tally import Tally, rank_users
from adar_ray.ranking.top_items import top_items
from benchmarks import record
from benchmarks.arguments import add_sources, argument_parser
from benchmarks.quality.data import DATA, prepared
from benchmarks.speed import ours, peers
from benchmarks.speed.measure import Side, add, alternate, ceiling, compare, one_core, timed

K = 20
_TILE, _WIDTH = 512, 64


def main() -> None:
    parser = argument_parser(__doc__)
    add_sources(parser)
    parser.add_argument("--rounds", type=int, default=3, help="timed rankings of each side")
    arguments = parser.parse_args()
    one_core()
    dataset = prepared("gowalla", arguments.sources, arguments.work, DATA["gowalla"])
    arrays = ours.write_arrays(dataset, arguments.work / "arrays" / dataset.name)
    seen, truth = user_items(dataset, "train", "valid"), user_items(dataset, "test")
    model = ours.Steps([*ours.MF, *ours.UNIFORM], user_items(dataset, "train"), "cpu").model.eval()
    user = truth.counts().nonzero()[:, 0]
    figures: dict[str, Any] = {
        "ceiling": ceiling(),
        "missing": {},
        "peers": peers.versions("torch", "recbole"),
    }
    wanted = {"recbole": {"arrays": str(arrays), "batch_size": 2_048}}
    with peers.started(arguments.work, wanted, figures["missing"]) as running:
        sides: dict[str, Side] = {
            "ours": lambda: timed(
                lambda: Tally(truth.n_items, [K]).add_all(rank_users(model, seen, truth, [K]))
            )
        }
        if "recbole" in running:
            sides["recbole"] = lambda: running["recbole"].seconds("rank")
        try:
            add(figures, compare(alternate(sides, arguments.rounds), "metrics."))
        except peers.PeerError as error:
            peers.leave_out("recbole", error, figures["missing"])
    plain = {
        "ours": lambda: timed(lambda: [None for _ in top_items(model, user, seen, K, dataset.n_items)]),
        "least": lambda: timed(lambda: least(model.user.weight, model.item.weight, user, seen)),
    }
    for side in plain.values():
        side()
    add(figures, compare(alternate(plain, arguments.rounds), "top."))
    print(figures, flush=True)
    record.write(
        "speed_ranking",
        figures,
        description="Seconds of ranking all items of Gowalla for the users of test, one core; ratios to "
        "ours, above 1 where ours is faster.",
        seeds=[0],
    )


@torch.no_grad()
def least(
    user_UD: torch.Tensor, item_ID: torch.Tensor, user: torch.Tensor, seen: UserItems
) -> list[torch.Tensor]:
    """The k best items of each user, tile by tile.

    In two stages: the k best items are in the k blocks with the highest maxima.
    """
    blocks = -(-len(item_ID) // _WIDTH)
    score_BI = user_UD.new_full((_TILE, blocks * _WIDTH), -torch.inf)
    best = []
    for start in range(0, len(user), _TILE):
        user_B = user[start : start + _TILE]
        here_BI = score_BI[: len(user_B)]
        torch.mm(user_UD[user_B], item_ID.T, out=here_BI[:, : len(item_ID)])
        here_BI[seen.of(user_B)] = -torch.inf
        score_BSW = here_BI.view(len(user_B), blocks, _WIDTH)
        block_Bk = score_BSW.amax(2).topk(K, dim=1).indices
        score_BkW = score_BSW.gather(1, block_Bk[..., None].expand(-1, -1, _WIDTH))
        at_Bk = score_BkW.flatten(1).topk(K, dim=1).indices
        best.append(block_Bk.gather(1, at_Bk // _WIDTH) * _WIDTH + at_Bk % _WIDTH)
    return best


if __name__ == "__main__":
    main()
