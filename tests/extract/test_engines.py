"""Engines: one pass, every reduction of every tap, whichever engine runs it."""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from framecache.cache.errors import InputError
from framecache.cache.reductions import Reduction, parse_reduction, random_matrix
from framecache.extract import backbones, kept, litert
from framecache.extract.backbones import Backbone, load_backbone
from framecache.extract.engines import TensorFlowEngine, make_engine
from framecache.extract.forward import forward_module

from .conftest import TINY_BACKBONE

# In this order and twelve of them: an engine that sorted its outputs as text would mix them up.
REDUCTIONS = [parse_reduction(text) for text in ("gmp", "grid", "gap+gmp", "gem=2.5", "gap", "grid.random=7,seed=3")]
OUTPUTS = [(tap, reduction) for reduction in REDUCTIONS for tap in ("late", "early", "late")]
GAP = parse_reduction("gap")


@pytest.fixture
def backbone(tiny_backbone: str) -> Backbone:
    return load_backbone(tiny_backbone)


@pytest.fixture
def frames() -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (4, 16, 16, 3), np.uint8)


def naive(backbone: Backbone, frames: NDArray[np.uint8], tap: str, reduction: Reduction) -> NDArray[np.float32]:
    import keras

    part = keras.Model(backbone.model.input, backbone.model.get_layer(tap).output)
    maps = np.asarray(part(frames.astype(np.float32), training=False))
    mean, largest = maps.mean(axis=(1, 2)), maps.max(axis=(1, 2))
    return {
        "gap": mean,
        "gmp": largest,
        "gap+gmp": np.concatenate([mean, largest], 1),
        "gem=2.5": (np.maximum(maps, 1e-6) ** 2.5).mean(axis=(1, 2)) ** (1 / 2.5),
        "grid": maps,
        "grid.random=7,seed=3": maps.reshape(len(maps), -1) @ random_matrix(maps[0].size, 7, 3),
    }[str(reduction)]


@pytest.mark.parametrize("name", ["tensorflow", "litert"])
def test_every_output_is_its_taps_reduction_in_the_order_asked_for(
    name: str, backbone: Backbone, frames: NDArray[np.uint8]
) -> None:
    engine = make_engine(name, backbone, OUTPUTS, 4, 1)
    assert engine.name == name
    computed = engine.run(frames)
    assert len(computed) == len(OUTPUTS)
    for features, (tap, reduction) in zip(computed, OUTPUTS, strict=True):
        assert features.dtype == np.float32
        assert features.shape[1:] == reduction.feature_shape(backbone.map_shape(tap))
        np.testing.assert_allclose(features, naive(backbone, frames, tap, reduction), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["tensorflow", "litert"])
def test_a_frames_numbers_do_not_depend_on_its_neighbours(
    name: str, backbone: Backbone, frames: NDArray[np.uint8]
) -> None:
    engine = make_engine(name, backbone, [("late", GAP)], 4, 1)
    (alone,) = engine.run(np.concatenate([frames[:1], np.zeros((3, 16, 16, 3), np.uint8)]))
    (among,) = engine.run(frames)
    np.testing.assert_array_equal(alone[0], among[0])


def test_auto_takes_litert_on_a_cpu(backbone: Backbone) -> None:
    assert make_engine("auto", backbone, [("late", GAP)], 2, 1).name == "litert"


def test_auto_falls_back_to_the_graph_where_a_network_does_not_convert(
    backbone: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: Any) -> bytes:
        raise ValueError("unsupported op")

    monkeypatch.setattr(litert, "convert", refuse)
    assert make_engine("auto", backbone, [("late", GAP)], 2, 1).name == "tensorflow"
    with pytest.raises(InputError, match=r"does not convert \(unsupported op\); use --engine tensorflow"):
        make_engine("litert", backbone, [("late", GAP)], 2, 1)


def kept_engine(folder: Path) -> Path:
    (path,) = folder.glob("litert-*")
    return path


@pytest.fixture(scope="module")
def converted_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A user's cache folder with what :func:`start` keeps."""
    folder = tmp_path_factory.mktemp("converted")
    (folder / "tiny_backbone.py").write_text(TINY_BACKBONE)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        patch.setenv("XDG_CACHE_HOME", str(folder / "xdg"))
        start(load_backbone("tiny_backbone:build"))
    return folder / "xdg" / "framecache"


@pytest.fixture
def converted(converted_once: Path, own_user_cache: Path) -> Path:
    """The file that an earlier start has kept in this user's cache folder."""
    shutil.copytree(converted_once, own_user_cache)
    return kept_engine(own_user_cache)


def start(backbone: Backbone) -> None:
    """What the first extraction does, and then every other."""
    make_engine("auto", backbone, [("late", GAP)], 2, 1)


