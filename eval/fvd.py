"""Frechet distance between two sets of features, by the symmetric eigenvalue form.

    FD = |mu_a - mu_b|^2 + Tr(S_a + S_b - 2 (S_a^1/2 S_b S_a^1/2)^1/2)

The trace of the root is the sum of the roots of a symmetric matrix's eigenvalues, so it is never complex, works below
full rank, and needs no `scipy.linalg.sqrtm` (whose signature and near-singular values changed between SciPy versions).
The distance is biased upward by about c/n for n videos a side: compare sets of equal size only. A naive bootstrap of it
excludes its own point estimate; use eval.set_interval.
"""

import numpy as np

from eval.features import PREPROCESSING, standardised
from eval.protocol import Array, Metric

DDOF = 1


def moments(vectors: Array) -> tuple[Array, Array]:
    """Mean [dim] and covariance [dim, dim] (divided by n - 1) of vectors [n, dim]."""
    mean = vectors.mean(axis=0)
    centred = vectors - mean
    return mean, centred.T @ centred / (len(vectors) - DDOF)


def _root(matrix: Array) -> Array:
    values, basis = np.linalg.eigh(matrix)
    return (basis * np.sqrt(np.clip(values, 0, None))) @ basis.T


def frechet(mean_a: Array, cov_a: Array, mean_b: Array, cov_b: Array) -> float:
    """Squared Frechet distance of two Gaussians, in squared feature units. Source: Dowson & Landau 1982."""
    root = _root(cov_a)
    cross = np.sqrt(np.clip(np.linalg.eigvalsh(root @ cov_b @ root), 0, None)).sum()
    gap = mean_a - mean_b
    return float(gap @ gap + np.trace(cov_a) + np.trace(cov_b) - 2 * cross)


def distance(vectors: Array, reference: Array) -> float:
    """Frechet distance of the Gaussians fitted to vectors [n, dim] and reference [m, dim]; NaN below two videos."""
    if min(len(vectors), len(reference)) < 2:
        return float("nan")
    return frechet(*moments(vectors), *moments(reference))


SANDBOX = Metric(
    name="fvd[sandbox,dct]",
    version="1",
    unit="squared standard deviations of the reference",
    range=(0.0, float("inf")),
    higher_is_better=False,
    needs=("frames", "backbone", "reference"),
    blind_spots="biased by c/n: equal n only; sees what the sandbox CLIP sees, content more than motion",
    per_set=standardised(distance),
    preprocessing=PREPROCESSING + "; ddof 1",
)
