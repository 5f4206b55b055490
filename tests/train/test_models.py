"""Models: what they compute, that padding never matters, and that a file holds all of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from framecache.cache.errors import InputError
from framecache.train.config import MODEL_NAMES, ModelConfig
from framecache.train.models import build_model

MEAN, VARIANCE = np.array([1.0, -2.0, 0.5, 0.0]), np.array([4.0, 0.25, 1.0, 9.0])


def build(name: str, feature_shape: tuple[int, ...] = (4,), **changes: Any) -> Any:
    keras.utils.set_random_seed(0)
    config = ModelConfig(model=name, units=5, **changes)
    return build_model(config, feature_shape, 3, MEAN[: feature_shape[-1]], VARIANCE[: feature_shape[-1]])


def inputs(lengths: list[int], seq_len: int, feature_shape: tuple[int, ...] = (4,), junk: float = 0.0) -> Any:
    rng = np.random.default_rng(0)
    mask = np.arange(seq_len) < np.array(lengths)[:, None]
    features = np.full((len(lengths), seq_len, *feature_shape), junk, np.float32)
    for row, length in enumerate(lengths):
        features[row, :length] = rng.normal(size=(length, *feature_shape))
    return {"features": features, "mask": mask}


def logits(model: Any, batch: Any) -> np.ndarray:
    return keras.ops.convert_to_numpy(model(batch, training=False))


@pytest.mark.parametrize("name", MODEL_NAMES)
def test_padding_and_what_lies_in_it_never_change_a_score(name: str) -> None:
    model = build(name)
    short = logits(model, inputs([5, 3], 5))
    np.testing.assert_allclose(logits(model, inputs([5, 3], 11, junk=7.0)), short, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", [name for name in MODEL_NAMES if name != "mean"])
def test_sequence_models_see_the_order_and_the_mean_does_not(name: str) -> None:
    batch = inputs([6], 6)
    turned = {**batch, "features": batch["features"][:, ::-1].copy()}
    model = build(name)
    assert np.abs(logits(model, batch) - logits(model, turned)).max() > 1e-3
    mean = build("mean")
    np.testing.assert_allclose(logits(mean, batch), logits(mean, turned), rtol=1e-5, atol=1e-6)


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def test_the_lstm_is_the_textbooks_on_standardised_features() -> None:
    model = build("lstm")
    kernel, recurrent, bias = model.get_layer("lstm").get_weights()
    head, head_bias = model.get_layer("logits").get_weights()
    batch = inputs([4], 4)
    h = c = np.zeros(5)
    for frame in (batch["features"][0] - MEAN) / np.sqrt(VARIANCE):
        i, f, g, o = np.split(frame @ kernel + h @ recurrent + bias, 4)
        c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
        h = sigmoid(o) * np.tanh(c)
    np.testing.assert_allclose(logits(model, batch)[0], h @ head + head_bias, rtol=1e-4, atol=1e-5)


def test_attention_pools_the_states_by_a_masked_softmax() -> None:
    model = build("attention-lstm")
    batch = inputs([4, 2], 6)
    part = keras.Model(model.input, [model.get_layer("lstm").output, model.get_layer("attention").output])
    states, weights = (keras.ops.convert_to_numpy(value) for value in part(batch))
    np.testing.assert_allclose(weights.sum(axis=1), 1, rtol=1e-5)
    assert not weights[1, 2:].any()
    head, head_bias = model.get_layer("logits").get_weights()
    np.testing.assert_allclose(logits(model, batch), (weights * states).sum(axis=1) @ head + head_bias, rtol=1e-4)


def test_stacked_lstm_has_as_many_layers_as_asked_for() -> None:
    model = build("stacked-lstm", layers=3)
    assert [layer.name for layer in model.layers if isinstance(layer, keras.layers.LSTM)] == [
        "lstm_1",
        "lstm_2",
        "lstm_3",
    ]


def test_bilstm_reads_both_ways() -> None:
    assert build("bilstm").get_layer("bilstm").output.shape == (None, 10)


def test_dense_projects_with_relu_in_front_of_the_lstm() -> None:
    layer = build("lstm", dense=7).get_layer("projection")
    assert layer.activation is keras.activations.relu
    assert layer.output.shape == (None, None, 7)


@pytest.mark.parametrize("name", MODEL_NAMES)
def test_a_grid_is_flattened_for_the_dense_projection(name: str) -> None:
    model = build(name, (2, 2, 4), dense=6)
    assert model.get_layer("projection").get_weights()[0].shape == (16, 6)
    assert logits(model, inputs([3, 2], 3, (2, 2, 4))).shape == (2, 3)


@pytest.mark.parametrize("name", MODEL_NAMES)
def test_a_saved_model_loads_alone_and_scores_the_same(name: str, tmp_path: Path) -> None:
    model = build(name, dense=6)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras", safe_mode=True)
    batch = inputs([5, 3], 6)
    np.testing.assert_array_equal(logits(loaded, batch), logits(model, batch))


OWN_MODELS = """
import keras
from keras import layers