@pytest.fixture
def conversions(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Grows by one for each network that is converted."""
    found: list[Any] = []
    convert = litert.convert

    def counted(module: Any) -> bytes:
        found.append(module)
        return convert(module)

    monkeypatch.setattr(litert, "convert", counted)
    return found


def test_a_network_is_converted_once(
    backbone: Backbone, frames: NDArray[np.uint8], conversions: list[Any], own_user_cache: Path
) -> None:
    first = make_engine("auto", backbone, OUTPUTS, 4, 1)
    unbuilt = replace(backbone, build=lambda: pytest.fail("the network was built"))
    again = make_engine("auto", unbuilt, OUTPUTS, 4, 1)
    for one, other in zip(first.run(frames), again.run(frames), strict=True):
        np.testing.assert_array_equal(one, other)
    assert (len(conversions), again.name, again.note) == (1, "litert", "")
    assert not list(own_user_cache.glob(".*"))


@pytest.mark.parametrize(
    "changed",
    [
        {"outputs": [("early", GAP)]},
        {"outputs": [("late", parse_reduction("gem=2"))]},
        {"batch_size": 3},
        {"weights": "tiny_backbone:other"},
        {"normalisation": "resnet50"},
    ],
    ids=lambda changed: next(iter(changed)),
)
def test_another_network_reduction_or_batch_is_converted_anew(
    backbone: Backbone, converted: Path, conversions: list[Any], changed: dict[str, Any]
) -> None:
    start(backbone)
    assert not conversions
    if "weights" in changed or "normalisation" in changed:
        backbone = load_backbone(changed.get("weights", "tiny_backbone:build"), None, changed.get("normalisation"))
    make_engine("auto", backbone, changed.get("outputs", [("late", GAP)]), changed.get("batch_size", 2), 1)
    assert len(conversions) == 1


def flip(path: Path, place: int) -> None:
    data = bytearray(path.read_bytes())
    data[place] ^= 4
    path.write_bytes(data)


@pytest.mark.parametrize(
    "harm",
    [
        lambda path: flip(path, 3),
        lambda path: flip(path, 60),
        lambda path: flip(path, path.stat().st_size // 2),
        lambda path: path.write_bytes(path.read_bytes()[:-100]),
        lambda path: path.write_bytes(b""),
        lambda path: path.chmod(0o666),
    ],
    ids=["digest", "key", "content", "cut", "empty", "others-may-write"],
)
def test_a_damaged_or_foreign_conversion_is_made_anew(
    backbone: Backbone, conversions: list[Any], converted: Path, harm: Callable[[Path], object]
) -> None:
    harm(converted)
    start(backbone)
    assert len(conversions) == 1
    start(backbone)
    assert len(conversions) == 1, "what was made anew is kept, and whole"


def test_a_conversion_kept_under_anothers_name_is_not_believed(
    tiny_backbone: str, conversions: list[Any], converted: Path, own_user_cache: Path
) -> None:
    content = converted.read_bytes()
    converted.unlink()
    start(load_backbone("tiny_backbone:other"))
    kept_engine(own_user_cache).write_bytes(content)
    start(load_backbone("tiny_backbone:other"))
    assert len(conversions) == 2


def test_other_numbers_than_the_graphs_are_refused(
    backbone: Backbone, frames: NDArray[np.uint8], monkeypatch: pytest.MonkeyPatch, own_user_cache: Path
) -> None:
    other = litert.convert(forward_module(load_backbone("tiny_backbone:other"), [("late", GAP)], 4))
    monkeypatch.setattr(litert, "convert", lambda _: other)
    engine = make_engine("auto", backbone, [("late", GAP)], 4, 1)
    assert engine.name == "tensorflow"
    assert "differs from the graph by up to" in engine.note
    np.testing.assert_allclose(engine.run(frames)[0], naive(backbone, frames, "late", GAP), rtol=1e-4, atol=1e-5)
    assert not own_user_cache.exists()
    with pytest.raises(InputError, match=r"differs from the graph.*use --engine tensorflow"):
        make_engine("litert", backbone, [("late", GAP)], 4, 1)


def test_a_home_that_cannot_be_written_costs_time_only(
    backbone: Backbone, conversions: list[Any], own_user_cache: Path
) -> None:
    own_user_cache.parent.write_text("a file where the folder should be")
    for _ in range(2):
        assert make_engine("auto", backbone, [("late", GAP)], 2, 1).name == "litert"
    assert len(conversions) == 2


def test_what_is_kept_stays_within_bounds_and_the_oldest_goes(
    monkeypatch: pytest.MonkeyPatch, own_user_cache: Path
) -> None:
    for number in range(3):
        kept.keep("some", {"number": number}, bytes(1500))
        os.utime(kept._path("some", {"number": number}), (number, number))
    limit = sum(path.stat().st_size for path in own_user_cache.iterdir())
    monkeypatch.setattr(kept, "_MAX_BYTES", limit)
    assert kept.recall("some", {"number": 0}) == bytes(1500)  # used again: no longer the oldest
    kept.keep("some", {"number": 3}, bytes(1500))
    found = [kept.recall("some", {"number": number}) is not None for number in range(4)]
    assert found == [True, False, True, True]


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_the_graph_gives_the_stored_dtype_with_the_bits_of_numpys_cast(
    backbone: Backbone, frames: NDArray[np.uint8], dtype: str
) -> None:
    whole = TensorFlowEngine(backbone, OUTPUTS, 4).run(frames)
    for features, expected in zip(TensorFlowEngine(backbone, OUTPUTS, 4, dtype).run(frames), whole, strict=True):
        assert features.dtype == dtype
        np.testing.assert_array_equal(features, expected.astype(dtype))


@pytest.mark.parametrize("network", ["build", "nested", "sequential"])
def test_mixed_precision_rounds_the_layers_to_half_and_nothing_else(
    network: str, tiny_backbone: str, frames: NDArray[np.uint8]
) -> None:
    backbone = load_backbone(f"{tiny_backbone.partition(':')[0]}:{network}")
    outputs = [(backbone.default_tap, GAP)]
    (exact,) = make_engine("tensorflow", backbone, outputs, 4, 1).run(frames)
    engine = make_engine("auto", backbone, outputs, 4, 1, precision="mixed_float16")
    assert engine.name == "tensorflow"
    (mixed,) = engine.run(frames)
    scale = np.abs(exact).max()
    assert 0 < np.abs(mixed - exact).max() < 4e-3 * scale
    (again,) = make_engine("tensorflow", backbone, outputs, 4, 1).run(frames)
    np.testing.assert_array_equal(again, exact, "the network itself stays in float32")


def test_litert_refuses_mixed_precision(backbone: Backbone) -> None:
    with pytest.raises(InputError, match="--engine litert: computes in float32, not in mixed_float16"):
        make_engine("litert", backbone, [("late", GAP)], 4, 1, precision="mixed_float16")


def test_tensorflows_cast_to_half_is_numpys() -> None:
    import tensorflow as tf

    bits = np.random.default_rng(0).integers(0, 1 << 32, 1 << 18, np.uint32)
    values = np.concatenate([bits.view(np.float32), np.float32([65519, 65520, 6e-8, 2.9e-8, -0.0, np.inf])])
    with np.errstate(over="ignore", invalid="ignore"):
        expected = values.astype(np.float16)
    np.testing.assert_array_equal(tf.cast(values, tf.float16).numpy(), expected)


TWO_DEVICES = """
import sys
import numpy as np
import tensorflow as tf
tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2
)
from framecache.cache.reductions import parse_reduction
from framecache.extract.backbones import load_backbone
from framecache.extract.engines import PassesAhead, TensorFlowEngine
backbone, outputs = load_backbone("tiny_backbone:build"), [("late", parse_reduction("gap"))]
batches = np.random.default_rng(0).integers(0, 256, (7, 4, 16, 16, 3), np.uint8)
single = TensorFlowEngine(backbone, outputs, 4)
devices = [device.name for device in tf.config.list_logical_devices("CPU")]
double = TensorFlowEngine(backbone, outputs, 4, devices=devices)
with PassesAhead(double) as passes:
    found = [pending.result()[0] for pending in [passes.submit(batch) for batch in batches]]
