"""Cached equals live: a video's scores are the same from the cache, from its file, exported and streamed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from framecache.cache import InputError, open_cache
from framecache.cache.spec import Spec
from framecache.train.lineage import Lineage, read_lineage
from framecache.train.serving.features import serving_backbone
from framecache.train.serving.tolerance import feature_deviations

from .served import Case, Served, derived, every_way, make_run, require_equal, serve


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Served:
    served = serve(tmp_path_factory.mktemp("served"), ("gap", "gmp", "gap+gmp.random=5", "gem", "grid"))
    derived(served, "tiny.gap-", pca=4, whiten=True, dtype="uint8")
    derived(served, "tiny.gap-", concat=("tiny.gmp-",), l2=True, dtype="float32")
    derived(served, "tiny.grid-", reduce="gmp", random=3, sample="every=2")
    return served


# Every model, every reduction, every dtype, every clip, every task, each at least once.
CASES = (
    Case("lstm", "tiny.gap-", 6),
    Case("gru", "tiny.gap.pca=4,white.uint8", 5, "crop"),
    Case("bilstm", "tiny.gap+gmp.random=5", 4, "windows", "multilabel"),
    Case("attention-lstm", "tiny.gem-"),
    Case("stacked-lstm", "tiny.grid-", 4, "windows", "frames"),
    Case("mean", "tiny.gap+gmp.l2", 6, task="regression", rescale=(30.0, 7.0)),
    Case("lstm", "tiny.gmp.random=3", 5, "crop", "multilabel"),
)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_cached_live_exported_and_streamed_scores_are_the_same(case: Case, served: Served, tmp_path: Path) -> None:
    run = make_run(served, case, tmp_path / "run")
    require_equal(every_way(served, case, run))


def leaf(dtype: str) -> Lineage:
    return Lineage(Spec("toy", "0" * 64, "late", True, {}, "all", "gap", (2,), dtype))


def test_a_deviation_is_one_step_of_the_stored_dtype() -> None:
    fingerprint = leaf("float16").spec.fingerprint
    values, deviations = feature_deviations(leaf("float16"), {fingerprint: np.array([[1.0, 5.0]], np.float32)})
    np.testing.assert_array_equal(values, [[1, 5]])
    np.testing.assert_allclose(deviations, [[2**-10, 2**-8]], rtol=2e-3)
    single = leaf("float32")
    _, deviations = feature_deviations(single, {single.spec.fingerprint: np.array([[1.0, 5.0]], np.float32)})
    np.testing.assert_allclose(deviations, 5e-5, rtol=1e-2)  # the CNN's own rounding is all that is left


def test_eight_bits_deviate_by_a_level(served: Served, tmp_path: Path) -> None:
    case = Case("mean", "tiny.gap.pca=4,white.uint8")
    lineage = read_lineage(make_run(served, case, tmp_path / "run"), tmp_path)
    (parent, _), *_ = lineage.leaves()
    rows = np.asarray(open_cache(served.cache)["tiny.gap-"]["clip0.mp4"])
    values, deviations = feature_deviations(lineage, {parent.fingerprint: rows})
    np.testing.assert_array_equal(values, open_cache(served.cache)[case.feature_set]["clip0.mp4"])
    assert (deviations >= 4 / 255).all()  # whitened components are stored from -2 to 2
    assert (deviations < 8 / 255).all()


def test_imported_features_name_no_cnn_that_could_make_more(make_spec: Callable[..., Spec]) -> None:
    with pytest.raises(InputError, match="imported, and the CNN that made them is not known"):
        serving_backbone([make_spec(backbone="imported:resnet50")])
