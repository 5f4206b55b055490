"""How far a difference can be trusted."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from framecache.train.comparison import significance
from framecache.train.comparison.significance import bootstrap, holm, interval, mcnemar, paired_bootstrap

VALUES = np.random.default_rng(0).normal(size=50)


def mean_of(values: NDArray[np.float64]) -> significance.Callable[[NDArray[np.float64]], NDArray[np.float64]]:
    return lambda weights: weights @ values / weights.sum(axis=1)


def test_all_scores_see_the_same_resamples_and_always_the_same_ones() -> None:
    first = bootstrap([mean_of(VALUES), mean_of(2 * VALUES)], 50, 300)
    np.testing.assert_allclose(first[1], 2 * first[0])
    np.testing.assert_array_equal(bootstrap([mean_of(VALUES)], 50, 300)[0], first[0])


def test_how_many_resamples_are_made_at_once_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = bootstrap([mean_of(VALUES)], 50, 100)
    monkeypatch.setattr(significance, "_CHUNK", 350)
    np.testing.assert_allclose(bootstrap([mean_of(VALUES)], 50, 100), whole)


def test_a_mean_spreads_by_its_standard_error() -> None:
    (resampled,) = bootstrap([mean_of(VALUES)], 50, 4000)
    assert resampled.std() == pytest.approx(VALUES.std() / 50**0.5, rel=0.05)
    low, high = interval(resampled)
    assert (high - low) / 2 == pytest.approx(1.96 * VALUES.std() / 50**0.5, rel=0.08)
    assert low < VALUES.mean() < high


def test_resamples_in_which_a_score_is_not_defined_are_left_out() -> None:
    def undefined_without_the_first(weights: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.where(weights[:, 0] > 0, 1.0, np.nan)

    resampled = bootstrap([undefined_without_the_first, mean_of(np.ones(3))], 3, 1000)
    assert np.isfinite(resampled).all()
    assert resampled.shape[1] == pytest.approx(1000 * (1 - (2 / 3) ** 3), rel=0.1)


def test_equal_runs_are_told_apart_in_about_five_of_a_hundred_cases() -> None:
    rng = np.random.default_rng(1)
    p_values = []
    for _ in range(200):
        differences = rng.choice([-1.0, 0.0, 1.0], p=[0.2, 0.6, 0.2], size=40)
        p_values.append(paired_bootstrap(bootstrap([mean_of(differences)], 40, 400)[0], 40))
    assert 0.01 <= np.mean(np.array(p_values) < 0.05) <= 0.1


def test_a_p_value_is_two_sided_and_never_zero() -> None:
    assert paired_bootstrap(np.ones(999), 40) == pytest.approx(0.002)
    assert paired_bootstrap(-np.ones(999), 40) == pytest.approx(0.002)
    assert paired_bootstrap(np.zeros(999), 40) == 1.0
    assert paired_bootstrap(np.repeat([-1.0, 1.0], [100, 899]), 40) == pytest.approx(0.202)


def test_few_videos_prove_no_more_than_an_exact_test_could() -> None:
    assert paired_bootstrap(np.ones(9999), 5) == mcnemar(np.ones(5, bool), np.zeros(5, bool)) == 0.0625
    assert paired_bootstrap(np.zeros(9999), 0) == 1.0


@pytest.mark.parametrize(
    ("only_first", "only_second", "p"),
    [(0, 0, 1.0), (3, 3, 1.0), (0, 5, 0.0625), (5, 0, 0.0625), (1, 9, 0.021484375), (400, 600, 2.8e-10)],
)
def test_mcnemar_is_a_two_sided_toss_of_the_videos_that_differ(only_first: int, only_second: int, p: float) -> None:
    first = np.repeat([True, False, True, False], [only_first, only_second, 7, 4])
    second = np.repeat([False, True, True, False], [only_first, only_second, 7, 4])
    assert mcnemar(first, second) == pytest.approx(p, rel=0.05)


def test_holm_corrects_for_the_number_of_tests() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []
