"""Whether a difference over users is more than chance.

Legend: U users.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np

SIGNIFICANT = 0.05
"""A difference is significant if chance would make one as large more rarely than this."""
_ROUNDING = 1e-12  # the mean of equal numbers may differ from them by this share


def paired_p(one_U: np.ndarray, other_U: np.ndarray) -> float | None:
    """The two-sided p of a paired t-test over the users who have a number in both, not NaN; None if these are
    fewer than two."""
    counts_U = ~(np.isnan(one_U) | np.isnan(other_U))
    one_U, other_U = one_U[counts_U], other_U[counts_U]
    if len(one_U) < 2:
        return None
    if np.allclose(one_U, other_U, rtol=_ROUNDING, atol=0):  # the test would divide by nearly nothing
        return 1.0
    from scipy.stats import ttest_rel  # takes a second, and every worker that trains loads this module

    with warnings.catch_warnings():  # of scipy's, where all users differ by the same
        warnings.simplefilter("ignore", RuntimeWarning)
        return float(ttest_rel(one_U, other_U).pvalue)


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm, Scandinavian Journal of Statistics 1979: p-values that are corrected for their number.

    The r-th smallest of m is multiplied by `m - r + 1`; none becomes smaller than one that was smaller.
    """
    corrected, highest = [0.0] * len(p_values), 0.0
    for rank, at in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[at]))
        corrected[at] = highest
    return corrected


def p_verdict(p: float) -> str:
    """What a p-value says of a difference, in words."""
    return "more than chance" if p < SIGNIFICANT else "perhaps chance"


def p_cell(p: float) -> str:
    """A p-value for a table."""
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def p_phrase(p: float) -> str:
    """A p-value for a sentence."""
    return f"p {p_cell(p)}" if p < 0.001 else f"p = {p_cell(p)}"
