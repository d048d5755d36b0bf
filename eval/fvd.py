"""Frechet distance between two sets of features, by the symmetric eigenvalue form.

    FD = |mu_a - mu_b|^2 + Tr(S_a + S_b - 2 (S_b^1/2 S_a S_b^1/2)^1/2)

The trace of the root is the sum of the roots of a symmetric matrix's eigenvalues, so it is never complex, works below
full rank, and needs no `scipy.linalg.sqrtm` (whose signature and near-singular values changed between SciPy versions).
Of fewer videos than dimensions the same number is the nuclear norm of A B^T, with A, B the centred vectors.
The distance is biased upward by about c/n for n videos a side: compare sets of equal size only, or extrapolate to
infinitely many (`infinity`). A naive bootstrap of it excludes its own point estimate; use eval.set_interval.
"""

from __future__ import annotations

import functools

import numpy as np

from core.randomness import numpy_generator
from eval import set_metric as kinds
from eval.protocol import Array, Metric
from eval.set_metric import Vectors, set_metric

NUM_SIZES = 8  # subset sizes of the extrapolation
DRAWS = 4  # subsets of each size


def moments(vectors: Array, ddof: int = 1) -> tuple[Array, Array]:
    """Mean [dim] and covariance [dim, dim] (divided by n - ddof) of vectors [n, dim]."""
    mean = vectors.mean(axis=0)
    centred = vectors - mean
    return mean, centred.T @ centred / (len(vectors) - ddof)


def _root(matrix: Array) -> Array:
    values, basis = np.linalg.eigh(matrix)
    return (basis * np.sqrt(np.clip(values, 0, None))) @ basis.T


@functools.lru_cache(maxsize=2)
def _fitted(content: bytes, dim: int, ddof: int) -> tuple[Array, Array, Array]:
    """Mean, covariance and its root of a set by its bytes: a jackknife asks for the same reference every time."""
    mean, cov = moments(np.frombuffer(content).reshape(-1, dim), ddof)
    return mean, cov, _root(cov)


def frechet(mean_a: Array, cov_a: Array, mean_b: Array, cov_b: Array, root_b: Array | None = None) -> float:
    """Squared Frechet distance of two Gaussians, in squared feature units. Source: Dowson & Landau 1982.

    Args:
        root_b: the symmetric root of cov_b, where it is known already.
    """
    root = _root(cov_b) if root_b is None else root_b
    cross = np.sqrt(np.clip(np.linalg.eigvalsh(root @ cov_a @ root), 0, None)).sum()
    gap = mean_a - mean_b
    return float(gap @ gap + np.trace(cov_a) + np.trace(cov_b) - 2 * cross)


def distance(vectors: Array, reference: Array, ddof: int = 1) -> float:
    """Frechet distance of the Gaussians fitted to vectors [n, dim] and reference [m, dim]; NaN below two videos."""
    fewest = min(len(vectors), len(reference))
    if fewest < 2:
        return float("nan")
    if fewest >= vectors.shape[1]:
        fitted = _fitted(np.ascontiguousarray(reference, dtype=np.float64).tobytes(), reference.shape[1], ddof)
        return frechet(*moments(vectors, ddof), *fitted)
    gap = vectors.mean(axis=0) - reference.mean(axis=0)
    a = (vectors - vectors.mean(axis=0)) / np.sqrt(len(vectors) - ddof)
    b = (reference - reference.mean(axis=0)) / np.sqrt(len(reference) - ddof)
    cross = np.linalg.svd(a @ b.T, compute_uv=False).sum()
    return float(gap @ gap + (a * a).sum() + (b * b).sum() - 2 * cross)


def infinity(vectors: Array, reference: Array) -> float:
    """The distance at infinitely many videos: straight line through FD over 1/n of subsets, read at 1/n = 0.

    The law c/n holds from n of about the dimension on, so subsets are larger than it; NaN below twice as many videos.
    Source: Chong & Forsyth 2020 (arXiv 1911.07023).
    """
    dim, most = vectors.shape[1], min(len(vectors), len(reference))
    if most < 2 * dim:
        return float("nan")
    inverse, values = [], []
    for size in np.unique(np.linspace(max(dim + 1, most // 4), most, NUM_SIZES).astype(int)):
        rng = numpy_generator(0, "eval/fvd infinity", int(size))
        for _ in range(DRAWS):
            parts = (rng.permutation(len(vectors))[:size], rng.permutation(len(reference))[:size])
            inverse.append(1 / size)
            values.append(distance(vectors[parts[0]], reference[parts[1]]))
    return float(np.polyfit(inverse, values, 1)[1])


def _frechet(name: str, kind: Vectors, ddof: int = 1) -> Metric:
    apart = functools.partial(distance, ddof=ddof)
    return set_metric(name, apart, kind, "biased by c/n: equal n only", details=f"ddof {ddof}")


def _infinity(kind: Vectors) -> Metric:
    return set_metric(
        "fvd_infinity",
        infinity,
        kind,
        "needs twice as many videos as dimensions a side; noisier than the distance itself",
        range=(float("-inf"), float("inf")),
        details=f"ddof 1; line over 1/n of {NUM_SIZES} subset sizes x {DRAWS} draws",
    )


SANDBOX = _frechet("fvd", kinds.SANDBOX)
I3D = _frechet("fvd", kinds.I3D)
I3D_STYLEGAN_V = _frechet("fvd", kinds.I3D_STYLEGAN_V, ddof=0)
I3D_VIDEOGPT = _frechet("fvd", kinds.I3D_VIDEOGPT)
VIDEOMAE = _frechet("fvd", kinds.VIDEOMAE)
SANDBOX_INFINITY, I3D_INFINITY = _infinity(kinds.SANDBOX), _infinity(kinds.I3D)
FRAMES_SANDBOX = _frechet("frame_frechet", kinds.FRAMES["sandbox"])
FRAMES_CLIP = _frechet("frame_frechet", kinds.FRAMES["open_clip"])
FRAMES_MOBILENET = _frechet("frame_frechet", kinds.FRAMES["mobilenet_v2"])