np.testing.assert_allclose(found, [single.run(batch)[0] for batch in batches], rtol=1e-6)
modules = [next(double._modules) for _ in range(2)]
used = {module.weights[0].device for module in modules}
print(len(devices), len(used), passes.depth, *(module.run.experimental_get_tracing_count() for module in modules))
"""


def test_batches_go_to_all_devices_in_turns_and_come_back_in_order(tiny_backbone: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", TWO_DEVICES],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(tmp_path / "code"), "CUDA_VISIBLE_DEVICES": ""},
    )
    assert done.stdout.split() == ["2", "2", "5", "1", "1"], done.stderr


MOBILENET = """
import json, sys
import numpy as np
from framecache.cache.reductions import parse_reduction
from framecache.extract.backbones import load_backbone
from framecache.extract.engines import TensorFlowEngine, make_engine
from framecache.extract.forward import forward_module
backbone = load_backbone("MobileNet", "random")
engine = make_engine("auto", backbone, [(backbone.default_tap, parse_reduction("gap"))], 1, 1)
features = engine.run(np.full((1, 224, 224, 3), 9, np.uint8))[0]
print(json.dumps([backbone.weights, backbone.default_tap, features.tobytes().hex(), "tensorflow" in sys.modules]))
"""


def test_a_second_start_needs_no_tensorflow(conversions: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch, contextlib.redirect_stdout(io.StringIO()) as first:
        patch.setattr(backbones, "sys", SimpleNamespace(modules={}))  # as if Keras had not been imported before
        exec(MOBILENET, {})
    assert len(conversions) == 1
    second = subprocess.run([sys.executable, "-c", MOBILENET], capture_output=True, check=True, timeout=120)
    *expected, _ = json.loads(first.getvalue())
    assert json.loads(second.stdout) == [*expected, False]


@pytest.mark.gpu
def test_the_graph_runs_on_a_gpu_with_the_cpus_numbers(backbone: Backbone, frames: NDArray[np.uint8]) -> None:
    engine = make_engine("auto", backbone, OUTPUTS, 4, 1)
    assert engine.name == "tensorflow"
    for features, (tap, reduction) in zip(engine.run(frames), OUTPUTS, strict=True):
        np.testing.assert_allclose(features, naive(backbone, frames, tap, reduction), rtol=1e-2, atol=1e-3)
