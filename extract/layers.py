"""The layers of a Keras model: what each of them gives, and a digest that knows weights and wiring."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class LayerGraph:
    """A model's layers as they are called, one after the other.

    Attributes:
        frames: The symbolic input ``(None, H, W, 3)``.
        outputs: Per layer name its symbolic output in this graph; of a layer called twice, the last.
        calls: Each call: the layer, and the numbers of the calls (0 is the input) that feed it.
    """

    frames: Any
    outputs: Mapping[str, Any]
    calls: tuple[tuple[Any, tuple[int, ...]], ...]


def trace_layers(model: Any) -> LayerGraph:
    """Calls the layers of a Functional or Sequential model anew, and notes what each of them gives.

    A model inside the model is one layer. The layers, and so the weights, are shared with the model.

    Raises:
        ValueError: The model is neither, or has more than one input.
    """
    import keras

    if not isinstance(model, keras.Sequential | keras.models.Model) or not hasattr(model, "input_shape"):
        raise ValueError(f"expected a Functional or Sequential Keras model, found {type(model).__name__}")
    frames = keras.Input(model.input_shape[1:], name="frames")
    outputs: dict[str, Any] = {}
    calls: list[tuple[Any, tuple[int, ...]]] = []
    number = {id(frames): 0}
    kept = [frames]  # an id is good for as long as its tensor lives

    def call(layer: Any, *arguments: Any, **keywords: Any) -> Any:
        given = keras.tree.flatten((arguments, keywords))
        result = layer(*arguments, **keywords)
        calls.append((layer, tuple(number[id(tensor)] for tensor in given if id(tensor) in number)))
        for tensor in keras.tree.flatten(result):
            number[id(tensor)] = len(calls)
            kept.append(tensor)
        outputs[layer.name] = result
        return result

    if isinstance(model, keras.Sequential):
        x = frames
        for layer in model.layers:
            x = call(layer, x)
    else:
        keras.models.clone_model(model, input_tensors=frames, clone_function=lambda layer: layer, call_function=call)
    return LayerGraph(frames, outputs, tuple(calls))


def digest_layers(graph: LayerGraph) -> str:
    """SHA-256 over every layer's class, settings, wiring and weights, 64 hexadecimal characters.

    Layers' names are left out, since Keras numbers them anew in each process, and so are settings that are
    None, since new releases add such.
    """
    digest = hashlib.sha256()
    _add(graph, digest)
    return digest.hexdigest()


def _add(graph: LayerGraph, digest: Any) -> None:
    import keras

    for layer, feeds in graph.calls:
        digest.update(json.dumps([type(layer).__name__, feeds]).encode())
        if isinstance(layer, keras.Model):
            _add(trace_layers(layer), digest)
            continue
        config = layer.get_config()
        settings = {key: value for key, value in config.items() if value is not None and key not in _NO_SETTINGS}
        digest.update(json.dumps(settings, sort_keys=True, default=str).encode())
        for value in layer.get_weights():
            digest.update(str(value.shape).encode())
            digest.update(value.tobytes())


_NO_SETTINGS = ("name", "trainable")
