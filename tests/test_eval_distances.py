"""Set distances in closed form and against SciPy; intervals that mean what they say."""

import numpy as np
import pytest
from scipy import linalg

from eval import fvd, mmd, neighbours
from eval.features import clip_vector, standardised
from eval.set_interval import jackknife, parts_for

RNG = np.random.default_rng(0)


def test_frechet_of_two_gaussians_in_closed_form() -> None:
    """Commuting covariances: |gap|^2 + sum (sqrt a - sqrt b)^2."""
    a, b, gap = np.array([1.0, 4.0, 9.0]), np.array([4.0, 4.0, 1.0]), np.array([1.0, -2.0, 0.5])
    expected = gap @ gap + ((np.sqrt(a) - np.sqrt(b)) ** 2).sum()
    assert fvd.frechet(np.zeros(3), np.diag(a), gap, np.diag(b)) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("n", [40, 400])  # below and above the dimension
def test_frechet_equals_the_matrix_root(n: int) -> None:
    a, b = RNG.standard_normal((n, 64)) * np.linspace(0.1, 2, 64), RNG.standard_normal((n, 64)) + 0.3
    (mean_a, cov_a), (mean_b, cov_b) = fvd.moments(a), fvd.moments(b)
    root = linalg.sqrtm(cov_a @ cov_b)
    expected = ((mean_a - mean_b) ** 2).sum() + np.trace(cov_a + cov_b - 2 * root.real)
    assert fvd.distance(a, b) == pytest.approx(expected, rel=1e-6)


def test_frechet_is_zero_for_a_set_against_itself_and_symmetric() -> None:
    a, b = RNG.standard_normal((50, 8)), RNG.standard_normal((60, 8)) + 1
    assert fvd.distance(a, a) == pytest.approx(0, abs=1e-9)
    assert fvd.distance(a, b) == pytest.approx(fvd.distance(b, a), rel=1e-9)


def test_duplicating_videos_does_not_add_samples() -> None:
    a, b = RNG.standard_normal((60, 32)), RNG.standard_normal((500, 32))
    assert fvd.distance(np.tile(a, (5, 1)), b) == pytest.approx(fvd.distance(a, b), rel=0.03)


def test_one_video_has_no_distance() -> None:
    assert np.isnan(fvd.distance(np.zeros((1, 4)), np.zeros((9, 4))))
    assert np.isnan(mmd.distance(np.zeros((1, 4)), np.zeros((9, 4))))


def test_mmd_is_the_u_statistic() -> None:
    a, b = RNG.standard_normal((7, 3)), RNG.standard_normal((5, 3)) + 0.5

    def k(x: np.ndarray, y: np.ndarray) -> float:
        return float((x @ y / 3 + 1) ** 3)

    aa = np.mean([k(a[i], a[j]) for i in range(7) for j in range(7) if i != j])
    bb = np.mean([k(b[i], b[j]) for i in range(5) for j in range(5) if i != j])
    ab = np.mean([k(x, y) for x in a for y in b])
    assert mmd.distance(a, b) == pytest.approx(aa + bb - 2 * ab, rel=1e-12)


def test_mmd_has_mean_zero_when_the_laws_are_equal() -> None:
    """Unbiased at any size, where the Frechet distance is far from 0."""
    values = [mmd.distance(RNG.standard_normal((16, 4)), RNG.standard_normal((16, 4))) for _ in range(600)]
    assert abs(np.mean(values)) < 3.5 * np.std(values) / np.sqrt(len(values))
    assert np.min(values) < 0


def test_mmd_of_shifted_gaussians_has_the_value_of_the_formula() -> None:
    """x ~ N(0, 1), y ~ N(m, 1) in one dimension: E (xx'+1)^3 = 1 + 3 E[x^2]^2 and so on, expanded by moments."""
    shift = 0.7

    def expected(mean_x: float, mean_y: float) -> float:
        m1x, m1y = mean_x, mean_y
        m2x, m2y = 1 + mean_x**2, 1 + mean_y**2
        m3x, m3y = mean_x**3 + 3 * mean_x, mean_y**3 + 3 * mean_y
        return 1 + 3 * m1x * m1y + 3 * m2x * m2y + m3x * m3y

    truth = expected(0, 0) + expected(shift, shift) - 2 * expected(0, shift)
    values = [mmd.distance(RNG.standard_normal((60, 1)), RNG.standard_normal((60, 1)) + shift) for _ in range(300)]
    assert np.mean(values) == pytest.approx(truth, abs=4 * np.std(values) / np.sqrt(len(values)))


def test_standardising_makes_a_distance_blind_to_units() -> None:
    a, b = RNG.standard_normal((40, 5)), RNG.standard_normal((50, 5))
    units = np.array([1.0, 10.0, 0.1, 3.0, 100.0])
    distance = standardised(fvd.distance)
    assert distance(a * units + 4, b * units + 4) == pytest.approx(distance(a, b), rel=1e-9)


def test_set_features_see_the_order_of_frames() -> None:
    frames = RNG.standard_normal((17, 128))
    frames /= np.linalg.norm(frames, axis=1, keepdims=True)
    one, reverse = clip_vector(frames), clip_vector(frames[::-1])
    assert one.shape == (48,)
    assert np.allclose(one[:16], reverse[:16]) and not np.allclose(one[16:24], reverse[16:24])
    assert not np.allclose(one, clip_vector(frames[RNG.permutation(17)]))
    assert np.isfinite(clip_vector(frames[:1])).all()


