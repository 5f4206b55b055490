"""The spec: the resolved, readable JSON of all that changes a feature set's numbers."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from typing import Any

from framecache.cache.errors import InputError, SpecMismatchError
from framecache.cache.fingerprint import FINGERPRINT_CHARS, canonical_json, fingerprint

FORMAT_VERSION = 1
DTYPES = ("float16", "float32", "uint8")
_FIELD_KINDS: dict[str, type] = {
    **dict.fromkeys(("backbone", "weights", "tap", "sampling", "reduction", "dtype", "precision"), str),
    "default_tap": bool,
    "preprocessing": dict,
    "format_version": int,
    "lineage": dict,
}
_MAX_PART = 64  # of a name, which must not be longer than a folder's may be; the fingerprint tells sets apart
_UNSAFE = re.compile(r"[^A-Za-z0-9_.,=+-]")


@dataclass(frozen=True)
class Spec:
    """What a feature set is the features of; equal specs give equal numbers.

    Attributes:
        backbone: Name of the CNN.
        weights: Digest of its architecture and weights.
        tap: Layer whose feature map is taken.
        default_tap: Whether that is the layer taken when none is named (then it is not in the set's name).
        preprocessing: Resize, crop, interpolation and normalisation, each by name.
        sampling: ``all``, ``fps=N``, ``every=N`` or ``num=N``.
        reduction: What became of the feature maps, as :mod:`framecache.cache.reductions` reads it.
        feature_shape: Shape of one frame's features, ``(D,)`` or ``(h, w, C)``.
        dtype: Stored dtype, one of :data:`DTYPES`.
        precision: Precision of the forward pass, ``float32`` or ``mixed_float16``.
        format_version: Version of the shard format.
        lineage: Of a derived set its parents, steps, the digest of their arrays and what they were fitted on;
            None of an extracted one.

    Raises:
        InputError: A field has a value that no feature set can have.
    """

    backbone: str
    weights: str
    tap: str
    default_tap: bool
    preprocessing: Mapping[str, Any]
    sampling: str
    reduction: str
    feature_shape: tuple[int, ...]
    dtype: str = "float16"
    precision: str = "float32"
    format_version: int = FORMAT_VERSION
    lineage: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES:
            raise InputError(f"dtype: expected one of {', '.join(DTYPES)}, found {self.dtype!r}")
        if self.format_version != FORMAT_VERSION:
            raise InputError(
                f"format version {self.format_version}: this framecache reads version {FORMAT_VERSION}; "
                "install the release that wrote the cache, or extract again"
            )
        if not self.feature_shape or any(size < 1 for size in self.feature_shape):
            raise InputError(f"feature_shape: expected positive sizes, found {self.feature_shape}")

    def to_dict(self) -> dict[str, Any]:
        """The spec as plain JSON values; ``lineage`` is left out where there is none."""
        values: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        if self.lineage is None:
            del values["lineage"]
        return values

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], origin: str = "spec") -> Spec:
        """Reads back :meth:`to_dict`.

        Args:
            values: The JSON object.
            origin: Where it came from, for the error message.

        Raises:
            InputError: A field is missing, unknown or of the wrong kind.
        """
        names = {field.name for field in fields(cls)}
        if isinstance(values, Mapping) and "lineage" not in values:
            names.remove("lineage")
        if not isinstance(values, Mapping) or set(values) != names:
            found = sorted(set(values) ^ names) if isinstance(values, Mapping) else type(values).__name__
            raise InputError(f"{origin}: not a spec of format version {FORMAT_VERSION}; fields that differ: {found}")
        shape = values["feature_shape"]
        if not isinstance(shape, list) or not all(type(size) is int for size in shape):
            raise InputError(f"{origin}: feature_shape: expected a list of integers, found {shape!r}")
        for name, kind in _FIELD_KINDS.items():
            if name in names and not isinstance(values[name], kind):
                raise InputError(f"{origin}: {name}: expected {kind.__name__}, found {values[name]!r}")
        for name in ("preprocessing", "lineage"):
            try:
                canonical_json(values.get(name, {}))
            except (ValueError, RecursionError) as error:
                raise InputError(f"{origin}: {name}: {error}") from error
        try:
            return cls(**{**values, "feature_shape": tuple(shape)})
        except InputError as error:
            raise InputError(f"{origin}: {error}") from error

    @cached_property
    def fingerprint(self) -> str:
        """Hash of all fields, 64 hexadecimal characters."""
        return fingerprint(self.to_dict())

    @property
    def short_name(self) -> str:
        """``<backbone>[@tap].<reduction>[.uint8][.<sampling>]``: the name without the fingerprint."""
        tap = "" if self.default_tap else f"@{folder_name(self.tap)}"
        sampling = "" if self.sampling == "all" else f".{folder_name(self.sampling)}"
        dtype = ".uint8" if self.dtype == "uint8" else ""
        return f"{folder_name(self.backbone)}{tap}.{folder_name(self.reduction)}{dtype}{sampling}"

    @property
    def name(self) -> str:
        """The feature set's full name, also that of its folder."""
        return f"{self.short_name}-{self.fingerprint[:FINGERPRINT_CHARS]}"


def folder_name(part: str) -> str:
    """``part`` of a folder's name, not too long and with what is awkward there or in a shell replaced by ``_``."""
    return _UNSAFE.sub("_", part).lstrip(".")[:_MAX_PART] or "_"


def diff_specs(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """The fields that differ, as readable lines: ``sampling: fps=4 → fps=8``, nested ones with dots."""
    lines: list[str] = []
    for key in sorted({*old, *new}):
        a, b = old.get(key), new.get(key)
        if isinstance(a, Mapping) and isinstance(b, Mapping):
            lines += [f"{key}.{line}" for line in diff_specs(a, b)]
        elif a != b:
            lines.append(f"{key}: {_readable(key, a)} → {_readable(key, b)}")
    return lines


def _readable(key: str, value: object) -> str:
    if key == "weights" and isinstance(value, str):
        return f"{value[:4]}…"
    if value is None:
        return "(none)"
    return value if isinstance(value, str) else json.dumps(value)


def require_same_spec(expected: Spec, found: Spec, where: str) -> None:
    """Refuses to go on when two specs differ.

    Raises:
        SpecMismatchError: With one line per differing field.
    """
    if expected.fingerprint != found.fingerprint:
        changes = "; ".join(diff_specs(expected.to_dict(), found.to_dict()))
        raise SpecMismatchError(
            f"{where}: made under another spec ({changes}); use the feature set {found.name}, or extract again"
        )
