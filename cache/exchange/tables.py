"""The ledger as a table of other libraries, a row per video in natural order."""

from __future__ import annotations

from typing import Any

from framecache.cache.exchange.optional import load_optional
from framecache.cache.folders import natural_key
from framecache.cache.reader import FeatureSet

_TEXTS = ("video_id", "source", "status", "reason", "source_digest", "feature_digest")
_COUNTS = ("frames_expected", "frames_decoded", "frames_stored")


def ledger_to_pandas(features: FeatureSet) -> Any:
    """See :meth:`framecache.cache.FeatureSet.to_pandas`."""
    pandas = load_optional("pandas", "to_pandas")
    frame = pandas.DataFrame(_columns(features))
    return frame.astype(dict.fromkeys(_COUNTS, "Int64"))  # which knows missing values, unlike int64


def ledger_to_arrow(features: FeatureSet) -> Any:
    """See :meth:`framecache.cache.FeatureSet.to_arrow`."""
    pa = load_optional("pyarrow", "to_arrow")
    types = {**dict.fromkeys(_TEXTS, pa.string()), **dict.fromkeys(_COUNTS, pa.int64())}
    columns = _columns(features)
    schema = pa.schema([(name, types.get(name, pa.list_(pa.string()))) for name in columns])
    return pa.table(columns, schema=schema)


def _columns(features: FeatureSet) -> dict[str, list[Any]]:
    ledger = features.ledger()
    rows = [ledger[video_id].to_json() for video_id in sorted(ledger, key=natural_key)]
    names = ("video_id", "source", "status", "reason", "warnings", *_COUNTS, "source_digest", "feature_digest")
    return {name: [row[name] for row in rows] for name in names}
