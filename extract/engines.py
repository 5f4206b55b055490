"""Engines: the forward pass, pixels in, several reductions of several taps out.

Every batch has one shape, so that a frame's numbers do not depend on how many frames came with it.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from framecache.cache.errors import InputError
from framecache.cache.quiet import quiet_stderr
from framecache.cache.reductions import Reduction
from framecache.extract.backbones import Backbone
from framecache.extract.reductions import reduce_maps

ENGINE_NAMES = ("auto", "tensorflow", "litert")
Output = tuple[str, Reduction]  # tap, and what becomes of its map


class Engine(Protocol):
    """Runs the frozen CNN on batches of one size."""

    name: str
    batch_size: int

    def run(self, frames: NDArray[np.uint8]) -> list[NDArray[np.float32]]:
        """One forward pass.

        Args:
            frames: RGB ``(batch_size, H, W, 3)`` uint8.

        Returns:
            Per output ``(batch_size, *feature_shape)`` float32, in the order in which they were asked for.
        """
        ...


def make_engine(name: str, backbone: Backbone, outputs: Sequence[Output], batch_size: int, num_threads: int) -> Engine:
    """Builds the engine for a backbone and all outputs of one pass.

    Args:
        name: ``tensorflow``, ``litert`` or ``auto``: the graph where there is a GPU, else LiteRT, else, where
            the network does not convert, the graph again.
        backbone: The CNN.
        outputs: Pairs of tap and reduction.
        batch_size: Frames per pass.
        num_threads: Threads of a CPU engine.

    Raises:
        InputError: There is no such engine, or LiteRT was asked for and does not take the network.
    """
    import tensorflow as tf

    if name not in ENGINE_NAMES:
        raise InputError(f"--engine {name!r}: expected one of {', '.join(ENGINE_NAMES)}")
    module = _forward(backbone, outputs, batch_size)
    if name == "tensorflow" or (name == "auto" and tf.config.list_physical_devices("GPU")):
        return TensorFlowEngine(module, batch_size)
    with quiet_stderr():
        try:
            return LiteRTEngine(module, batch_size, num_threads)
        except Exception as error:  # the converter raises many kinds for what it does not know
            refusal = str(error).strip().partition("\n")[0][:200]
    if name == "litert":
        raise InputError(f"--engine litert: {backbone.name} does not convert ({refusal}); use --engine tensorflow")
    return TensorFlowEngine(module, batch_size)


def _forward(backbone: Backbone, outputs: Sequence[Output], batch_size: int) -> Any:
    """The whole pass as a TensorFlow module: its ``run`` takes uint8 frames, gives features by output key."""
    import keras
    import tensorflow as tf

    taps = list(dict.fromkeys(tap for tap, _ in outputs))
    network = keras.Model(backbone.graph.frames, [backbone.graph.outputs[tap] for tap in taps])
    geometry = backbone.geometry

    def run(frames: Any) -> dict[str, Any]:
        pixels = backbone.normalise(tf.cast(frames, tf.float32))
        found = network(pixels, training=False)
        maps = dict(zip(taps, found if isinstance(found, list | tuple) else [found], strict=True))
        return {
            _key(index): tf.cast(reduce_maps(reduction, maps[tap]), tf.float32)
            for index, (tap, reduction) in enumerate(outputs)
        }

    module = tf.Module()
    module.weights = [variable.value for variable in network.variables]  # saving needs to see them
    shape = (batch_size, geometry.height, geometry.width, 3)
    module.run = tf.function(run, input_signature=[tf.TensorSpec(shape, tf.uint8, name="frames")])
    return module


def _key(output: int) -> str:
    return f"output_{output:03d}"


class TensorFlowEngine:
    """The TensorFlow graph, on the GPU where there is one."""

    name = "tensorflow"

    def __init__(self, module: Any, batch_size: int) -> None:
        import tensorflow as tf

        # TF32 would give an NVIDIA GPU other numbers than a CPU, under the same fingerprint.
        tf.config.experimental.enable_tensor_float_32_execution(False)
        self.batch_size = batch_size
        self._module = module

    def run(self, frames: NDArray[np.uint8]) -> list[NDArray[np.float32]]:
        """See :meth:`Engine.run`."""
        computed = self._module.run(frames)
        return [computed[key].numpy() for key in sorted(computed)]


class LiteRTEngine:
    """The same graph converted once to LiteRT (XNNPACK kernels): the fast engine on a CPU."""

    name = "litert"

    def __init__(self, module: Any, batch_size: int, num_threads: int) -> None:
        from ai_edge_litert.interpreter import Interpreter

        self.batch_size = batch_size
        interpreter = Interpreter(model_content=_convert(module), num_threads=num_threads)
        interpreter.allocate_tensors()
        self._interpreter = interpreter  # the runner refers to it without keeping it alive
        self._runner = interpreter.get_signature_runner()

    def run(self, frames: NDArray[np.uint8]) -> list[NDArray[np.float32]]:
        """See :meth:`Engine.run`."""
        computed = self._runner(frames=frames)
        return [computed[key] for key in sorted(computed)]


def _convert(module: Any) -> bytes:
    """The module's ``run``, weights included, as a LiteRT model."""
    import tensorflow as tf

    with tempfile.TemporaryDirectory() as folder:
        tf.saved_model.save(module, folder, signatures=module.run.get_concrete_function())
        converted: bytes = tf.lite.TFLiteConverter.from_saved_model(folder).convert()
    return converted