def test_jackknife_of_a_mean_is_the_textbook_standard_error() -> None:
    values = RNG.standard_normal(50)
    interval = jackknife(lambda rows: float(values[rows].mean()), [str(i) for i in range(50)])
    assert interval.high - interval.value == pytest.approx(2.0096 * values.std(ddof=1) / np.sqrt(50), rel=1e-3)


def test_jackknife_interval_of_a_frechet_distance_contains_its_point_and_covers() -> None:
    """Coverage of the distance between equally sized sets, whose mean over repetitions is known by simulation."""
    reference = RNG.standard_normal((200, 6))
    draws = [RNG.standard_normal((80, 6)) * 1.5 for _ in range(60)]
    centre = np.mean([fvd.distance(draw, reference) for draw in draws])
    names = [str(i) for i in range(80)]
    intervals = [jackknife(lambda rows, draw=draw: fvd.distance(draw[rows], reference), names) for draw in draws]
    assert all(part.low <= part.value <= part.high for part in intervals)
    assert np.mean([part.low <= centre <= part.high for part in intervals]) >= 0.85


def test_jackknife_keeps_the_videos_of_a_prompt_together() -> None:
    values = np.repeat(RNG.standard_normal(20), 4)
    by_video = jackknife(lambda rows: float(values[rows].mean()), [str(i) for i in range(80)])
    by_prompt = jackknife(lambda rows: float(values[rows].mean()), [str(i // 4) for i in range(80)])
    assert (by_prompt.high - by_prompt.low) > 1.8 * (by_video.high - by_video.low)
    assert np.isnan(jackknife(lambda rows: 0.0, ["a", "b"]).low)


@pytest.mark.parametrize("n", [40, 63])
def test_fewer_videos_than_dimensions_take_the_short_way_to_the_same_number(n: int) -> None:
    a, b = RNG.standard_normal((n, 64)) * np.linspace(0.1, 2, 64), RNG.standard_normal((n + 9, 64)) + 0.3
    assert fvd.distance(a, b) == pytest.approx(fvd.frechet(*fvd.moments(a), *fvd.moments(b)), rel=1e-6)
    assert fvd.distance(a, b, ddof=0) == pytest.approx(fvd.frechet(*fvd.moments(a, 0), *fvd.moments(b, 0)), rel=1e-6)


def test_extrapolating_to_infinitely_many_videos_takes_the_bias_away() -> None:
    scale = 1 / np.sqrt(np.arange(1, 33))
    values = []
    for _ in range(6):
        a, b = RNG.standard_normal((400, 32)) * scale, RNG.standard_normal((400, 32)) * scale + 0.1
        values.append((fvd.distance(a, b), fvd.infinity(a, b)))
    plain, extrapolated = np.mean(values, axis=0)
    truth = 32 * 0.01
    assert abs(extrapolated - truth) < 0.25 * (plain - truth) and plain > truth
    assert np.isnan(fvd.infinity(a[:60], b))


def test_neighbourhoods_tell_missing_modes_from_wrong_ones() -> None:
    real = np.r_[RNG.standard_normal((60, 4)), RNG.standard_normal((60, 4)) + 12]
    same = np.r_[RNG.standard_normal((60, 4)), RNG.standard_normal((60, 4)) + 12]
    half, wrong = RNG.standard_normal((120, 4)), RNG.standard_normal((120, 4)) - 12
    assert neighbours.precision(same, real) > 0.8 and neighbours.recall(same, real) > 0.8
    assert neighbours.density(same, real) == pytest.approx(1, abs=0.3) and neighbours.coverage(same, real) > 0.9
    assert neighbours.precision(half, real) > 0.8 and neighbours.recall(half, real) < 0.6
    assert neighbours.coverage(half, real) < 0.6
    for share in (neighbours.precision, neighbours.recall, neighbours.density, neighbours.coverage):
        assert share(wrong, real) == 0 and np.isnan(share(real[:5], real))
    repeated = np.repeat(real[:1], 50, axis=0) + 1e-3
    assert neighbours.precision(repeated, real) == 1 and neighbours.coverage(repeated, real) < 0.2


def test_radii_are_those_of_the_kth_neighbour_and_copies_are_counted() -> None:
    line = np.arange(10.0)[:, None]
    assert neighbours.radii(line)[0] == pytest.approx(25) and neighbours.radii(line)[5] == pytest.approx(9)
    vectors = RNG.standard_normal((30, 6))
    assert neighbours.num_copies(vectors) == 0
    assert neighbours.num_copies(np.r_[vectors, vectors[:7] + 1e-6]) == 7


@pytest.mark.parametrize(("dim", "parts"), [(48, 128), (400, 32), (1408, 10)])
def test_costly_features_are_left_out_in_fewer_parts(dim: int, parts: int) -> None:
    calls: list[int] = []
    names = [str(i) for i in range(300)]
    interval = jackknife(lambda rows: (calls.append(1), float(len(rows)))[1], names, parts_for(dim))
    assert len(calls) == parts + 1 and f"{parts} groups" in interval.method
