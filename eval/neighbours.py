"""Precision, recall, density, coverage: is what was made among the real videos, and is all that is real made?

A real video's neighbourhood is the ball to its K-th nearest real neighbour. Two numbers instead of one distance: a
model that repeats one perfect video has precision 1 and coverage near 0.
"""

from __future__ import annotations

import numpy as np

from eval.features import CLIP, DCT, PREPROCESSING, standardised
from eval.protocol import Array, Distance, Metric, Pool

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


def _metric(name: str, share: Distance, kind: tuple[str, Pool, str, str], blind_spots: str) -> Metric:
    backbone, pool, protocol, preprocessing = kind
    return Metric(
        name=f"{name}[{protocol}]",
        version="1",
        unit="share of videos" if name != "density" else "neighbourhoods / expected",
        range=(0.0, float("inf") if name == "density" else 1.0),
        higher_is_better=True,
        needs=("frames", "reference"),
        blind_spots=blind_spots,
        per_set=standardised(share) if backbone == "sandbox" else share,
        pool=pool,
        backbone=backbone,
        preprocessing=f"{preprocessing}; k = {K}",
    )


_DCT = ("sandbox", DCT, "sandbox,dct", PREPROCESSING)
_LOGITS = ("i3d", CLIP, "i3d,16f,224,bilinear", "first 16 frames, I3D logits, stretched to 224x224, no antialias")
_PRECISION = "one outlier among the real videos makes a large neighbourhood; falls with fewer real videos"
_RECALL = "outliers of the model make large neighbourhoods"
_DENSITY = "best for a model that repeats the densest real video: read with coverage"
_COVERAGE = "rises with the number of videos: equal n only"
PRECISION, I3D_PRECISION = (_metric("precision", precision, kind, _PRECISION) for kind in (_DCT, _LOGITS))
RECALL, I3D_RECALL = (_metric("recall", recall, kind, _RECALL) for kind in (_DCT, _LOGITS))
DENSITY, I3D_DENSITY = (_metric("density", density, kind, _DENSITY) for kind in (_DCT, _LOGITS))
COVERAGE, I3D_COVERAGE = (_metric("coverage", coverage, kind, _COVERAGE) for kind in (_DCT, _LOGITS))
