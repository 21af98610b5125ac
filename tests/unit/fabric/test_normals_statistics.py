"""The normals of a factor stream are standard normals, and independent wherever a user would rely on it.

Every bound comes from theory: five standard errors, or the probability of five of them. Seeds are fixed, so a test
that passes once passes always; no bound was fitted to what was seen.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import combinations

import numpy as np
import numpy.typing as npt
import pytest
from scipy import stats
from weightloom.fabric import streams
from weightloom.fabric.kernels_cpu import normals
from weightloom.fabric.kinds.random_matrix_hypernet import MAX_NORMAL
from weightloom.fabric.streams import FactorStream, factor_stream

F64 = npt.NDArray[np.float64]

SIGMAS = 5.0
IMPROBABLE = 2 * float(stats.norm.sf(SIGMAS))

KS_COUNT = 1 << 20
PAIR_COUNT = 1 << 22
MATRIX_COUNT = 3 << 21  # whole rows for r = 2, 3 and 8
MOMENT_COUNT, MOMENT_CHUNK = 1 << 24, 1 << 20
TAIL_COUNT, TAIL_CHUNK = 1 << 30, 1 << 19
THRESHOLDS = [4.0, 4.5, 5.0, 5.5]

T_STREAM = factor_stream(7, "model.layers.0.weight", "T")
NEIGHBOURS = [*range(1, 9), 16, 24, 64, 128, 512, 2048, 4096]  # r for common r, and the edges of the kernel's passes
SEEDS = [0, 1, 41, 0xFFFF_FFFF, 0x0123_4567_89AB_CDEF]


def draw(stream: FactorStream, count: int, start: int = 0) -> F64:
    return normals(stream, start, count).astype(np.float64)


def of_seed(seed: int) -> F64:
    return draw(factor_stream(seed, "w", "T"), PAIR_COUNT)


def sum_of_powers(z: F64, powers: int) -> F64:
    """Sums of z, z², … by place: (n, 4) -> (powers, 4)."""
    sums, power = np.empty((powers, 4)), np.ones_like(z)
    for k in range(powers):
        power *= z
        sums[k] = power.sum(axis=0)
    return sums


def normal_moment(k: int) -> int:
    """E z^k: 0 for odd k, else 1 x 3 x … x (k - 1)."""
    return 0 if k % 2 else math.prod(range(1, k, 2))


def hermite(z: F64) -> tuple[F64, F64]:
    """z and its square, both scaled to mean 0 and variance 1."""
    return z, (z * z - 1) / math.sqrt(2)


def dependence(x: F64, y: F64) -> float:
    """The largest correlation of x and x² with y and y², in its standard errors.

    Of independent x and y each product has mean 0 and variance 1 exactly, so its mean has 1 / sqrt(n).
    """
    products = (f @ g for f in hermite(x) for g in hermite(y))
    return max(abs(float(product)) for product in products) / math.sqrt(len(x))


def normal_p_value(z: F64) -> float:
    return float(stats.kstest(z, "norm").pvalue)


@pytest.fixture(scope="module")
def moments() -> F64:
    """Means of z, z², … z⁶ for each of a block's four places: (6, 4)."""
    chunks = (draw(T_STREAM, MOMENT_CHUNK, start) for start in range(0, MOMENT_COUNT, MOMENT_CHUNK))
    total = sum(sum_of_powers(z.reshape(-1, 4), 6) for z in chunks)
    return np.asarray(total) / (MOMENT_COUNT // 4)


def beyond(stream: FactorStream, count: int, threshold: float) -> Iterator[F64]:
    """The rare ones of ``count`` normals, in small chunks that stay in the cache."""
    for start in range(0, count, TAIL_CHUNK):
        z = normals(stream, start, TAIL_CHUNK)
        yield z[np.abs(z) > threshold].astype(np.float64)


@pytest.fixture(scope="module")
def tail() -> F64:
    return np.concatenate([*beyond(T_STREAM, TAIL_COUNT, THRESHOLDS[0])])


@pytest.mark.parametrize("k", [1, 2, 3, 4, 5, 6], ids=["mean", "variance", "skew", "kurtosis", "fifth", "sixth"])
def test_the_moments_are_those_of_the_standard_normal(moments: F64, k: int) -> None:
    error = math.sqrt((normal_moment(2 * k) - normal_moment(k) ** 2) / MOMENT_COUNT)
    assert abs(moments[k - 1].mean() - normal_moment(k)) < SIGMAS * error
    # The four places of a block come from four formulas: a fault in one must not drown in the others.
    assert np.abs(moments[k - 1] - normal_moment(k)).max() < SIGMAS * 2 * error


@pytest.mark.parametrize(
    ("stream", "start"),
    [
        pytest.param(factor_stream(0, "w", "P"), 0, id="P of seed 0"),
        pytest.param(factor_stream(1, "w", "Q"), 0, id="Q of seed 1"),
        pytest.param(factor_stream(2**64 - 1, "w", "S"), 0, id="S of the last seed"),
        pytest.param(factor_stream(2**32, "encoder.0.bias", "T"), 0, id="T of a seed in the high word"),
        pytest.param(FactorStream(0, 0), 0, id="all zero key and stream"),
        pytest.param(T_STREAM, 2**34 - KS_COUNT // 2, id="where the block number outgrows 32 bits"),
        pytest.param(T_STREAM, 2**60 - KS_COUNT, id="at the end of the largest T"),
    ],
)
def test_every_stream_follows_the_normal_distribution(stream: FactorStream, start: int) -> None:
    assert normal_p_value(draw(stream, KS_COUNT, start)) > IMPROBABLE


@pytest.mark.parametrize("place", range(4))
def test_every_place_of_a_block_follows_the_normal_distribution(place: int) -> None:
    assert normal_p_value(draw(T_STREAM, 4 * KS_COUNT)[place::4]) > IMPROBABLE


@pytest.mark.parametrize("pair", range(2))
def test_the_two_normals_of_a_box_muller_pair_point_in_every_direction_at_every_radius(pair: int) -> None:
    x, y = draw(T_STREAM, 2 * KS_COUNT).reshape(-1, 2, 2)[:, pair].T
    assert stats.kstest((x * x + y * y) / 2, "expon").pvalue > IMPROBABLE
    assert stats.kstest(np.arctan2(y, x) / (2 * math.pi) + 0.5, "uniform").pvalue > IMPROBABLE


def test_averages_of_many_neighbours_spread_as_independent_normals_do() -> None:
    averages = draw(T_STREAM, 1 << 22).reshape(-1, 256).mean(axis=1)
    assert normal_p_value(averages * math.sqrt(256)) > IMPROBABLE


@pytest.mark.parametrize("threshold", THRESHOLDS)
@pytest.mark.parametrize("side", [-1, 1], ids=["lower", "upper"])
def test_the_tails_hold_as_many_as_they_should(tail: F64, threshold: float, side: int) -> None:
    expected = TAIL_COUNT * stats.norm.sf(threshold)
    fewest, most = stats.poisson.interval(1 - IMPROBABLE, expected)
    assert fewest <= np.count_nonzero(side * tail > threshold) <= most


def test_no_normal_is_beyond_the_limit_on_which_finite_weights_rest(tail: F64) -> None:
    assert np.abs(tail).max() < MAX_NORMAL


def test_not_even_the_words_that_give_the_largest_normal_reach_the_limit() -> None:
    smallest = np.repeat(np.arange(1 << 12, dtype=np.uint32), 8)
    axes = np.tile(np.array([0, 1, 2**30 - 1, 2**30, 2**31 - 1, 2**31, 3 * 2**30, 2**32 - 1], np.uint32), 1 << 12)
    largest = np.abs(np.stack(streams._box_muller(smallest, axes))).max()
    assert largest < MAX_NORMAL
    assert largest == pytest.approx(math.sqrt(66 * math.log(2)), abs=1e-5)


def test_tensors_of_different_names_are_independent() -> None:
    names = ["w", "w2", "layers.0.weight", "layers.1.weight"]
    samples = [draw(factor_stream(7, name, "T"), PAIR_COUNT) for name in names]
    assert max(dependence(x, y) for x, y in combinations(samples, 2)) < SIGMAS


def test_the_factors_of_a_tensor_are_independent() -> None:
    samples = [draw(factor_stream(7, "w", factor), PAIR_COUNT) for factor in "PQST"]
    assert max(dependence(x, y) for x, y in combinations(samples, 2)) < SIGMAS


def test_streams_with_neighbouring_numbers_are_independent() -> None:
    samples = [draw(FactorStream(7, number), PAIR_COUNT) for number in (0, 1, 2, 1 << 32)]
    assert max(dependence(x, y) for x, y in combinations(samples, 2)) < SIGMAS


@pytest.mark.parametrize("seed", SEEDS)
def test_neighbouring_seeds_are_independent(seed: int) -> None:
    assert dependence(of_seed(seed), of_seed(seed + 1)) < SIGMAS


@pytest.mark.parametrize("seed", SEEDS)
def test_seeds_that_differ_only_in_the_high_word_are_independent(seed: int) -> None:
    assert dependence(of_seed(seed), of_seed(seed + (1 << 32))) < SIGMAS


def test_seeds_with_their_words_swapped_are_independent() -> None:
    assert dependence(of_seed(0x0000_0001_0000_0002), of_seed(0x0000_0002_0000_0001)) < SIGMAS


@pytest.mark.parametrize("lag", NEIGHBOURS)
def test_a_normal_is_independent_of_those_after_it(lag: int) -> None:
    z = draw(T_STREAM, PAIR_COUNT)
    assert dependence(z[:-lag], z[lag:]) < SIGMAS


@pytest.mark.parametrize("distance", [2**32, 2**34, 2**50], ids=["2^32", "2^34", "2^50"])
def test_a_stream_does_not_come_back_to_its_start(distance: int) -> None:
    assert dependence(draw(T_STREAM, PAIR_COUNT), draw(T_STREAM, PAIR_COUNT, distance)) < SIGMAS


@pytest.mark.parametrize(("one", "other"), [*combinations(range(4), 2)])
def test_the_four_normals_of_a_block_are_independent_in_pairs(one: int, other: int) -> None:
    z = draw(T_STREAM, 4 * PAIR_COUNT).reshape(-1, 4)
    assert dependence(z[:, one].copy(), z[:, other].copy()) < SIGMAS


def test_the_four_normals_of_a_block_are_independent_together() -> None:
    products = draw(T_STREAM, 4 * PAIR_COUNT).reshape(-1, 4).prod(axis=1)
    assert abs(products.mean()) < SIGMAS / math.sqrt(len(products))


@pytest.mark.parametrize("r", [2, 3, 8])
def test_the_rows_of_a_factor_are_independent_of_the_next_rows(r: int) -> None:
    rows = draw(T_STREAM, MATRIX_COUNT).reshape(-1, r)
    for powers in hermite(rows):
        correlations = powers[:-1].T @ powers[1:] / math.sqrt(len(rows) - 1)
        assert np.abs(correlations).max() < SIGMAS


@pytest.mark.parametrize("r", [2, 3, 8])
def test_the_columns_of_a_factor_are_independent_of_each_other(r: int) -> None:
    rows = draw(T_STREAM, MATRIX_COUNT).reshape(-1, r)
    for powers in hermite(rows):
        correlations = powers.T @ powers / math.sqrt(len(rows))
        assert np.abs(correlations[~np.eye(r, dtype=bool)]).max() < SIGMAS
