"""What one would write with implicit: the 20 best items of all users, to Parquet, with the source's ids.

python -m benchmarks.speed.peer_recommend ARRAYS OUT
"""

from __future__ import annotations

import sys


def main(arrays: str, out: str) -> None:
    """Reads `user.npy` and `item.npy`, the factors, `seen.npy` `[E, 2]`, and the ids in two Parquet files."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq
    from implicit.als import AlternatingLeastSquares
    from scipy.sparse import csr_matrix

    user_UD, item_ID = np.load(f"{arrays}/user.npy"), np.load(f"{arrays}/item.npy")
    seen = np.load(f"{arrays}/seen.npy")
    ones = np.ones(len(seen), np.float32)
    matrix = csr_matrix((ones, (seen[:, 0], seen[:, 1])), shape=(len(user_UD), len(item_ID)))
    model = AlternatingLeastSquares(factors=user_UD.shape[1], num_threads=1)
    model.user_factors, model.item_factors = user_UD, item_ID
    users = np.arange(len(user_UD))
    item_Uk, score_Uk = model.recommend(users, matrix, N=20, filter_already_liked_items=True)
    user_keys = pq.read_table(f"{arrays}/users.parquet")["key"]
    item_keys = pq.read_table(f"{arrays}/items.parquet")["key"]
    table = pa.table(
        {
            "user": user_keys.take(pa.array(np.repeat(users, 20))),
            "item": item_keys.take(pa.array(item_Uk.flatten())),
            "rank": np.tile(np.arange(1, 21, dtype=np.int32), len(users)),
            "score": score_Uk.flatten(),
        }
    )
    pq.write_table(table, f"{out}/implicit.parquet")


if __name__ == "__main__":
    main(*sys.argv[1:])
