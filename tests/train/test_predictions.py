"""What is kept of a run's outputs, and what is refused of anybody's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from framecache.cache.errors import InputError
from framecache.train.predictions import Predictions, read_predictions

ARRAYS: dict[str, Any] = {
    "video_id": np.array(["a", "é", "<b>"]),
    "split": np.array(["train", "val", "test"]),
    "logits": np.arange(6, dtype=np.float32).reshape(3, 2),
    "baseline": np.ones((3, 2), np.float32),
    "targets": np.array([0, 1, 1]),
}
FRAMES: dict[str, Any] = {
    **ARRAYS,
    "logits": np.arange(8, dtype=np.float32).reshape(4, 2),
    "baseline": np.ones((4, 2), np.float32),
    "targets": np.array([0, -1, 1, 0]),
    "lengths": np.array([1, 2, 1]),
}
KINDS = {
    "classes": ARRAYS,
    "several labels": {**ARRAYS, "targets": np.eye(3, 2, dtype=bool)},
    "numbers": {**ARRAYS, "logits": ARRAYS["logits"][:, :1], "baseline": ARRAYS["baseline"][:, :1]}
    | {"targets": np.array([[0.5], [1], [2]], np.float32)},
    "frames": FRAMES,
}


@pytest.mark.parametrize("arrays", KINDS.values(), ids=KINDS)
def test_what_is_read_is_what_was_written(arrays: dict[str, Any], tmp_path: Path) -> None:
    Predictions(**arrays).write(tmp_path / "logits.npz")
    read = read_predictions(tmp_path / "logits.npz")
    for name in (*ARRAYS, "lengths"):
        np.testing.assert_array_equal(getattr(read, name), arrays.get(name))


def test_the_same_predictions_are_the_same_bytes(tmp_path: Path) -> None:
    for name in "ab":
        Predictions(**ARRAYS).write(tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_a_split_takes_its_frames_along_and_is_in_the_order_of_names() -> None:
    mixed = {**FRAMES, "video_id": np.array(["z", "b", "a"]), "split": np.array(["test", "val", "test"])}
    test = Predictions(**mixed).of_split("test")
    assert test.video_id.tolist() == ["a", "z"]
    assert test.lengths is not None
    assert test.lengths.tolist() == [1, 1]
    assert test.logits.tolist() == [[6, 7], [0, 1]]
    assert test.targets.tolist() == [0, 0]
    val = Predictions(**mixed).of_split("val")
    assert val.logits.tolist() == [[2, 3], [4, 5]]
    assert val.targets.tolist() == [-1, 1]
    assert Predictions(**FRAMES).of_split("val").logits.tolist() == [[2, 3], [4, 5]]
    nothing = Predictions(**{**FRAMES, "split": np.array(["val"] * 3)}).of_split("test")
    assert nothing.logits.shape == (0, 2)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"video_id": np.array(["a", "b", "a"])}, "expected each video once"),
        ({"split": np.array(["train", "val", "valid"])}, "found 'valid'"),
        ({"split": np.array(["val"])}, r"split: expected shape \(3,\), found \(1,\)"),
        ({"logits": np.zeros((2, 2), np.float32)}, r"logits: expected shape \(3, 2\), found \(2, 2\)"),
        ({"logits": np.zeros(3, np.float32)}, r"logits: expected shape \(3, outputs\)"),
        ({"logits": np.full((3, 2), np.nan, np.float32)}, "logits: expected finite numbers"),
        ({"baseline": np.array([["x"] * 2] * 3)}, "baseline: expected an array of kind f"),
        ({"targets": np.array([0, 1, 2])}, r"targets: expected classes in \[0, 1\]"),
        ({"targets": np.array([0, 1, -1])}, r"targets: expected classes in \[0, 1\]"),
        ({"targets": np.array(["a", "b", "c"], object)}, "targets: expected an array"),
        ({"lengths": np.array([1, -1, 3])}, "negative"),
        ({"lengths": np.array([1, 1, 2])}, r"logits: expected shape \(4, 2\)"),
    ],
)
def test_what_does_not_fit_together_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Predictions(**{**ARRAYS, **change})


def damage(path: Path, kind: str) -> None:
    Predictions(**ARRAYS).write(path)
    if kind == "cut":
        path.write_bytes(path.read_bytes()[:-40])
    elif kind == "flipped":
        content = bytearray(path.read_bytes())
        content[content.index(b"logits.npy") + 50] ^= 0xFF
        path.write_bytes(content)
    elif kind == "text":
        path.write_text("no archive")
    elif kind == "pickle":
        np.savez(path, **{**ARRAYS, "targets": np.array([{}, {}, {}], object)})
    elif kind == "one array":
        with path.open("wb") as stream:
            np.save(stream, np.zeros(3))
    elif kind == "not all":
        np.savez(path, video_id=ARRAYS["video_id"])
    elif kind == "nonsense":
        np.savez(path, **{**ARRAYS, "split": np.array(["?"] * 3)})
    else:
        path.unlink()


@pytest.mark.parametrize("kind", ["cut", "flipped", "text", "pickle", "one array", "not all", "nonsense", "gone"])
def test_a_damaged_file_is_refused_in_one_line_that_names_it(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "logits.npz"
    damage(path, kind)
    with pytest.raises(InputError, match=r"logits\.npz: ") as caught:
        read_predictions(path)
    assert "\n" not in str(caught.value)
