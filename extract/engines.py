"""Engines: the forward pass, pixels in, several reductions of several taps out.

Every batch has one shape, so that a frame's numbers do not depend on how many frames came with it.
"""

from __future__ import annotations

import itertools
import os
import sys
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from framecache.cache.errors import InputError
from framecache.extract.backbones import Backbone
from framecache.extract.forward import Output, forward_module
from framecache.extract.litert import DisagreementError, load_litert

ENGINE_NAMES = ("auto", "tensorflow", "litert")
_GPU_DRIVERS = ("/dev/nvidiactl", "/dev/dxg", "/dev/kfd")  # NVIDIA, any under WSL, AMD


class Engine(Protocol):
    """Runs the frozen CNN on batches of one size.

    Attributes:
        name: ``tensorflow`` or ``litert``.
        batch_size: Frames per pass.
        num_parallel: Passes that it may run at once.
        note: Why it is not the one that ``auto`` prefers; empty when it is.
    """

    name: str
    batch_size: int
    num_parallel: int
    note: str

    def run(self, frames: NDArray[np.uint8]) -> list[NDArray[Any]]:
        """One forward pass.

        Args:
            frames: RGB ``(batch_size, H, W, 3)`` uint8.

        Returns:
            Per output ``(batch_size, *feature_shape)``, in the order in which they were asked for: float32, or already
            the dtype that the engine was made for.
        """
        ...


class PassesAhead:
    """Runs passes in threads, so that one computes while the features of the last are stored and frames come in.

    Attributes:
        depth: So many passes are worth having under way.
    """

    def __init__(self, engine: Engine) -> None:
        self.depth = 1 + engine.num_parallel
        self._engine = engine
        self._threads = ThreadPoolExecutor(engine.num_parallel, "engine")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._threads.shutdown(wait=True, cancel_futures=True)

    def submit(self, frames: NDArray[np.uint8]) -> Future[list[NDArray[Any]]]:
        """Begins a pass; the frames must stay as they are until its result is there."""
        return self._threads.submit(self._engine.run, frames)


def make_engine(
    name: str,
    backbone: Backbone,
    outputs: Sequence[Output],
    batch_size: int,
    num_threads: int,
    dtype: str = "float32",
    precision: str = "float32",
) -> Engine:
    """Builds the engine for a backbone and all outputs of one pass.

    Args:
        name: ``tensorflow``, ``litert`` or ``auto``: the graph where there is a GPU, else LiteRT, else, where
            the network does not convert or gives other numbers then, the graph again.
        backbone: The CNN.
        outputs: Pairs of tap and reduction.
        batch_size: Frames per pass.
        num_threads: Threads of a CPU engine.
        dtype: What the features will be stored as; a GPU copies back no more than that.
        precision: Of the network's layers, ``float32`` or ``mixed_float16``; the latter is for the graph only.

    Raises:
        InputError: There is no such engine, or LiteRT was asked for and does not take the network.
    """
    if name not in ENGINE_NAMES:
        raise InputError(f"--engine {name!r}: expected one of {', '.join(ENGINE_NAMES)}")
    if name == "litert" and precision != "float32":
        raise InputError(f"--engine litert: computes in float32, not in {precision}; use --engine tensorflow")
    gpus = [] if name == "litert" else _gpus()
    if name == "tensorflow" or gpus or precision != "float32":
        return TensorFlowEngine(backbone, outputs, batch_size, dtype, gpus, precision)
    try:
        return load_litert(backbone, outputs, batch_size, num_threads)
    except DisagreementError as error:
        refusal = f"{backbone.name} is not the same after conversion ({error})"
    except Exception as error:  # the converter raises many kinds for what it does not know
        refusal = f"{backbone.name} does not convert ({str(error).strip().partition(chr(10))[0][:200]})"
    if name == "litert":
        raise InputError(f"--engine litert: {refusal}; use --engine tensorflow")
    engine = TensorFlowEngine(backbone, outputs, batch_size, dtype)
    engine.note = refusal
    return engine


def _gpus() -> list[str]:
    """Names of the GPUs; TensorFlow is asked only where there may be one."""
    if sys.platform == "linux" and "tensorflow" not in sys.modules and not any(map(os.path.exists, _GPU_DRIVERS)):
        return []
    import tensorflow as tf

    return [device.name for device in tf.config.list_logical_devices("GPU")]


class TensorFlowEngine:
    """The TensorFlow graph, on all GPUs that there are: batches go to them in turns.

    Args:
        backbone: The CNN.
        outputs: Pairs of tap and reduction.
        batch_size: Frames per pass.
        dtype: Of the features that come back.
        devices: Names of devices that get a copy of the network each; none to leave that to TensorFlow.
        precision: Of the network's layers, ``float32`` or ``mixed_float16``.
    """

    name = "tensorflow"

    def __init__(
        self,
        backbone: Backbone,
        outputs: Sequence[Output],
        batch_size: int,
        dtype: str = "float32",
        devices: Sequence[str] = (),
        precision: str = "float32",
    ) -> None:
        import tensorflow as tf

        # TF32 would give an NVIDIA GPU other numbers than a CPU, under the same fingerprint.
        tf.config.experimental.enable_tensor_float_32_execution(False)
        self.batch_size = batch_size
        self.note = ""
        # Two passes for each device: one computes while the other's frames go there or its features come back.
        self.num_parallel = max(1, 2 * len(devices))
        # With one device, TensorFlow has put the weights there already.
        several = devices if len(devices) > 1 else [None]
        modules = [forward_module(backbone, outputs, batch_size, dtype, device, precision) for device in several]
        self._modules = itertools.cycle(modules)  # whose next is one step under the interpreter's lock

    def run(self, frames: NDArray[np.uint8]) -> list[NDArray[Any]]:
        """See :meth:`Engine.run`."""
        computed = next(self._modules).run(frames)
        return [computed[key].numpy() for key in sorted(computed)]
