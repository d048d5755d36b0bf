"""Maximum mean discrepancy with a polynomial kernel, unbiased: the distance to use at 64 to 512 videos.

Its mean is zero when the two laws are equal, at any n, where the Frechet distance is far from zero. It may be slightly
negative for that reason; clipping it would bring the bias back.
"""

import numpy as np

from eval.features import PREPROCESSING, standardised
from eval.protocol import Array, Metric


def polynomial(a: Array, b: Array) -> Array:
    """Kernel (<x, y> / dim + 1)^3 [n, m] of a [n, dim] and b [m, dim]. Source: KID (Binkowski et al. 2018)."""
    return (a @ b.T / a.shape[1] + 1.0) ** 3


def _off_diagonal_mean(kernel: Array) -> float:
    n = len(kernel)
    return float((kernel.sum() - np.trace(kernel)) / (n * (n - 1)))


def distance(vectors: Array, reference: Array) -> float:
    """Unbiased MMD^2 (U-statistic) between vectors [n, dim] and reference [m, dim]; NaN below two videos a side.

    Source: Gretton et al. 2012, eq. 3.
    """
    if min(len(vectors), len(reference)) < 2:
        return float("nan")
    within = _off_diagonal_mean(polynomial(vectors, vectors)) + _off_diagonal_mean(polynomial(reference, reference))
    return within - 2 * float(polynomial(vectors, reference).mean())


SANDBOX = Metric(
    name="mmd[sandbox,dct]",
    version="1",
    unit="squared kernel distance",
    range=(float("-inf"), float("inf")),
    higher_is_better=False,
    needs=("frames", "backbone", "reference"),
    blind_spots="sees what the sandbox CLIP sees; third moments at most",
    per_set=standardised(distance),
    preprocessing=PREPROCESSING,
)
