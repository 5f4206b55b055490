"""A run as a model of one frame at a time, with the state that it carries on as inputs and outputs."""

from __future__ import annotations

from typing import Any

from framecache.cache.errors import InputError
from framecache.cache.quiet import quiet_stderr
from framecache.train.serving.exported import FrameFeatures, outputs_of, uncompiled
from framecache.train.serving.scorer import Scorer

with quiet_stderr():
    import keras
from keras import layers, ops

Tensor = Any
_CELLS = {layers.LSTM: (layers.LSTMCell, ("h", "c")), layers.GRU: (layers.GRUCell, ("h",))}
STREAMED = ("lstm", "stacked-lstm", "gru", "mean")


def require_stream(model: str) -> None:
    """Refuses a model that has to see a whole video.

    Raises:
        InputError: It is one.
    """
    if model not in STREAMED:
        why = {
            "bilstm": "it also reads videos from their end",
            "attention-lstm": "it weighs all frames of a video against each other",
        }.get(model, "what it carries from frame to frame is not known")
        raise InputError(f"--stream: expected a model of {', '.join(STREAMED)}, found {model}: {why}")


def build_stream(features: FrameFeatures, scorer: Scorer, batch_size: int | None = None) -> Any:
    """The model of one frame ``{"frame" (B, H, W, 3) uint8, states…}`` → ``{"scores", "logits", next states…}``.

    Scores ``(B, num_outputs)`` are those of the video up to this frame; of frame labels those of the frame. States are
    float32 and begin as zeros: ``h_1`` and ``c_1`` ``(B, units)`` of the first LSTM, ``h_1`` of a GRU, ``sum`` and
    ``count`` of a mean. The state after the frame has ``next_`` before its name.

    Args:
        features: The part up to the features.
        scorer: The run; its model is one of :data:`STREAMED`.
        batch_size: ``B``, if it is fixed.
    """
    model = uncompiled(scorer.model)
    frame = keras.Input(batch_shape=(batch_size, *features.size, 3), dtype="uint8", name="frame")
    x = features(frame)
    inputs: dict[str, Tensor] = {"frame": frame}
    after: dict[str, Tensor] = {}

    def state(name: str, width: int) -> Tensor:
        inputs[name] = keras.Input(batch_shape=(batch_size, width), name=name)
        return inputs[name]

    x = ops.expand_dims(x, 1)  # as one time step
    number = 0
    for layer in _in_order(model):
        if type(layer) in _CELLS:
            number += 1
            kind, names = _CELLS[type(layer)]
            before = [state(f"{name}_{number}", layer.units) for name in names]
            cell = kind.from_config(_cell_config(layer, kind))
            output, states = cell(x[:, 0], before)
            cell.set_weights(layer.get_weights())
            after |= {f"next_{name}_{number}": value for name, value in zip(names, states, strict=True)}
            x = ops.expand_dims(output, 1)
        elif isinstance(layer, layers.GlobalAveragePooling1D):
            after["next_sum"] = state("sum", x.shape[-1]) + x[:, 0]
            after["next_count"] = state("count", 1) + 1.0
            x = ops.expand_dims(after["next_sum"] / after["next_count"], 1)
        elif isinstance(layer, layers.Dense | layers.Normalization | layers.Reshape | layers.Rescaling):
            x = layer(x)
    logits = x[:, 0]
    return keras.Model(inputs, {**outputs_of(logits, scorer), **after}, name="stream")


def _in_order(model: Any) -> list[Any]:
    """The layers from features to logits, which our own unidirectional models have one after the other."""
    return [layer for layer in model.layers if not isinstance(layer, layers.InputLayer)]


def _cell_config(layer: Any, kind: Any) -> dict[str, Any]:
    wanted = kind(1).get_config().keys() - {"name"}
    return {key: value for key, value in layer.get_config().items() if key in wanted}
