"""Networks: frozen CNNs built with Keras by name, each with the preprocessing that it was trained with."""

from __future__ import annotations

import contextlib
import difflib
import inspect
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from framecache.cache.errors import InputError
from framecache.cache.plugins import import_callable
from framecache.cache.quiet import quiet_stderr
from framecache.extract.layers import LayerGraph, trace_layers
from framecache.extract.scaler import Geometry

DEFAULT_BACKBONE = "efficientnet-lite0"
LITE0_NORMALISATION = "(x-127)/128"
NO_NORMALISATION = "none"
RANDOM_WEIGHTS_SEED = 0

# The input size of each keras.applications network where it is not 224.
_APPLICATION_SIZES = {
    "EfficientNetB1": 240,
    "EfficientNetB2": 260,
    "EfficientNetB3": 300,
    "EfficientNetB4": 380,
    "EfficientNetB5": 456,
    "EfficientNetB6": 528,
    "EfficientNetB7": 600,
    "EfficientNetV2B1": 240,
    "EfficientNetV2B2": 260,
    "EfficientNetV2B3": 300,
    "EfficientNetV2S": 384,
    "EfficientNetV2M": 480,
    "EfficientNetV2L": 480,
    "InceptionResNetV2": 299,
    "InceptionV3": 299,
    "NASNetLarge": 331,
    "Xception": 299,
}


@dataclass(frozen=True)
class Network:
    """A frozen CNN, ready to be tapped.

    Attributes:
        name: As in the spec and in the feature set's name.
        model: The Keras model; its input is the normalised picture ``(B, H, W, 3)``, float32.
        graph: Its layers, each of which may be tapped.
        geometry: How a picture becomes that input's size.
        normalisation: What happens to RGB values in [0, 255] before the model: ``(x-127)/128``, ``none``, or
            the name of a keras.applications module whose ``preprocess_input`` it is.
    """

    name: str
    model: Any
    graph: LayerGraph
    geometry: Geometry
    normalisation: str


def build_network(name: str, weights: str | None, normalisation: str | None) -> Network:
    """Builds a frozen CNN.

    Args are those of :func:`framecache.extract.backbones.load_backbone`.

    Raises:
        InputError: There is no such network, file or callable, or the weights cannot be had.
    """
    with quiet_stderr():
        import tensorflow  # noqa: F401
    if normalisation is not None:
        preprocess_input(normalisation)
    own = name.endswith(".keras") or ":" in name
    if not own and normalisation is not None:
        raise InputError(f"--preprocessing {normalisation!r}: {name} has its own; it is for a model of one's own")
    if own:
        if weights is not None:
            raise InputError(f"--weights {weights!r}: {name} brings its own weights; leave --weights out")
        return _own_network(name, normalisation or NO_NORMALISATION)
    if plain_name(name) == plain_name(DEFAULT_BACKBONE):
        return _efficientnet_lite0(weights)
    return _application(name, weights)


def normalise(normalisation: str, pixels: Any) -> Any:
    """RGB float32 tensor in [0, 255] → the model's input."""
    if normalisation == NO_NORMALISATION:
        return pixels
    if normalisation == LITE0_NORMALISATION:
        return (pixels - 127.0) / 128.0
    return preprocess_input(normalisation)(pixels)


def _efficientnet_lite0(weights: str | None) -> Network:
    from framecache.extract import efficientnet_lite0 as lite0

    if weights == "random":
        raise InputError(f"--weights random: {DEFAULT_BACKBONE} has its ImageNet weights; leave --weights out")
    model = lite0.build_efficientnet_lite0(None if weights is None else weights_file(weights))
    size = lite0.INPUT_SIZE
    # Evaluated as in its training: the central 224/256 of the shorter side, bicubic.
    geometry = Geometry(size, size, fit="crop", crop_fraction=0.875, interpolation="bicubic")
    return _traced(DEFAULT_BACKBONE, model, geometry, LITE0_NORMALISATION)


def application_names() -> dict[str, Callable[..., Any]]:
    """Every network of keras.applications, by its name there."""
    import keras

    return {
        name: builder
        for name, builder in vars(keras.applications).items()
        if inspect.isfunction(builder) and name[0].isupper()
    }


