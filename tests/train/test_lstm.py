"""The fast time loops: outputs, gradients and saved layers are those of Keras."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from framecache.train.lstm import hoist

BATCH, STEPS, DIMS, UNITS = 5, 9, 7, 6
UNMASKED = np.ones((BATCH, STEPS), bool)
KINDS = {"lstm": keras.layers.LSTM, "gru": keras.layers.GRU}
MASKS = {
    "padded on the right": np.arange(STEPS) < np.array([[9], [1], [4], [7], [2]]),
    "masked anywhere": np.random.default_rng(3).random((BATCH, STEPS)) < 0.6,
}


def new_model(layer: Any, masked: bool) -> keras.Model:
    features, mask = keras.Input((None, DIMS)), keras.Input((None,), dtype="bool")
    model = keras.Model([features, mask], layer(features, mask=mask if masked else None))
    rng = np.random.default_rng(0)
    model.set_weights([rng.normal(scale=0.4, size=weight.shape) for weight in model.get_weights()])
    return model


def outputs_and_gradients(model: keras.Model, mask: Any) -> list[Any]:
    features = tf.constant(np.random.default_rng(1).normal(size=(BATCH, STEPS, DIMS)), tf.float32)
    with tf.GradientTape() as tape:
        tape.watch(features)
        found = model([features, tf.convert_to_tensor(mask)])
        loss = tf.reduce_sum(tf.sin(found))
    gradients = tape.gradient(loss, [features, *(variable.value for variable in model.trainable_variables)])
    return [found, *gradients]


def one_way_by_itself(layer: Any) -> tuple[Any, Callable[..., Any]]:
    return layer, outputs_and_gradients


def both_ways_in_a_graph(layer: Any) -> tuple[Any, Callable[..., Any]]:
    return keras.layers.Bidirectional(layer), tf.function(outputs_and_gradients)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize(
    ("kind", "used", "return_sequences"),
    list(product(KINDS, (one_way_by_itself, both_ways_in_a_graph), (False, True))),
)
def test_outputs_and_gradients_are_those_of_keras(
    kind: str, used: Callable[..., Any], return_sequences: bool, masked: bool
) -> None:
    layer, run = used(KINDS[kind](UNITS, return_sequences=return_sequences))
    model = new_model(layer, masked)
    masks = MASKS if masked else {"no mask": UNMASKED}
    expected = {name: outputs_and_gradients(model, mask) for name, mask in masks.items()}
    hoist(model)
    for name, mask in masks.items():
        for one, other in zip(run(model, tf.constant(mask)), expected[name], strict=True):
            np.testing.assert_allclose(one, other, atol=1e-5, err_msg=name)


def test_stacked_layers_that_hand_states_on_are_those_of_keras() -> None:
    features = keras.Input((None, DIMS))
    sequence, hidden, cell = keras.layers.LSTM(UNITS, return_sequences=True, return_state=True)(features)
    last = keras.layers.LSTM(UNITS, go_backwards=True)(sequence, initial_state=[hidden, cell])
    model = keras.Model(features, last)
    x = np.random.default_rng(0).normal(size=(BATCH, STEPS, DIMS)).astype(np.float32)
    expected = model(x)
    hoist(model)
    np.testing.assert_allclose(model(x), expected, atol=1e-6)


def test_a_saved_model_is_one_of_plain_keras(tmp_path: Path) -> None:
    model = new_model(keras.layers.Bidirectional(keras.layers.LSTM(UNITS)), True)
    expected = outputs_and_gradients(model, UNMASKED)[0]
    hoist(model)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert "inner_loop" not in vars(loaded.layers[-1].forward_layer), "the fast loop is not part of what is saved"
    np.testing.assert_allclose(outputs_and_gradients(loaded, UNMASKED)[0], expected, atol=1e-6)


@pytest.mark.parametrize(
    "settings",
    [
        {"activation": "relu"},
        {"recurrent_activation": "hard_sigmoid"},
        {"use_bias": False},
        {"recurrent_dropout": 0.5},
        {"dropout": 0.1},
        {"unroll": True},
        {"stateful": True},
    ],
)
def test_layers_of_another_form_keep_the_loop_of_keras(settings: dict[str, Any]) -> None:
    features = keras.Input((STEPS, DIMS), batch_size=BATCH)
    layer = keras.layers.LSTM(UNITS, **settings)
    hoist(keras.Model(features, layer(features)))
    assert "inner_loop" not in vars(layer)


def test_a_subclass_keeps_what_it_does_itself() -> None:
    class Own(keras.layers.LSTM):
        pass

    layer = Own(UNITS)
    hoist(new_model(layer, False))
    assert "inner_loop" not in vars(layer)
