"""Maximum mean discrepancy with a polynomial kernel, unbiased: the distance to use at 64 to 512 videos.

Its mean is zero when the two laws are equal, at any n, where the Frechet distance is far from zero. It may be slightly
negative for that reason; clipping it would bring the bias back. On I3D features others call it KVD.
"""

import numpy as np

from eval import set_metric as kinds
from eval.protocol import Array, Metric
from eval.set_metric import Vectors, set_metric


def polynomial(a: Array, b: Array) -> Array:
    """Kernel (<x, y> / dim + 1)^3 [n, m] of a [n, dim] and b [m, dim]. Source: KID (Binkowski et al. 2018)."""
    kernel = a @ b.T / a.shape[1] + 1.0
    return kernel * kernel * kernel  # a power takes ten times as long


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


def _metric(kind: Vectors) -> Metric:
    return set_metric(
        "mmd",
        distance,
        kind,
        "third moments at most",
        unit="squared kernel distance",
        range=(float("-inf"), float("inf")),
    )


SANDBOX, I3D, VIDEOMAE = (_metric(one) for one in (kinds.SANDBOX, kinds.I3D, kinds.VIDEOMAE))
