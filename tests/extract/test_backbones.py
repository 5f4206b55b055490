"""Backbones: the right network, its own preprocessing, and a digest that knows its weights."""

from __future__ import annotations

import contextlib
import importlib
import shutil
from pathlib import Path
from typing import Any

import keras
import matplotlib
import numpy as np
import pytest

from framecache.cache.errors import InputError
from framecache.cache.reductions import parse_reduction
from framecache.cache.sampling import Sampling
from framecache.extract import networks
from framecache.extract.backbones import Backbone, load_backbone
from framecache.extract.engines import make_engine
from framecache.extract.layers import digest_layers
from framecache.extract.networks import application_names
from framecache.extract.video import Clip, DecodeStats, Geometry, decode

ACADEMIC_GOWN, MILITARY_UNIFORM, MORTARBOARD = 400, 652, 667  # ImageNet classes


class _SizeFoundError(Exception):
    pass


@pytest.mark.parametrize("name", sorted(application_names()))
def test_each_application_gets_the_input_size_of_its_network(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    builder = application_names()[name]
    module = importlib.import_module(builder.__module__)
    found: list[int] = []

    def obtain_input_shape(*args: Any, default_size: int, **kwargs: Any) -> Any:
        found.append(default_size)
        raise _SizeFoundError

    monkeypatch.setattr(module.imagenet_utils, "obtain_input_shape", obtain_input_shape)
    with contextlib.suppress(_SizeFoundError):
        builder(weights=None)
    # MobileNetV3 takes any size and asks for none; its weights were trained at 224.
    assert networks._APPLICATION_SIZES.get(name, 224) == (224 if name.startswith("MobileNetV3") else found[0])


@pytest.mark.parametrize("name", sorted(application_names()))
def test_each_application_has_a_preprocess_input_of_its_own(name: str) -> None:
    module = application_names()[name].__module__.rpartition(".")[2]
    pixels = np.full((1, 2, 2, 3), 200.0, np.float32)
    expected = getattr(keras.applications, module).preprocess_input(pixels.copy())
    backbone = Backbone(name, "", Geometry(2, 2), module, {}, lambda: pytest.fail("the network was built"))
    np.testing.assert_allclose(np.asarray(backbone.normalise(keras.ops.convert_to_tensor(pixels))), expected, rtol=1e-6)


def test_an_application_is_found_in_any_spelling() -> None:
    backbone = load_backbone("mobilenet-v2", weights="random")
    assert backbone.name == "MobileNetV2"
    assert backbone.default_tap == "out_relu"
    assert backbone.map_shape("out_relu") == (7, 7, 1280)
    assert backbone.preprocessing["normalisation"] == "mobilenet_v2"


def test_random_weights_are_the_same_each_time() -> None:
    digests = {load_backbone("MobileNet", weights="random").weights for _ in range(2)}
    assert len(digests) == 1


def test_the_digest_knows_weights_and_settings_but_not_layer_names(tiny_backbone: str) -> None:
    first, again = load_backbone(tiny_backbone), load_backbone(tiny_backbone)
    other = load_backbone("tiny_backbone:other")
    assert first.weights == again.weights
    assert first.weights != other.weights
    changed = load_backbone(tiny_backbone)
    kernel = changed.model.get_layer("late").kernel
    kernel.assign(np.nextafter(kernel.numpy(), np.inf))
    assert digest_layers(changed.graph) != first.weights == digest_layers(first.graph)


def test_a_keras_file_is_a_backbone_of_the_same_digest(tiny_backbone: str, tmp_path: Path) -> None:
    built = load_backbone(tiny_backbone)
    built.model.save(tmp_path / "mine.keras")
    loaded = load_backbone(str(tmp_path / "mine.keras"))
    assert loaded.name == "mine"
    assert loaded.weights == built.weights
    assert (loaded.geometry.height, loaded.geometry.width) == (16, 16)


def test_the_last_map_is_the_default_tap(tiny_backbone: str) -> None:
    assert load_backbone(tiny_backbone).default_tap == "late"


@pytest.mark.parametrize("name", ["sequential", "nested"])
def test_sequential_and_nested_models_can_be_tapped(tiny_backbone: str, name: str) -> None:
    backbone = load_backbone(f"tiny_backbone:{name}")
    assert backbone.map_shape(backbone.default_tap) == (8, 8, 4)
    frames = np.random.default_rng(0).integers(0, 256, (2, 16, 16, 3), np.uint8)
    outputs = [(backbone.default_tap, parse_reduction("grid"))]
    (features,) = make_engine("tensorflow", backbone, outputs, 2, 1).run(frames)
    np.testing.assert_allclose(features, np.asarray(backbone.model(frames.astype(np.float32))), rtol=1e-5, atol=1e-5)
    assert load_backbone(f"tiny_backbone:{name}").weights == backbone.weights


def test_the_digest_knows_how_layers_are_wired(tiny_backbone: str) -> None:
    digests = {load_backbone(f"tiny_backbone:{name}").weights for name in ("skip_early", "skip_late")}
    assert len(digests) == 2


def test_a_keras_file_with_code_inside_is_refused(tmp_path: Path) -> None:
    frames = keras.Input((8, 8, 3))
    model = keras.Model(frames, keras.layers.Lambda(lambda x: x, output_shape=(8, 8, 3))(frames))
    model.save(tmp_path / "code.keras")
    with pytest.raises(InputError, match="not a Keras 3 model that loads safely"):
        load_backbone(str(tmp_path / "code.keras"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["mobilnet"], "no such network; did you mean MobileNet"),
        (["gone.keras"], "no such file"),
        (["no_such_module:build"], "cannot be imported"),
        (["tiny_backbone:nothing"], "cannot be imported"),
        (["tiny_backbone:not_a_model"], "expected it to return a Keras model, found int"),
        (["tiny_backbone:any_size"], r"one input of fixed size \(None, height, width, 3\)"),
        (["tiny_backbone:Subclassed"], "expected a Functional or Sequential model"),
        (["tiny_backbone:raises"], "it raises ZeroDivisionError"),
        (["./tiny_backbone.py:build"], "cannot be imported"),
        (["tiny_backbone:build", "random"], "brings its own weights"),
        (["tiny_backbone:build", None, "resnet5"], "did you mean resnet"),
        (["MobileNetV2", "random", "resnet50"], "has its own"),
        (["MobileNetV2", "gone.h5"], "--weights 'gone.h5': no such file"),
        (["efficientnet-lite0", "random"], "leave --weights out"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_a_wrong_backbone_is_refused_with_the_way_out(tiny_backbone: str, arguments: list[Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        load_backbone(*arguments)


def test_weights_that_cannot_be_downloaded_name_the_ways_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def download(**_: Any) -> Any:
        raise Exception("URL fetch failure on https://example.org: no route to host")

    download.__module__ = "keras.src.applications.mobilenet_v2"
    monkeypatch.setattr(networks, "application_names", lambda: {"MobileNetV2": download})
    with pytest.raises(InputError, match=r"cannot be downloaded.*--weights FILE.*~/.keras.*efficientnet-lite0"):
        load_backbone("MobileNetV2")


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "other.weights.h5"
    keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)]).save_weights(path)
    with pytest.raises(InputError, match="does not fit MobileNetV2"):
        load_backbone("MobileNetV2", weights=str(path))


def test_an_unknown_layer_is_refused_with_near_names(tiny_backbone: str) -> None:
    with pytest.raises(InputError, match="no such layer; did you mean late"):
        load_backbone(tiny_backbone).map_shape("lat")


def test_a_layer_without_a_map_is_refused(tiny_backbone: str) -> None:
    with pytest.raises(InputError, match=r"gives a feature map \(h, w, C\)"):
        load_backbone(tiny_backbone).map_shape("top")


def test_efficientnet_lite0_knows_what_grace_hopper_wears(tmp_path: Path) -> None:
    """The portrait that comes with matplotlib: the uniform and cap of a rear admiral of the US Navy."""
    shutil.copy(Path(matplotlib.get_data_path()) / "sample_data" / "grace_hopper.jpg", tmp_path)
    backbone = load_backbone("efficientnet-lite0")
    (block,) = decode(Clip(tmp_path, Sampling(), backbone.geometry), DecodeStats())
    logits = backbone.model(backbone.normalise(block.frames.astype(np.float32)), training=False)
    assert set(np.argsort(logits[0])[-3:].tolist()) == {ACADEMIC_GOWN, MILITARY_UNIFORM, MORTARBOARD}
    probabilities = np.asarray(keras.ops.softmax(logits[0]))[[ACADEMIC_GOWN, MORTARBOARD, MILITARY_UNIFORM]]
    np.testing.assert_allclose(probabilities, [0.23, 0.21, 0.20], atol=0.01)  # as it was when this was written
