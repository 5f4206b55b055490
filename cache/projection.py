"""The Dense projection of a trained run, as a file that needs no Keras: written by fit, baked by derive."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from framecache.cache.errors import InputError
from framecache.cache.fingerprint import digest_parts
from framecache.cache.reader import FeatureSet

PROJECTION_FILE = "projection.npz"
_ARRAYS = ("mean", "matrix", "bias")
_STANDARD_EPSILON = 1e-7  # Keras's Normalization divides by no less


@dataclass(frozen=True)
class Projection:
    """``relu((x - mean) @ matrix + bias)`` with the standardisation folded in.

    Attributes:
        arrays: ``mean (D,)``, ``matrix (D, units)`` and ``bias (units,)``, float32; D of a grid set is ``h·w·C``.
        fitted_on: Videos that it was trained on.
    """

    arrays: dict[str, NDArray[Any]]
    fitted_on: tuple[str, ...]

    def digest(self) -> str:
        """Of the arrays, 32 hexadecimal characters."""
        return digest_parts(*(np.ascontiguousarray(self.arrays[name]).tobytes() for name in _ARRAYS))


def write_projection(
    run: Path,
    features: FeatureSet,
    statistics: tuple[NDArray[np.float64], NDArray[np.float64]],
    kernel: NDArray[np.float32],
    bias: NDArray[np.float32],
    fitted_on: Sequence[str],
) -> None:
    """Writes the trained projection into its run's folder.

    Args:
        run: The folder.
        features: What it was trained on.
        statistics: Mean and variance per channel ``(C,)`` that the model standardises with.
        kernel: Weights ``(D, units)`` of the standardised features.
        bias: ``(units,)``.
        fitted_on: The train videos.
    """
    positions = math.prod(features.feature_shape[:-1])
    mean, variance = (np.tile(np.asarray(one, np.float32), positions) for one in statistics)
    deviation = np.maximum(np.sqrt(variance), np.float32(_STANDARD_EPSILON))
    np.savez(
        run / PROJECTION_FILE,
        mean=mean,
        matrix=np.asarray(kernel, np.float32) / deviation[:, None],
        bias=np.asarray(bias, np.float32),
        fitted_on=np.array([video_id.encode() for video_id in fitted_on], np.bytes_),
        fingerprint=np.bytes_(features.fingerprint.encode()),
    )


def read_projection(run: Path, parent: FeatureSet) -> Projection:
    """The projection of a run that was trained on this feature set.

    Raises:
        InputError: The run has none, its file is hurt, or it was trained on other features.
    """
    path = run / PROJECTION_FILE
    if not path.is_file():
        raise InputError(f"--dense {run}: no {PROJECTION_FILE} in it; expected a run of fit --dense N")
    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as stored:
            arrays = {name: np.asarray(stored[name], np.float32) for name in _ARRAYS}
            fitted_on = tuple(raw.decode() for raw in stored["fitted_on"].tolist())
            fingerprint = stored["fingerprint"].item().decode()
    except Exception as error:  # whatever a hurt file makes NumPy raise
        raise InputError(f"--dense {path}: cannot be read ({error}); train the run again") from error
    if fingerprint != parent.fingerprint:
        raise InputError(f"--dense {run}: it was trained on features {fingerprint[:8]}, not on {parent.name}")
    length = math.prod(parent.feature_shape)
    shapes = [arrays[name].shape for name in _ARRAYS]
    if len(shapes[1]) != 2 or shapes != [(length,), (length, shapes[1][1]), (shapes[1][1],)]:
        raise InputError(
            f"--dense {path}: expected mean ({length},), matrix ({length}, units) and bias (units,), found {shapes}; "
            "train the run again"
        )
    return Projection(arrays, fitted_on)
