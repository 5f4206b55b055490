"""fidelity: what a derived set keeps of its parent."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from framecache.cache.shard import VideoRow
from framecache.cache.writer import ShardWriter
from framecache.train.fidelity import reconstruction
from framecache.train.fidelity.reconstruction import Fidelity, measure_fidelity

from .conftest import digest_of
from .workplace import Rows, Workplace, flip_a_bit


@pytest.fixture
def place(tmp_path: Path) -> Workplace:
    return Workplace(tmp_path)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Workplace:
    """One whose sets are only added to."""
    return Workplace(tmp_path_factory.mktemp("shared"))


def judge(wanted: Rows, found: Rows, train: Rows) -> tuple[float, float, float]:
    """Cosine, relative error and explained variance, by their definitions."""
    cosines = (wanted * found).sum(axis=1) / np.linalg.norm(wanted, axis=1) / np.linalg.norm(found, axis=1)
    error = np.linalg.norm(wanted - found) / np.linalg.norm(wanted)
    explained = 1 - ((wanted - found) ** 2).sum() / ((wanted - train.mean(axis=0)) ** 2).sum()
    return float(cosines.mean()), float(error), float(explained)


def told(fidelity: Fidelity) -> tuple[float | None, ...]:
    return fidelity.cosine, fidelity.relative_error, fidelity.explained_variance


def best_affine(rows: Rows, wanted: Rows) -> Callable[[Rows], Rows]:
    """The best affine map, by NumPy's own least squares."""
    solution = np.linalg.lstsq(np.c_[rows, np.ones(len(rows))], wanted, rcond=None)[0]
    return lambda others: np.c_[others, np.ones(len(others))] @ solution


@pytest.mark.parametrize(
    "steps", [{"dtype": "float32"}, {"sample": "every=2"}, {"sample": "num=3"}], ids=lambda steps: str(steps)
)
def test_features_that_are_left_as_they_are_lose_nothing(shared: Workplace, steps: dict[str, Any]) -> None:
    found = shared.measure(shared.derive(**steps))
    assert found.parents == (shared.data.name,)
    assert told(found) == pytest.approx((1, 0, 1), abs=1e-9)
    assert found.remark == ""


@pytest.mark.parametrize(("whiten", "every"), [(False, 1), (True, 1), (False, 2)])
def test_the_reconstruction_of_a_pca_is_its_own_inverse(shared: Workplace, whiten: bool, every: int) -> None:
    name = shared.derive(pca=3, whiten=whiten, dtype="float32", sample=None if every == 1 else f"every={every}")
    train, test = shared.rows("train", every=every), shared.rows("test", every=every)
    mean = train.mean(axis=0)
    components = np.linalg.svd(train - mean, full_matrices=False)[2][:3]
    expected = judge(test, (test - mean) @ components.T @ components + mean, train)
    assert told(shared.measure(name)) == pytest.approx(expected, rel=1e-5)
    assert 0.01 < expected[1] < 0.5


@pytest.mark.parametrize(
    "steps", [{"random": 3}, {"dtype": "uint8"}, {"l2": True}, {"random": 3, "dtype": "uint8"}], ids=str
)
def test_any_step_is_undone_by_the_least_squares_of_the_train_split(shared: Workplace, steps: dict[str, Any]) -> None:
    name = shared.derive(**steps)
    train, test = shared.rows("train"), shared.rows("test")
    undo = best_affine(shared.rows("train", name), train)
    expected = judge(test, undo(shared.rows("test", name)), train)
    assert told(shared.measure(name)) == pytest.approx(expected, rel=1e-4)
    assert expected[1] > 1e-3


def test_8_bits_keep_nearly_all(shared: Workplace) -> None:
    cosine, error, explained = told(shared.measure(shared.derive(dtype="uint8")))
    assert cosine is not None
    assert 0.999 < cosine < 1
    assert error is not None
    assert 0 < error < 0.02
    assert explained is not None
    assert 0.99 < explained < 1


def test_test_videos_never_teach_the_reconstruction(place: Workplace) -> None:
    name = place.derive(random=3)
    before = place.measure(name)
    half = measure_fidelity(place.store, place.store[name], place.ids("train")[:12], place.ids("test"))
    other = measure_fidelity(place.store, place.store[name], place.ids("test"), place.ids("test"))
    assert half.relative_error != before.relative_error
    assert other.relative_error is not None
    assert before.relative_error is not None
    assert other.relative_error < before.relative_error  # those that it was fitted on are the easiest


def test_the_parents_of_a_concatenation_are_reconstructed_together(shared: Workplace) -> None:
    other = shared.derive(random=4, dtype="float32")
    found = shared.measure(shared.derive(concat=(other,), dtype="float32"))
    assert found.parents == (shared.data.name, other)
    assert told(found) == pytest.approx((1, 0, 1), abs=1e-6)


def test_a_grandchild_is_judged_by_its_own_parent(shared: Workplace) -> None:
    child = shared.derive(pca=3, dtype="float32")
    found = shared.measure(shared.derive(child, dtype="float32", sample="every=3"))
    assert found.parents == (child,)
    assert told(found) == pytest.approx((1, 0, 1), abs=1e-9)


def test_fewer_frames_than_numbers_leave_alone_what_no_step_has_mixed(tmp_path: Path) -> None:
    place = Workplace(tmp_path, (40,))
    for steps in ({"sample": "num=1"}, {"sample": "num=1", "dtype": "uint8"}):  # 24 frames to fit on
        found = place.measure(place.derive(**steps))
        assert found.cosine is not None
        assert found.cosine > 0.99
        assert found.remark == ""
    assert place.measure(place.derive(sample="num=1", random=30)).remark == (
        "reconstructed from 24 train frames only, for 30 numbers each"
    )


def test_an_extracted_set_has_no_fidelity_and_nothing_to_explain(shared: Workplace) -> None:
    assert shared.measure(shared.data.name) == Fidelity()


def test_a_parent_that_is_gone_or_too_wide_is_told(place: Workplace, monkeypatch: pytest.MonkeyPatch) -> None:
    name = place.derive(pca=3)
    with monkeypatch.context() as patch:
        patch.setattr(reconstruction, "_MAX_WIDTH", 7)
        found = place.measure(name)
        assert told(found) == (None, None, None)
        assert found.remark == "its parent has 8 numbers per frame, and over 7 are not reconstructed"
    place.store.remove(place.data.name)
    found = place.measure(name)
    assert told(found) == (None, None, None)
    assert found.remark == f"its parent {place.parent.fingerprint[:8]} is not in {place.data.cache} any more"


def test_a_parent_whose_videos_are_others_by_now_is_told(place: Workplace) -> None:
    name, video_id = place.derive(pca=3), place.ids("test")[0]
    with ShardWriter(place.parent.folder, place.parent.spec, {}, 1 << 20, 60) as writer:
        buffer = writer.open_video()
        buffer.append(np.ones((5, 8), np.float16), np.arange(5) * 100.0)
        content = digest_of("other content")
        writer.add(buffer, VideoRow(video_id, 5, buffer.hexdigest(), video_id, content, "", None, 5, ()))
    found = place.measure(name)
    assert told(found) == (None, None, None)
    assert f"1 of its videos ('{video_id}', …) are missing in its parent, or have other frames" in found.remark


def test_a_hurt_parent_is_told(place: Workplace) -> None:
    name = place.derive(pca=3)
    (path,) = place.parent.folder.glob("shard-*.h5")
    flip_a_bit(path)
    assert "'down/train0.mp4' is hurt" in place.measure(name).remark
