"""Engines: one pass, every reduction of every tap, whichever engine runs it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from framecache.cache.errors import InputError
from framecache.cache.reductions import Reduction, parse_reduction, random_matrix
from framecache.extract import engines
from framecache.extract.backbones import Backbone, load_backbone
from framecache.extract.engines import make_engine

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

    monkeypatch.setattr(engines, "_convert", refuse)
    assert make_engine("auto", backbone, [("late", GAP)], 2, 1).name == "tensorflow"
    with pytest.raises(InputError, match=r"does not convert \(unsupported op\); use --engine tensorflow"):
        make_engine("litert", backbone, [("late", GAP)], 2, 1)


@pytest.mark.gpu
def test_the_graph_runs_on_a_gpu_with_the_cpus_numbers(backbone: Backbone, frames: NDArray[np.uint8]) -> None:
    engine = make_engine("auto", backbone, OUTPUTS, 4, 1)
    assert engine.name == "tensorflow"
    for features, (tap, reduction) in zip(engine.run(frames), OUTPUTS, strict=True):
        np.testing.assert_allclose(features, naive(backbone, frames, tap, reduction), rtol=1e-2, atol=1e-3)
