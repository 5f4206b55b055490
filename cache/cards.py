"""What a notebook shows of a cache and of a feature set."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from framecache.cache.cli import format_bytes
from framecache.cache.counts import count
from framecache.cache.errors import FramecacheError
from framecache.cache.html import card, facts, notes, reasons, table
from framecache.cache.shown import plural
from framecache.cache.spec import Spec
from framecache.cache.store import read_spec

if TYPE_CHECKING:
    from framecache.cache.reader import FeatureSet
    from framecache.cache.store import Cache

_PATIENCE_SECONDS = 1.0  # for counting feature sets; their names alone are there at once
_SHOWN_NAMES = 5


def cache_card(cache: Cache) -> str:
    """Its feature sets; those that cannot be opened are told, and those that would take long only named."""
    names = cache.names()
    title = f"cache {cache.folder}: {plural(len(names), 'feature set')}"
    rows: list[tuple[object, ...]] = []
    hurt: dict[str, str] = {}
    until = time.monotonic() + _PATIENCE_SECONDS
    for name in names:
        if time.monotonic() > until:
            break
        try:
            spec = read_spec(cache.folder / name)
            counts = count(cache.folder / name, spec)
            shown = (f"{counts.num_videos:,}", f"{counts.num_frames:,}", _shape(spec), spec.dtype)
            rows.append((name, *shown, format_bytes(counts.num_bytes)))
        except (FramecacheError, OSError) as error:
            hurt[name] = str(error)
    headings = ("feature set", "videos", "frames", "shape", "dtype", "size")
    rest = names[len(rows) + len(hurt) :]
    told = [f"not counted, since it takes long: {', '.join(rest[:_SHOWN_NAMES])}"] if rest else []
    if len(rest) > _SHOWN_NAMES:
        told.append(f"… and {len(rest) - _SHOWN_NAMES:,} more")
    if not cache.folder.is_dir():
        told.append("its folder is not there")
    return card(title, table(headings, rows, (True, *[False] * 5)), reasons("cannot be opened", hurt), notes(told))


def set_card(features: FeatureSet) -> str:
    """What it holds and what it is of: from the shards' indexes, which are in memory, without the ledger's rows."""
    spec, counts = features.spec, features.statuses()
    failed = counts["failed"]
    told = ["features.ledger() says why videos failed"] if failed else []
    if not features.folder.is_dir():
        told.append("its folder is gone: it was removed since it was opened")
    duplicates = f", {plural(counts['duplicate'], 'duplicate')} of others among them" if counts["duplicate"] else ""
    return card(
        features.name,
        facts(
            [
                ("videos", f"{len(features):,} with features{duplicates}" + (f"; {failed:,} failed" if failed else "")),
                ("frames", f"{features.num_frames:,}, each {_shape(spec)} {spec.dtype}"),
                ("size", f"{format_bytes(features.num_bytes)} in {plural(len(features.shards), 'shard')}"),
                ("CNN", f"{spec.backbone}, {spec.precision}, weights {spec.weights[:8]}…"),
                ("tap", spec.tap),
                ("preprocessing", _listed(spec.preprocessing)),
                ("sampling", spec.sampling),
                ("reduction", spec.reduction),
                *(_lineage(spec.lineage) if spec.lineage else []),
                ("fingerprint", spec.fingerprint),
                ("folder", features.folder),
            ]
        ),
        notes(told),
    )


def _shape(spec: Spec) -> str:
    return "×".join(map(str, spec.feature_shape))


def _listed(values: Mapping[str, Any]) -> str:
    """``height 224, width 224``."""
    return ", ".join(f"{key} {_text(value)}" for key, value in values.items())


def _text(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _lineage(lineage: Mapping[str, Any]) -> list[tuple[str, str]]:
    return [
        ("derived from", ", ".join(f"{_text(parent)[:8]}…" for parent in lineage["parents"])),
        ("by", "; ".join(map(_step, lineage["steps"]))),
    ]


def _step(step: Mapping[str, Any]) -> str:
    """``pca dim 64, whiten true``."""
    options = _listed({name: value for name, value in step.items() if name != "op"})
    return f"{step['op']} {options}".strip()