def _application(name: str, weights: str | None) -> Network:
    import keras

    networks = application_names()
    by_plain = {plain_name(network): network for network in networks}
    if plain_name(name) not in by_plain:
        known = [DEFAULT_BACKBONE, *networks]
        near_plain = difflib.get_close_matches(plain_name(name), [plain_name(network) for network in known], 3, 0.5)
        near = [network for network in known if plain_name(network) in near_plain]
        raise InputError(
            f"--backbone {name!r}: no such network; did you mean {', '.join(near)}?"
            if near
            else f"--backbone {name!r}: no such network; expected {DEFAULT_BACKBONE}, a keras.applications name, "
            "a .keras file or module:callable"
        )
    network = by_plain[plain_name(name)]
    size = _APPLICATION_SIZES.get(network, 224)
    if weights == "random":
        keras.utils.set_random_seed(RANDOM_WEIGHTS_SEED)
    source = "imagenet" if weights is None else None if weights == "random" else str(weights_file(weights))
    try:
        with contextlib.redirect_stdout(sys.stderr):  # where Keras reports a download
            model = networks[network](include_top=False, weights=source, input_shape=(size, size, 3))
    except Exception as error:  # Keras raises bare Exception when a download fails
        if source == "imagenet":
            raise InputError(
                f"--backbone {network}: its ImageNet weights cannot be downloaded ({_first_line(error)}); name a "
                "weights file with --weights FILE, put it into ~/.keras/models, or use --backbone "
                f"{DEFAULT_BACKBONE}, which needs no download"
            ) from error
        raise InputError(
            f"--weights {weights}: does not fit {network} without its top ({_first_line(error)})"
        ) from error
    # keras.applications documents pictures that are stretched to the input size (image_dataset_from_directory).
    geometry = Geometry(size, size, fit="stretch", interpolation="bilinear")
    module = networks[network].__module__.rpartition(".")[2]
    return _traced(network, model, geometry, module)


def _own_network(name: str, normalisation: str) -> Network:
    model = _load_keras_file(Path(name)) if name.endswith(".keras") else _call(name)
    shape = getattr(model, "input_shape", None)
    if not (isinstance(shape, tuple) and len(shape) == 4 and shape[3] == 3 and None not in shape[1:]):
        raise InputError(
            f"--backbone {name}: expected a Functional or Sequential model with one input of fixed size "
            f"(None, height, width, 3), found {type(model).__name__} with input {shape}"
        )
    geometry = Geometry(shape[1], shape[2], fit="stretch", interpolation="bilinear")
    short = Path(name).stem if name.endswith(".keras") else name.rpartition(":")[2]
    return _traced(short, model, geometry, normalisation)


def _traced(name: str, model: Any, geometry: Geometry, normalisation: str) -> Network:
    try:
        graph = trace_layers(model)
    except Exception as error:  # a user's layers may raise anything
        raise InputError(f"--backbone {name}: its layers cannot be called one by one ({_first_line(error)})") from error
    return Network(name, model, graph, geometry, normalisation)


def _load_keras_file(path: Path) -> Any:
    import keras

    if not path.is_file():
        raise InputError(f"--backbone {path}: no such file; expected a model saved by Keras 3")
    try:
        return keras.saving.load_model(path, compile=False, safe_mode=True)
    except Exception as error:  # a damaged file makes Keras raise whatever its parts raise
        raise InputError(f"--backbone {path}: not a Keras 3 model that loads safely ({_first_line(error)})") from error


def _call(name: str) -> Any:
    import keras

    try:
        model = import_callable(name, "--backbone")()
    except InputError:
        raise
    except Exception as error:  # a user's code may raise anything
        raise InputError(f"--backbone {name}: it raises {type(error).__name__}: {_first_line(error)}") from error
    if not isinstance(model, keras.Model):
        raise InputError(f"--backbone {name}: expected it to return a Keras model, found {type(model).__name__}")
    return model


def preprocess_input(module: str) -> Callable[[Any], Any]:
    """``preprocess_input`` of a module of keras.applications.

    Raises:
        InputError: No such module (with the near names).
    """
    import keras

    modules = {
        name: found
        for name, found in vars(keras.applications).items()
        if inspect.ismodule(found) and hasattr(found, "preprocess_input")
    }
    if module not in modules:
        near = difflib.get_close_matches(module, modules, 3, 0.5) or sorted(modules)
        raise InputError(
            f"--preprocessing {module!r}: no such module in keras.applications; did you mean {', '.join(near)}?"
        )
    return modules[module].preprocess_input  # type: ignore[no-any-return]


def weights_file(weights: str) -> Path:
    """The file that ``--weights`` names.

    Raises:
        InputError: There is none.
    """
    path = Path(weights)
    if not path.is_file():
        raise InputError(f"--weights {weights!r}: no such file; expected a file of weights, or 'random'")
    return path


def plain_name(name: str) -> str:
    """A network's name without what people spell differently: case, hyphens, underscores."""
    return re.sub(r"[^a-z0-9]", "", name.lower())


def _first_line(error: Exception) -> str:
    text = str(error).strip().splitlines()
    return text[0] if text else type(error).__name__
