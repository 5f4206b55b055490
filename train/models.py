"""Sequence models: features and mask in, logits or numbers out, standardisation inside.

All of them see ``features (B, T, *feature_shape)`` float32 and ``mask (B, T)`` bool with the padding on the
right, so that a saved model needs nothing beside it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import layers
from numpy.typing import NDArray

from framecache.cache.errors import InputError
from framecache.cache.plugins import import_callable
from framecache.train.config import ModelConfig

Tensor = Any


def _mean(x: Tensor, mask: Tensor, config: ModelConfig, per_frame: bool) -> Tensor:
    return x if per_frame else layers.GlobalAveragePooling1D(name="mean")(x, mask=mask)


def _lstm(x: Tensor, mask: Tensor, config: ModelConfig, per_frame: bool) -> Tensor:
    return layers.LSTM(config.units, return_sequences=per_frame, name="lstm")(x, mask=mask)


def _stacked_lstm(x: Tensor, mask: Tensor, config: ModelConfig, per_frame: bool) -> Tensor:
    for layer in range(1, config.layers):
        x = layers.LSTM(config.units, return_sequences=True, name=f"lstm_{layer}")(x, mask=mask)
    return layers.LSTM(config.units, return_sequences=per_frame, name=f"lstm_{config.layers}")(x, mask=mask)


def _bilstm(x: Tensor, mask: Tensor, config: ModelConfig, per_frame: bool) -> Tensor:
    layer = layers.LSTM(config.units, return_sequences=per_frame)
    return layers.Bidirectional(layer, name="bilstm")(x, mask=mask)


def _gru(x: Tensor, mask: Tensor, config: ModelConfig, per_frame: bool) -> Tensor:
    return layers.GRU(config.units, return_sequences=per_frame, name="gru")(x, mask=mask)


def _attention_lstm(x: Tensor, mask: Tensor, config: ModelConfig, per_frame: bool) -> Tensor:
    """Attention pooling of all LSTM outputs: softmax(wᵀ tanh(V h)) as in Yang et al., NAACL 2016, eq. 5–7."""
    if per_frame:
        raise InputError("--model attention-lstm: it sums a video up, expected a model with an output for each frame")
    states = layers.LSTM(config.units, return_sequences=True, name="lstm")(x, mask=mask)
    scores = layers.Dense(config.units, activation="tanh", name="attention_hidden")(states)
    scores = layers.Dense(1, use_bias=False, name="attention_score")(scores)  # (B, T, 1)
    weights = layers.Softmax(axis=1, name="attention")(scores, mask=layers.Reshape((-1, 1))(mask))
    pooled = layers.Dot(axes=1, name="pooled")([weights, states])  # (B, 1, units)
    return layers.Flatten(name="summary")(pooled)


_SUMMARIES: dict[str, Callable[[Tensor, Tensor, ModelConfig, bool], Tensor]] = {
    "lstm": _lstm,
    "stacked-lstm": _stacked_lstm,
    "bilstm": _bilstm,
    "gru": _gru,
    "attention-lstm": _attention_lstm,
    "mean": _mean,
}


def standardisation(mean: NDArray[np.float64], variance: NDArray[np.float64]) -> Any:
    """The layer that every model begins with; mean and variance ``(C,)`` are those of the train split."""
    return layers.Normalization(axis=-1, mean=mean, variance=variance, name="standardise")


def build_model(
    config: ModelConfig,
    feature_shape: tuple[int, ...],
    num_outputs: int,
    mean: NDArray[np.float64],
    variance: NDArray[np.float64],
    per_frame: bool = False,
    rescale: tuple[float, float] = (1.0, 0.0),
) -> Any:
    """Builds a Keras model from ``{"features", "mask"}`` to logits ``(B, num_outputs)``.

    Args:
        config: Its shape.
        feature_shape: ``(D,)``, or ``(h, w, C)`` of a grid set: each frame is flattened for the Dense projection.
        num_outputs: Number of classes, or 1 for a number.
        mean: Mean per channel, of the train split.
        variance: Variance per channel, of the train split.
        per_frame: Whether each frame gets logits, ``(B, T, num_outputs)``; ``mean`` is a linear classifier of frames
            then.
        rescale: Scale and offset of a last layer, which brings a number into the label's own units.

    Raises:
        InputError: ``module:callable`` cannot be imported or returns no fitting model, or the model has no output for
            each frame.
    """
    import keras

    features = keras.Input((None, *feature_shape), name="features")
    mask = keras.Input((None,), dtype="bool", name="mask")
    x = standardisation(mean, variance)(features)
    if config.noise:
        x = layers.GaussianNoise(config.noise, name="noise")(x)
    if config.feature_dropout:
        same_in_all_frames = (None, 1, *feature_shape)
        x = layers.Dropout(config.feature_dropout, noise_shape=same_in_all_frames, name="feature_dropout")(x)
    if ":" in config.model:
        logits = _own_logits(config.model, x, mask, feature_shape, num_outputs, per_frame)
    else:
        if len(feature_shape) > 1:
            x = layers.Reshape((-1, math.prod(feature_shape)), name="flatten")(x)
        if config.dense:
            x = layers.Dense(config.dense, activation="relu", name="projection")(x)
        summary = _SUMMARIES[config.model](x, mask, config, per_frame)
        summary = layers.Dropout(config.dropout, name="dropout")(summary)
        logits = layers.Dense(num_outputs, name="logits")(summary)
    if rescale != (1.0, 0.0):
        logits = layers.Rescaling(*rescale, name="rescale")(logits)
    return keras.Model({"features": features, "mask": mask}, logits, name=config.model.replace(":", "_"))


def _own_logits(
    name: str, x: Tensor, mask: Tensor, feature_shape: tuple[int, ...], num_outputs: int, per_frame: bool
) -> Tensor:
    """A user's model: called with ``feature_shape`` and ``num_classes``, it returns a Keras model.

    The model takes the standardised features, or a list of these and the mask, and gives logits.
    """
    build = import_callable(name, "--model")
    try:
        model = build(feature_shape=feature_shape, num_classes=num_outputs)
    except Exception as error:  # a user's code may raise anything
        raise InputError(f"--model {name}: it raises {type(error).__name__}: {error}") from error
    if not isinstance(model, keras.Model):
        raise InputError(f"--model {name}: expected it to return a Keras model, found {type(model).__name__}")
    logits = model([x, mask]) if len(model.inputs) == 2 else model(x)
    expected = (None, None, num_outputs) if per_frame else (None, num_outputs)
    if tuple(logits.shape) != expected:
        raise InputError(f"--model {name}: expected logits {expected}, found {tuple(logits.shape)}")
    return logits
