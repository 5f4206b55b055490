"""The forward pass as one TensorFlow graph: uint8 pixels in, the reductions of all taps out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from framecache.cache.reductions import Reduction
from framecache.extract.backbones import Backbone
from framecache.extract.reductions import reduce_maps

Output = tuple[str, Reduction]  # tap, and what becomes of its map


def forward_module(
    backbone: Backbone,
    outputs: Sequence[Output],
    batch_size: int,
    dtype: str = "float32",
    device: str | None = None,
    precision: str = "float32",
) -> Any:
    """A TensorFlow module whose ``run`` takes uint8 frames ``(batch_size, H, W, 3)`` and gives features by key.

    Args:
        backbone: The CNN.
        outputs: Pairs of tap and reduction.
        batch_size: Frames per pass.
        dtype: Of the features; reductions are computed in float32.
        device: Name of the device that computes, with a copy of the weights; by default TensorFlow chooses.
        precision: Of the network's layers: ``float32``, or ``mixed_float16``, which computes in float16 with weights
            in float32 (Micikevicius et al. 2018). Pixels are normalised, and maps reduced, in float32 either way.

    The keys, in sorted order, are in the order of ``outputs``.
    """
    import tensorflow as tf

    taps = list(dict.fromkeys(tap for tap, _ in outputs))
    geometry = backbone.geometry
    with tf.device(device):
        network = tapped_network(backbone, taps, precision, copy=device is not None)

    def run(frames: Any) -> dict[str, Any]:
        with tf.device(device):
            return compute(frames)

    def compute(frames: Any) -> dict[str, Any]:
        pixels = backbone.normalise(tf.cast(frames, tf.float32))
        found = network(pixels, training=False)
        found = found if isinstance(found, list | tuple) else [found]
        maps = {tap: tf.cast(feature_map, tf.float32) for tap, feature_map in zip(taps, found, strict=True)}
        features = [tf.cast(reduce_maps(reduction, maps[tap]), tf.float32) for tap, reduction in outputs]
        return {f"output_{index:03d}": tf.cast(feature, dtype) for index, feature in enumerate(features)}

    module = tf.Module()
    module.weights = [variable.value for variable in network.variables]  # saving needs to see them
    shape = (batch_size, geometry.height, geometry.width, 3)
    module.run = tf.function(run, input_signature=[tf.TensorSpec(shape, tf.uint8, name="frames")])
    return module


def tapped_network(backbone: Backbone, taps: Sequence[str], precision: str = "float32", copy: bool = False) -> Any:
    """The Keras model from normalised frames to the maps of some layers, in their order.

    Args:
        backbone: The CNN.
        taps: Names of layers.
        precision: Of the layers; with another than ``float32`` it is a copy.
        copy: Whether to give it layers and weights of its own.
    """
    import keras

    graph = backbone.graph
    network = keras.Model(graph.frames, [graph.outputs[tap] for tap in taps])
    if not copy and precision == "float32":
        return network
    copied = _copied(network, precision)
    copied.set_weights(network.get_weights())
    return copied


def _copied(network: Any, precision: str) -> Any:
    """The network with weights of its own and layers of that precision."""
    import keras

    def copied(layer: Any) -> Any:
        if isinstance(layer, keras.Model):
            return _copied(layer, precision)
        config = layer.get_config()
        return type(layer).from_config(config if precision == "float32" else config | {"dtype": precision})

    return keras.models.clone_model(network, clone_function=copied)
