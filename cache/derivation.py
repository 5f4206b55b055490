"""A derivation: the steps that turn the rows of one feature set into those of another, and their arrays.

The arrays (matrices, means, scales) lie beside the derived set's spec as ``arrays.npz``; their digest is in the
spec, so that other arrays are another feature set.
"""

from __future__ import annotations

import io
import math
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from framecache.cache.errors import InputError, ShardError
from framecache.cache.fingerprint import digest_parts
from framecache.cache.reductions import parse_reduction, pool_maps

ARRAYS_FILE = "arrays.npz"
_L2_EPSILON = 1e-12
_LEVELS = 255  # of 8 bits
_REMEDY = "restore it, or remove the feature set with framecache rm and derive it again"

Step = Mapping[str, Any]  # ``op`` and its options, as plain JSON values


@dataclass(frozen=True)
class Derivation:
    """Steps in order, and the arrays that they need.

    Attributes:
        steps: ``{"op": "reduce", "reduction": …}``, ``{"op": "pca", "dim": …, "whiten": …}``,
            ``{"op": "random", "dim": …, "seed": …}``, ``{"op": "dense", "units": …, "projection": …}``,
            ``{"op": "l2"}`` or, last, ``{"op": "uint8", "clip": …}``.
        arrays: By name; those of step 2 begin with ``2.``.
        fitted_on: Videos that these arrays, or those of the parents, were fitted on, in order.
    """

    steps: Sequence[Step]
    arrays: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    fitted_on: tuple[str, ...] = ()

    def digest(self) -> str:
        """Of all arrays, 32 hexadecimal characters."""
        parts: list[bytes] = []
        for name in sorted(self.arrays):
            array = np.ascontiguousarray(self.arrays[name])
            parts += [f"{name} {array.dtype.str} {array.shape}".encode(), array.tobytes()]
        return digest_parts(*parts)

    def apply(self, rows: NDArray[Any], num_steps: int | None = None) -> NDArray[np.float32]:
        """The rows after the first ``num_steps`` steps, by default all but a last ``uint8``.

        Args:
            rows: ``(n, *shape)`` of any real dtype; computed in float32.
            num_steps: How many steps are applied.
        """
        found = rows.astype(np.float32)
        with np.errstate(over="ignore", invalid="ignore"):  # whoever wants finite numbers looks at all of them
            for number, step in enumerate(self.steps[:num_steps]):
                found = self._apply_step(number, step, found)
        return found

    def _apply_step(self, number: int, step: Step, rows: NDArray[np.float32]) -> NDArray[np.float32]:
        if step["op"] == "reduce":
            return pool_maps(parse_reduction(step["reduction"]), rows)
        if step["op"] == "uint8":
            return rows
        flat = rows.reshape(len(rows), -1)
        if step["op"] == "l2":
            norms = np.sqrt(np.einsum("ij,ij->i", flat, flat, dtype=np.float64))
            scaled: NDArray[np.float32] = flat / np.maximum(norms, _L2_EPSILON).astype(np.float32)[:, None]
            return scaled.reshape(rows.shape)
        return self._project(number, flat)

    def store(self, rows: NDArray[np.float32], dtype: str) -> NDArray[Any]:
        """Applied rows in the dtype that is stored; uint8 by the last step's affine map, clipped to its range."""
        if dtype != "uint8":
            with np.errstate(over="ignore"):  # an overflow becomes inf, which fails its video with a reason
                stored: NDArray[Any] = rows.astype(dtype)
            return stored
        offset, scale = quantisation(self.arrays)
        with np.errstate(over="ignore"):  # inf is far outside the range, and clipped as all that is
            levels: NDArray[np.float32] = np.clip(np.rint((rows - offset) / scale), 0, _LEVELS)
        return levels.astype(np.uint8)

    def _project(self, number: int, rows: NDArray[np.float32]) -> NDArray[np.float32]:
        mean, bias = self.arrays.get(f"{number}.mean"), self.arrays.get(f"{number}.bias")
        if mean is not None:
            rows = rows - mean
        projected: NDArray[np.float32] = rows @ self.arrays[f"{number}.matrix"]
        if bias is not None:
            projected = projected + bias
        return np.maximum(projected, 0) if self.steps[number].get("activation") == "relu" else projected

    def to_bytes(self) -> bytes:
        """The content of ``arrays.npz``."""
        buffer = io.BytesIO()
        names = np.array([video_id.encode() for video_id in self.fitted_on], np.bytes_)
        np.savez(buffer, fitted_on=names, **self.arrays)  # type: ignore[arg-type]
        return buffer.getvalue()


def read_derivation(folder: Path, lineage: Mapping[str, Any]) -> Derivation:
    """The derivation of the feature set in this folder.

    Raises:
        ShardError: Its arrays are missing, damaged, or others than its spec says.
    """
    path = folder / ARRAYS_FILE
    try:
        if not path.is_file() or path.is_symlink():
            raise FileNotFoundError("no such file")
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in stored.files}
        fitted_on = tuple(raw.decode() for raw in arrays.pop("fitted_on").tolist())
        found = Derivation(lineage["steps"], arrays, fitted_on)
    except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile) as error:
        raise ShardError(f"{path}: cannot be read ({error}); {_REMEDY}") from error
    if found.digest() != lineage.get("arrays") or fitted_digest(found.fitted_on) != lineage.get("fitted_on"):
        raise ShardError(f"{path}: its arrays are not the ones that its spec names; {_REMEDY}")
    return found


def fitted_digest(video_ids: Sequence[str]) -> str:
    """Of the names of the videos that something was fitted on; empty for none."""
    return digest_parts(*(video_id.encode() for video_id in video_ids)) if video_ids else ""


def quantisation(arrays: Mapping[str, NDArray[Any]]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Offset and scale per dimension of stored uint8 values ``q``: ``offset + scale * q``."""
    (number,) = (name.removesuffix(".offset") for name in arrays if name.endswith(".offset"))
    return arrays[f"{number}.offset"], arrays[f"{number}.scale"]


def step_shape(step: Step, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Shape of one frame's features after a step.

    Raises:
        InputError: The step does not fit that shape.
    """
    length = math.prod(shape)
    if step["op"] == "reduce":
        if len(shape) != 3:
            raise InputError(f"--reduce {step['reduction']}: expected a grid set (h, w, C), found {shape}")
        return parse_reduction(step["reduction"]).feature_shape(shape)
    if step["op"] in ("pca", "random"):
        if not 1 <= step["dim"] <= length:
            raise InputError(f"--{step['op']} {step['dim']}: expected 1 to {length} dimensions, as the parent has")
        return (step["dim"],)
    return (step["units"],) if step["op"] == "dense" else shape
