"""The LiteRT engine (XNNPACK kernels), the fast one on a CPU: a network is converted once and then kept.

What runs is held against the TensorFlow graph at every start. The graph's numbers for some pictures are kept beside the
converted network, so that neither TensorFlow nor the network is needed where it was converted before.
"""

from __future__ import annotations

import io
import tempfile
import zipfile
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from framecache.cache.quiet import quiet_stderr
from framecache.extract import kept
from framecache.extract.backbones import Backbone
from framecache.extract.forward import Output, forward_module

_KIND = "litert"  # of what is kept
_NUM_CHECKED = 2  # pictures of the probe whose features are kept
# Engines agree to float32 rounding, which grows through a hundred layers to 1e-5 or so; half of float16's precision.
_TOLERANCE = 2.5e-4


class DisagreementError(ValueError):
    """The converted network gives other numbers than the graph."""


class LiteRTEngine:
    """A converted network.

    Args:
        converted: The LiteRT model, weights included.
        batch_size: Frames per pass.
        num_threads: Threads of a pass.
    """

    name = "litert"
    num_parallel = 1  # with threads of its own inside

    def __init__(self, converted: bytes, batch_size: int, num_threads: int) -> None:
        from ai_edge_litert.interpreter import Interpreter

        self.batch_size = batch_size
        self.note = ""
        interpreter = Interpreter(model_content=converted, num_threads=num_threads)
        interpreter.allocate_tensors()
        self._interpreter = interpreter  # the runner refers to it without keeping it alive
        self._runner = interpreter.get_signature_runner()

    def run(self, frames: NDArray[np.uint8]) -> list[NDArray[np.float32]]:
        """See :meth:`framecache.extract.engines.Engine.run`; the features are float32."""
        computed = self._runner(frames=frames)
        return [computed[key] for key in sorted(computed)]


def load_litert(backbone: Backbone, outputs: Sequence[Output], batch_size: int, num_threads: int) -> LiteRTEngine:
    """The engine, from what was kept or from a conversion, which takes some seconds.

    Raises:
        DisagreementError: It gives other numbers than the TensorFlow graph.
        Exception: The converter raises many kinds for what it does not know.
    """
    key = {
        "weights": backbone.weights,
        "preprocessing": backbone.preprocessing,
        "outputs": [[tap, str(reduction)] for tap, reduction in outputs],
        "batch_size": batch_size,
    }
    probe = _probe(backbone, batch_size)
    found = kept.recall(_KIND, key)
    if found is not None:
        try:
            return _checked(*_unpack(found), probe, num_threads)
        except (ValueError, KeyError, RuntimeError, zipfile.BadZipFile):  # it was written by us, but for another CPU
            pass
    module = forward_module(backbone, outputs, batch_size)
    expected = module.run(probe)
    arrays = [expected[key].numpy()[:_NUM_CHECKED] for key in sorted(expected)]
    converted = convert(module)
    engine = _checked(converted, arrays, probe, num_threads)
    kept.keep(_KIND, key, _pack(converted, arrays))
    return engine


def convert(module: Any) -> bytes:
    """The module's ``run``, weights included, as a LiteRT model."""
    import tensorflow as tf

    with tempfile.TemporaryDirectory() as folder, quiet_stderr():
        tf.saved_model.save(module, folder, signatures=module.run.get_concrete_function())
        converted: bytes = tf.lite.TFLiteConverter.from_saved_model(folder).convert()
    return converted


def _checked(
    converted: bytes, expected: Sequence[NDArray[np.float32]], probe: NDArray[np.uint8], num_threads: int
) -> LiteRTEngine:
    with quiet_stderr():
        engine = LiteRTEngine(converted, len(probe), num_threads)
    found = [features[:_NUM_CHECKED] for features in engine.run(probe)]
    for number, (ours, theirs) in enumerate(zip(found, expected, strict=True)):
        finite = np.abs(theirs[np.isfinite(theirs)])
        slack = _TOLERANCE * float(finite.max(initial=0.0))
        if ours.shape != theirs.shape or not np.allclose(ours, theirs, rtol=_TOLERANCE, atol=slack, equal_nan=True):
            worst = np.abs(ours - theirs).max() if ours.shape == theirs.shape else ours.shape
            raise DisagreementError(
                f"output {number}: the converted network differs from the graph by up to {worst}, expected {slack:.2g}"
            )
    return engine


def _probe(backbone: Backbone, batch_size: int) -> NDArray[np.uint8]:
    """The pictures that engines are compared on, ``(batch_size, H, W, 3)``: noise, and slopes of colour."""
    geometry = backbone.geometry
    frames: NDArray[np.uint8] = np.random.RandomState(0).randint(
        0, 256, (batch_size, geometry.height, geometry.width, 3), np.uint8
    )
    slope = np.linspace(0, 255, geometry.width).astype(np.uint8)
    frames[0, ..., 0], frames[0, ..., 1], frames[0, ..., 2] = slope, slope[::-1], 127
    return frames


def _pack(converted: bytes, expected: Sequence[NDArray[np.float32]]) -> bytes:
    file = io.BytesIO()
    np.savez(file, np.frombuffer(converted, np.uint8), *expected)
    return file.getvalue()


def _unpack(content: bytes) -> tuple[bytes, list[NDArray[np.float32]]]:
    with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
        converted, *expected = (arrays[name] for name in arrays.files)
    return converted.tobytes(), expected
