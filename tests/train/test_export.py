"""framecache-train export: one self-contained model, and the one that takes a frame at a time."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from framecache.cache import InputError
from framecache.cache.cli import run
from framecache.train.__main__ import app
from framecache.train.serving.config import ExportConfig
from framecache.train.serving.export import export
from framecache.train.serving.model_card import format_card

from .served import CLASSES, Case, Served, make_run, serve

ONLY_TENSORFLOW = """
import json, sys
for name in ("framecache", "keras", "tf_keras", "h5py"):
    sys.modules[name] = None  # to import it is an error
import numpy as np, tensorflow as tf
signature = tf.saved_model.load(sys.argv[1]).signatures["serving_default"]
frames = np.load(sys.argv[2])
found = signature(frames=tf.constant(frames), lengths=tf.constant([len(frames[0]), 3]))
print(json.dumps({name: value.numpy().tolist() for name, value in found.items()}))
"""


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Served:
    served = serve(tmp_path_factory.mktemp("served"), ("gap",))
    for model in ("lstm", "bilstm", "attention-lstm"):
        make_run(served, Case(model, "tiny.gap", 6), served.folder / model)
    return served


def config(served: Served, **changes: object) -> ExportConfig:
    return ExportConfig(cache=served.folder / "nowhere", backbone=served.backbone, **changes)  # type: ignore[arg-type]


def test_every_format_holds_the_whole_run_and_the_saved_model_needs_only_tensorflow(
    served: Served, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "exported"
    words = ["--cache", str(served.folder / "nowhere"), "--backbone", str(served.backbone)]
    assert run(app, ["export", str(served.folder / "lstm"), str(folder), *words, "--json"]) == 0
    card = json.loads(capsys.readouterr().out)
    assert card == json.loads((folder / "card.json").read_text())
    assert {name: file["file"] for name, file in card["files"].items()} == {
        "keras": "model.keras",
        "savedmodel": "saved_model",
        "litert": "model.tflite",
    }
    assert all(file["difference"] <= card["tolerance"] for file in card["files"].values())
    assert (card["classes"], card["metrics"]["val"]) == (list(CLASSES), {"accuracy": 0.5})
    assert card["inputs"]["frames"] == {"shape": [None, None, 16, 16, 3], "dtype": "uint8"}
    assert (folder / "README.md").read_text() == format_card(card)

    frames = np.random.default_rng(0).integers(0, 256, (2, 9, 16, 16, 3), np.uint8)
    np.save(tmp_path / "frames.npy", frames)
    words = [sys.executable, "-c", ONLY_TENSORFLOW, str(folder / "saved_model"), str(tmp_path / "frames.npy")]
    ended = subprocess.run(words, capture_output=True, text=True, timeout=120, check=True)
    found = json.loads(ended.stdout.splitlines()[-1])

    import keras

    loaded = keras.saving.load_model(folder / "model.keras", safe_mode=True)
    expected = loaded({"frames": frames, "lengths": np.array([9, 3], np.int32)})
    np.testing.assert_allclose(found["scores"], expected["scores"], atol=1e-5)
    np.testing.assert_allclose(np.sum(found["scores"], axis=1), 1, atol=1e-5)
    # What lies beyond a video's length does not count.
    black = frames.copy()
    black[1, 3:] = 0
    again = loaded({"frames": black, "lengths": np.array([9, 3], np.int32)})
    np.testing.assert_array_equal(again["logits"], expected["logits"])


def test_a_stream_is_exported_with_its_state(served: Served, tmp_path: Path) -> None:
    exported = export(served.folder / "lstm", tmp_path / "live", config(served, stream=True, formats=("litert",)))
    assert sorted(path.name for path in exported.folder.iterdir()) == ["README.md", "card.json", "model.tflite"]
    assert exported.card["files"]["litert"]["difference"] <= exported.card["tolerance"]
    assert sorted(exported.card["inputs"]) == ["c_1", "frame", "h_1"]
    assert '"c_1": tf.zeros((1, 8)), "h_1": tf.zeros((1, 8))' in (exported.folder / "README.md").read_text()


@pytest.mark.parametrize(
    ("model", "why"), [("bilstm", "reads videos from their end"), ("attention-lstm", "weighs all frames")]
)
def test_a_model_that_must_see_a_whole_video_is_not_streamed(
    model: str, why: str, served: Served, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=why):
        export(served.folder / model, tmp_path / "live", config(served, stream=True))
    assert list(tmp_path.iterdir()) == []


def test_an_existing_folder_is_never_written_into(served: Served, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="exists already"):
        export(served.folder / "lstm", tmp_path, config(served))
    assert list(tmp_path.iterdir()) == []


def test_frames_of_another_size_are_scaled_inside(served: Served, tmp_path: Path) -> None:
    import keras

    exported = export(served.folder / "lstm", tmp_path / "big", config(served, size="32x48", formats=("keras",)))
    assert exported.card["frames"]["resized_inside"]
    loaded = keras.saving.load_model(tmp_path / "big" / "model.keras", safe_mode=True)
    plain = export(served.folder / "lstm", tmp_path / "plain", config(served, formats=("keras",)))
    same = keras.saving.load_model(plain.folder / "model.keras", safe_mode=True)
    frames = np.random.default_rng(0).integers(0, 256, (1, 4, 1, 1, 3), np.uint8)
    lengths = np.array([4], np.int32)
    big, small = (np.broadcast_to(frames, (1, 4, *size, 3)).copy() for size in ((32, 48), (16, 16)))
    scaled = loaded({"frames": big, "lengths": lengths})["logits"]
    np.testing.assert_allclose(scaled, same({"frames": small, "lengths": lengths})["logits"], atol=1e-5)


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"formats": ("onnx",)}, "expected keras, savedmodel, litert"), ({"size": "360"}, "expected HEIGHTxWIDTH")],
)
def test_settings_that_mean_nothing_are_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        ExportConfig(**settings)  # type: ignore[arg-type]
