"""Reductions by name, pooled from grids, and projected at random."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from framecache.cache.errors import InputError
from framecache.cache.reductions import POOLS, Reduction, parse_reduction, pool_maps, random_matrix


@pytest.mark.parametrize(
    ("text", "reduction"),
    [
        ("gap", Reduction("gap")),
        ("gap+gmp", Reduction("gap+gmp")),
        ("gem", Reduction("gem", 3.0)),
        ("gem=3", Reduction("gem", 3.0)),
        ("gem:4.5", Reduction("gem", 4.5)),
        ("gem=2.5.random=8", Reduction("gem", 2.5, 8)),
        ("random:256", Reduction("gap", dim=256)),
        ("grid.random=64,seed=7", Reduction("grid", dim=64, seed=7)),
    ],
)
def test_what_a_name_means(text: str, reduction: Reduction) -> None:
    assert parse_reduction(text) == reduction


@given(st.sampled_from(POOLS), st.integers(1, 400), st.integers(0, 4096), st.integers(0, (1 << 32) - 1))
def test_a_name_comes_back_from_what_it_means(pool: str, p: int, dim: int, seed: int) -> None:
    reduction = Reduction(pool, p / 4 if pool == "gem" else 3.0, dim, seed if dim else 0)
    assert parse_reduction(str(reduction)) == reduction


NO_REDUCTIONS = (
    *("", "gapp", "gap.", ".random=4", "gap=3", "gap.pca=4", "gmp+gap", "gap random=4"),
    *("gem=", "gem=0", "gem=101", "gem=-1", "gem=1e3"),
    *("random=", "random=0", "random=65537", "gap.random=4,seed=4294967296", "gap.random=4.random=2"),
)


@pytest.mark.parametrize("text", NO_REDUCTIONS)
def test_what_is_no_reduction_is_refused(text: str) -> None:
    with pytest.raises(InputError, match=r"--reduce .*: expected"):
        parse_reduction(text)


def test_a_near_name_is_offered() -> None:
    with pytest.raises(InputError, match=r"did you mean 'gap'\?"):
        parse_reduction("gapp")


def test_pools_of_a_grid() -> None:
    maps = np.array([[[[1.0], [2.0]], [[3.0], [6.0]]]], np.float32)  # (1, 2, 2, 1)
    assert pool_maps(Reduction("gap"), maps).tolist() == [[3.0]]
    assert pool_maps(Reduction("gmp"), maps).tolist() == [[6.0]]
    assert pool_maps(Reduction("gap+gmp"), maps).tolist() == [[3.0, 6.0]]
    assert pool_maps(Reduction("gem", 2.0), maps)[0, 0] == pytest.approx((50 / 4) ** 0.5)
    assert pool_maps(Reduction("gem", 1.0), maps)[0, 0] == pytest.approx(3.0)
    assert pool_maps(Reduction("gem", 90.0), maps / 6)[0, 0] == pytest.approx(1.0, rel=0.02)  # towards the maximum
    assert pool_maps(Reduction("grid"), maps) is maps


def test_a_random_projection_keeps_distances_as_johnson_and_lindenstrauss_promise() -> None:
    num_points, error = 40, 0.5
    dim = int(np.ceil(4 * np.log(num_points) / (error**2 / 2 - error**3 / 3)))
    points = np.random.default_rng(0).normal(size=(num_points, 1000)).astype(np.float32)
    projected = points @ random_matrix(1000, dim, seed=0)
    one, other = np.triu_indices(num_points, 1)
    before = ((points[one] - points[other]) ** 2).sum(axis=1)
    after = ((projected[one] - projected[other]) ** 2).sum(axis=1)
    assert (abs(after / before - 1) < error).all()
    assert (after / before).mean() == pytest.approx(1, abs=0.02)


def test_a_random_matrix_is_its_seeds_for_ever() -> None:
    assert random_matrix(3, 2, 0).ravel().tolist() == pytest.approx(
        [1.2473733, 0.2829539, 0.6920723, 1.5845507, 1.3205630, -0.6910398]
    )
    assert not np.array_equal(random_matrix(3, 2, 1), random_matrix(3, 2, 0))