def masked(feature_shape, num_classes):
    x, mask = keras.Input((None, *feature_shape)), keras.Input((None,), dtype="bool")
    return keras.Model([x, mask], layers.Dense(num_classes)(layers.GRU(3)(x, mask=mask)))

def plain(feature_shape, num_classes):
    return keras.Sequential([keras.Input((None, *feature_shape)), layers.GRU(3), layers.Dense(num_classes)])

def wrong(feature_shape, num_classes):
    return keras.Sequential([keras.Input((None, *feature_shape)), layers.GRU(num_classes + 1)])

def nothing(feature_shape, num_classes):
    return None
"""


@pytest.fixture
def own_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_models.py").write_text(OWN_MODELS)
    monkeypatch.syspath_prepend(tmp_path)


@pytest.mark.parametrize("name", ["masked", "plain"])
@pytest.mark.usefixtures("own_models")
def test_a_users_own_model_gives_logits_with_or_without_the_mask(name: str) -> None:
    assert logits(build(f"own_models:{name}"), inputs([3, 2], 4)).shape == (2, 3)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("own_models:wrong", r"expected logits \(None, 3\), found \(None, 4\)"),
        ("own_models:nothing", "expected it to return a Keras model, found NoneType"),
        ("own_models:gone", "cannot be imported"),
        ("lstmm", "did you mean 'lstm'"),
    ],
)
@pytest.mark.usefixtures("own_models")
def test_a_model_that_does_not_fit_is_refused(name: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        build(name)


def per_frame(name: str, feature_shape: tuple[int, ...] = (4,), **changes: Any) -> Any:
    keras.utils.set_random_seed(0)
    statistics = MEAN[: feature_shape[-1]], VARIANCE[: feature_shape[-1]]
    return build_model(ModelConfig(model=name, units=5, **changes), feature_shape, 3, *statistics, per_frame=True)


FRAME_MODELS = [name for name in MODEL_NAMES if name != "attention-lstm"]


@pytest.mark.parametrize("name", FRAME_MODELS)
def test_each_frame_gets_logits_that_padding_never_changes(name: str) -> None:
    model = per_frame(name)
    short, long = logits(model, inputs([5, 3], 5)), logits(model, inputs([5, 3], 11, junk=7.0))
    assert short.shape == (2, 5, 3)
    for row, length in enumerate([5, 3]):
        np.testing.assert_allclose(long[row, :length], short[row, :length], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("name", "before", "after"), [("mean", 0, 0), ("lstm", 1, 0), ("gru", 1, 0), ("bilstm", 1, 1)])
def test_which_frames_a_frames_logits_depend_on(name: str, before: int, after: int) -> None:
    model, batch = per_frame(name), inputs([5], 5)
    changed = {**batch, "features": batch["features"].copy()}
    changed["features"][0, 2] += 1
    moved = np.abs(logits(model, changed) - logits(model, batch)).max(axis=2)[0] > 1e-5
    assert moved.tolist() == [bool(after)] * 2 + [True] + [bool(before)] * 2


def test_of_frames_the_mean_is_a_linear_classifier_of_each_frame() -> None:
    model, batch = per_frame("mean"), inputs([4], 4)
    kernel, bias = model.get_layer("logits").get_weights()
    expected = (batch["features"] - MEAN) / np.sqrt(VARIANCE) @ kernel + bias
    np.testing.assert_allclose(logits(model, batch), expected, rtol=1e-4, atol=1e-5)


def test_the_last_lstm_of_a_stack_sees_the_first_one_in_every_frame() -> None:
    model = per_frame("stacked-lstm", layers=2)
    assert model.get_layer("lstm_2").output.shape == model.get_layer("lstm_1").output.shape == (None, None, 5)


def test_a_grids_frames_are_flattened_for_their_logits() -> None:
    assert logits(per_frame("lstm", (2, 2, 4), dense=6), inputs([3, 2], 3, (2, 2, 4))).shape == (2, 3, 3)


def test_attention_has_no_output_for_each_frame() -> None:
    with pytest.raises(InputError, match="attention-lstm: it sums a video up"):
        per_frame("attention-lstm")


@pytest.mark.usefixtures("own_models")
def test_a_users_own_model_must_have_logits_for_each_frame_where_these_are_asked_for() -> None:
    with pytest.raises(InputError, match=r"expected logits \(None, None, 3\), found \(None, 3\)"):
        per_frame("own_models:masked")


def test_a_number_comes_out_in_its_own_units_of_the_saved_model_too(tmp_path: Path) -> None:
    def regression(rescale: tuple[float, float]) -> Any:
        keras.utils.set_random_seed(0)
        return build_model(ModelConfig(units=5), (4,), 1, MEAN, VARIANCE, rescale=rescale)

    batch = inputs([5, 3], 5)
    model = regression((10.0, 1000.0))
    np.testing.assert_allclose(logits(model, batch), 1000 + 10 * logits(regression((1.0, 0.0)), batch), rtol=1e-6)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras", safe_mode=True)
    np.testing.assert_array_equal(logits(loaded, batch), logits(model, batch))
