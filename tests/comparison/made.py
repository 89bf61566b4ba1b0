"""A made-up comparison."""

from __future__ import annotations

from adar_ray.comparison.folder import (
    Comparison,
    SplitFigures,
    SystemFigures,
    Tuned,
    TunedTrial,
    UserGroup,
)


def made_up_comparison(others: int = 0, tuned: bool = False) -> Comparison:
    """Popularity and two samplers on validation.

    Args:
        others: systems with long names beside them; then there is test, too.
        tuned: whether what is trained was tuned.
    """
    deviations = {"recall@5": 0.01, "ndcg@5": 0.002, "mrr@5": 0.0}
    systems = {
        "popularity": SystemFigures(
            runs=1, metrics={"recall@5": 0.25, "ndcg@5": 0.2, "mrr@5": 0.1}, deviations=None
        ),
        "mf-in_batch": SystemFigures(
            runs=3,
            metrics={"recall@5": 0.24, "ndcg@5": 0.3, "mrr@5": 0.15},
            deviations=deviations,
            gain=0.5,
            p=0.0002,
            p_holm=0.0004,
        ),
        "mf-adar": SystemFigures(
            runs=3,
            metrics={"recall@5": 0.2, "ndcg@5": 0.1, "mrr@5": 0.09},
            deviations=deviations,
            gain=-0.1,
            p=0.04,
            p_holm=0.04,
        ),
    }
    for number in range(others):
        name = f"shop.models:Two<Towers>-a.module:sampler_{number}"
        systems[name] = systems["mf-adar"].model_copy(
            update={"metrics": {"recall@5": 0.2, "ndcg@5": 0.1, "mrr@5": 0.1 + 0.005 * number}}
        )
    groups = [
        UserGroup(
            first=first,
            last=last,
            users=users,
            figures={name: each.metrics["mrr@5"] * (1 + at / 10) for name, each in systems.items()},
        )
        for at, (first, last, users) in enumerate(
            [(1, 20, 310), (21, 57, 308), (58, 130, 306), (131, 2_314, 310)]
        )
    ]
    split = SplitFigures(users=1_234, systems=systems, groups={"activity": groups, "popularity": groups})
    values = {"optimizer.lr": 0.0123456, "sampled_softmax.temperature": 0.2, "adar.hidden_positives": 16}
    trials = [TunedTrial(values=values, value=value) for value in (0.08, None, 0.09)]
    return Comparison(
        dataset="shop <b>",
        data="/data/shop",
        checksum="0",
        metric="mrr@5",
        reference="popularity",
        left_out={"ease": "ease: takes too long"},
        trials=3 if tuned else 0,
        tuned={name: Tuned.of(trials) for name in systems if tuned and name != "popularity"},
        splits={"valid": split, "test": split} if others else {"valid": split},
    )
