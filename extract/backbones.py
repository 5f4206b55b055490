"""Backbones: what is to be known of a frozen CNN, and the CNN itself where it is needed.

Building a network takes ten seconds, nearly all of it importing TensorFlow. Where the network's weights and code are
known without building it, what was found out about it the last time is enough for a feature set's spec.
"""

from __future__ import annotations

import difflib
import json
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from framecache.cache.errors import FramecacheError, InputError
from framecache.cache.fingerprint import digest_source
from framecache.extract import kept
from framecache.extract.efficientnet_lite0 import default_weights_file
from framecache.extract.layers import LayerGraph, digest_layers
from framecache.extract.networks import DEFAULT_BACKBONE, Network, build_network, normalise, plain_name, weights_file
from framecache.extract.scaler import Geometry

__all__ = ["DEFAULT_BACKBONE", "Backbone", "load_backbone"]

_KIND = "network"  # of what is kept


@dataclass(frozen=True)
class Backbone:
    """A frozen CNN with its own preprocessing.

    Attributes:
        name: As in the spec and in the feature set's name.
        weights: Digest of architecture and weights, 64 hexadecimal characters.
        geometry: How a picture becomes the input's size.
        normalisation: What happens to RGB values in [0, 255] before the model: ``(x-127)/128``, ``none``, or
            the name of a keras.applications module whose ``preprocess_input`` it is.
        maps: Shape ``(h, w, C)`` of each layer's feature map in the order of the layers, None where it gives none.
        build: Builds the network.
    """

    name: str
    weights: str
    geometry: Geometry
    normalisation: str
    maps: Mapping[str, tuple[int, int, int] | None]
    build: Callable[[], Network]

    @cached_property
    def network(self) -> Network:
        """The network, built when it is first asked for."""
        return self.build()

    @property
    def model(self) -> Any:
        """The Keras model; its input is the normalised picture ``(B, H, W, 3)``, float32."""
        return self.network.model

    @property
    def graph(self) -> LayerGraph:
        """The model's layers, each of which may be tapped."""
        return self.network.graph

    @property
    def default_tap(self) -> str:
        """The last layer that gives a feature map."""
        return self._map_names[-1]

    @property
    def preprocessing(self) -> dict[str, Any]:
        """The spec's part on preprocessing."""
        return {**asdict(self.geometry), "normalisation": self.normalisation, "scaler": "swscale"}

    def normalise(self, pixels: Any) -> Any:
        """RGB float32 tensor in [0, 255] → the model's input."""
        return normalise(self.normalisation, pixels)

    def map_shape(self, tap: str) -> tuple[int, int, int]:
        """Shape ``(h, w, C)`` of the feature map at a layer.

        Raises:
            InputError: No such layer (with the near names), or it gives no feature map of fixed size.
        """
        if tap not in self.maps:
            near = difflib.get_close_matches(tap, self.maps, 3) or self._map_names[-3:]
            raise InputError(f"--tap {tap!r}: {self.name} has no such layer; did you mean {', '.join(near)}?")
        shape = self.maps[tap]
        if shape is None:
            raise InputError(
                f"--tap {tap!r}: expected a layer that gives a feature map (h, w, C); the last ones of "
                f"{self.name} are {', '.join(self._map_names[-3:])}"
            )
        return shape

    @property
    def _map_names(self) -> list[str]:
        return [name for name, shape in self.maps.items() if shape is not None]


def load_backbone(name: str, weights: str | None = None, normalisation: str | None = None) -> Backbone:
    """A frozen CNN; built at once unless it is known from the last time.

    Args:
        name: ``efficientnet-lite0``, any keras.applications network (in any case, with or without hyphens),
            a ``.keras`` file, or ``module:callable`` that returns a Keras model.
        weights: A file of weights, or ``random`` (seeded); by default the ImageNet weights, or those that the
            model brings along.
        normalisation: For a model of one's own: the keras.applications module whose ``preprocess_input`` it
            wants, such as ``resnet50``; by default it gets RGB in [0, 255].

    Raises:
        InputError: There is no such network, file or callable, or the weights cannot be had.
    """
    recipe = _recipe(name, weights, normalisation)
    known = recipe and kept.recall(_KIND, recipe)
    if known:
        return _from_json(known, lambda: build_network(name, weights, normalisation))
    network = build_network(name, weights, normalisation)
    backbone = Backbone(
        network.name,
        digest_layers(network.graph),
        network.geometry,
        network.normalisation,
        {layer: _map_shape(output) for layer, output in network.graph.outputs.items()},
        lambda: network,
    )
    if not backbone._map_names:
        raise InputError(f"--backbone {name}: none of its layers gives a feature map (h, w, C) of fixed size")
    if recipe:
        kept.keep(_KIND, recipe, _to_json(backbone))
    return backbone


def _recipe(name: str, weights: str | None, normalisation: str | None) -> dict[str, str] | None:
    """All that decides a network, beside the software; None where only building it can tell.

    That is so for one's own code, for ImageNet weights that Keras downloads, and in a process that has Keras loaded
    already: somebody may have changed its settings, and little time is to be won.
    """
    if normalisation is not None or name.endswith(".keras") or ":" in name or "keras" in sys.modules:
        return None
    if weights == "random":
        content = weights
    elif weights is not None:
        file = weights_file(weights)
        content = digest_source(file) + file.suffix  # Keras reads a file by its suffix
    elif plain_name(name) == plain_name(DEFAULT_BACKBONE):
        content = digest_source(default_weights_file())
    else:
        return None
    settings = Path(os.environ.get("KERAS_HOME") or Path.home() / ".keras") / "keras.json"
    return {
        "backbone": plain_name(name),
        "weights": content,
        "settings": settings.read_text(errors="replace") if settings.is_file() else "",
        "backend": os.environ.get("KERAS_BACKEND", ""),
    }


def _to_json(backbone: Backbone) -> bytes:
    values = {field: getattr(backbone, field) for field in ("name", "weights", "normalisation", "maps")}
    return json.dumps(values | {"geometry": asdict(backbone.geometry)}).encode()


def _from_json(text: bytes, build: Callable[[], Network]) -> Backbone:
    values: dict[str, Any] = json.loads(text)
    values["geometry"] = Geometry(**values["geometry"])
    values["maps"] = {layer: shape and tuple(shape) for layer, shape in values["maps"].items()}

    def build_the_same() -> Network:
        network = build()
        found = digest_layers(network.graph)
        if found != values["weights"]:
            raise FramecacheError(
                f"{network.name}: expected the network {values['weights'][:8]}…, built {found[:8]}…; "
                f"delete the folder {kept.folder()} and run the same command again"
            )
        return network

    return Backbone(**values, build=build_the_same)


def _map_shape(output: Any) -> tuple[int, int, int] | None:
    """``(h, w, C)`` where a layer's output is one feature map of fixed size."""
    shape = getattr(output, "shape", ())
    return tuple(shape[1:]) if len(shape) == 4 and None not in shape[1:] else None
