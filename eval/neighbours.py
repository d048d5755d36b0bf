"""Precision, recall, density, coverage: is what was made among the real videos, and is all that is real made?

A real video's neighbourhood is the ball to its K-th nearest real neighbour. Two numbers instead of one distance: a
model that repeats one perfect video has precision 1 and coverage near 0.
"""

from __future__ import annotations

import numpy as np

from eval.protocol import Array, Distance, Metric
from eval.set_metric import I3D, SANDBOX, set_metric

K = 5
SAME = 0.02


def squared_distances(a: Array, b: Array) -> Array:
    """[n, m] of a [n, dim] and b [m, dim]."""
    return np.maximum((a * a).sum(axis=1)[:, None] + (b * b).sum(axis=1) - 2 * a @ b.T, 0.0)


def radii(vectors: Array) -> Array:
    """Squared distance [n] of every vector to its K-th nearest other one."""
    return np.partition(squared_distances(vectors, vectors), K, axis=1)[:, K]


def precision(vectors: Array, reference: Array) -> float:
    """Share of videos inside some real neighbourhood. Source: Kynkaanniemi et al. 2019."""
    if not _enough(vectors, reference):
        return float("nan")
    return float((squared_distances(vectors, reference) <= radii(reference)).any(axis=1).mean())


def recall(vectors: Array, reference: Array) -> float:
    """Share of real videos inside some made one's neighbourhood. Source: Kynkaanniemi et al. 2019."""
    return precision(reference, vectors)


def density(vectors: Array, reference: Array) -> float:
    """Real neighbourhoods that a video is in / K, mean; 1 for equal laws. Source: Naeem et al. 2020, eq. 4."""
    if not _enough(vectors, reference):
        return float("nan")
    return float((squared_distances(vectors, reference) <= radii(reference)).sum(axis=1).mean() / K)


def coverage(vectors: Array, reference: Array) -> float:
    """Share of real videos with a made one in their neighbourhood. Source: Naeem et al. 2020, eq. 5."""
    if not _enough(vectors, reference):
        return float("nan")
    return float((squared_distances(vectors, reference) <= radii(reference)).any(axis=0).mean())


def _enough(vectors: Array, reference: Array) -> bool:
    return min(len(vectors), len(reference)) > K


def num_copies(vectors: Array) -> int:
    """How many vectors [n, dim] say the same as an earlier one: nearer than a fiftieth of the median distance.

    An encoder that wrote the same frames twice moves features less than that.
    """
    if len(vectors) < 3:
        return 0
    apart = squared_distances(vectors, vectors)
    scale = float(np.median(apart[np.triu_indices(len(vectors), 1)]))
    return int((np.tril(apart <= SAME**2 * scale, -1)).any(axis=1).sum())


def _metrics(name: str, share: Distance, blind_spots: str, unit: str = "share of videos") -> tuple[Metric, Metric]:
    """On the vectors of the sandbox CLIP and on I3D's."""
    most = 1.0 if unit == "share of videos" else float("inf")
    sandbox, i3d = (
        set_metric(
            name, share, kind, blind_spots, unit=unit, range=(0.0, most), higher_is_better=True, details=f"k = {K}"
        )
        for kind in (SANDBOX, I3D)
    )
    return sandbox, i3d


PRECISION, I3D_PRECISION = _metrics(
    "precision",
    precision,
    "one outlier among the real videos makes a large neighbourhood; falls with fewer real videos",
)
RECALL, I3D_RECALL = _metrics("recall", recall, "outliers of the model make large neighbourhoods")
DENSITY, I3D_DENSITY = _metrics(
    "density",
    density,
    "best for a model that repeats the densest real video: read with coverage",
    unit="neighbourhoods / expected",
)
COVERAGE, I3D_COVERAGE = _metrics("coverage", coverage, "rises with the number of videos: equal n only")
