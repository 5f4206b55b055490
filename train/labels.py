"""What may be trained on: a manifest's labels joined to a feature set, and what speaks against it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from framecache.cache.derivation import read_derivation
from framecache.cache.errors import InputError
from framecache.cache.fingerprint import digest_source, stat_source
from framecache.cache.folders import scan_folder
from framecache.cache.ledger import LedgerRow
from framecache.cache.manifest import Video, read_manifest
from framecache.cache.reader import FeatureSet
from framecache.train.config import FitConfig
from framecache.train.splits import LabeledVideos, split_videos

_SHOWN = 3  # videos named in an error message


def label_videos(features: FeatureSet, config: FitConfig) -> LabeledVideos:
    """The manifest's videos that have features, split up; the others are left out, with the ledger's reason."""
    if config.manifest is None:
        raise InputError("--manifest: expected the CSV, JSONL or folder with the labels; found none")
    where = str(config.manifest)
    videos: list[Video] = (
        scan_folder(config.manifest) if config.manifest.is_dir() else read_manifest(config.manifest, config.root)
    )
    present = [video for video in videos if video.video_id in features]
    missing = [video.video_id for video in videos if video.video_id not in features]
    if not present:
        held = ", ".join(map(repr, features.video_ids[:2])) or "nothing"
        raise InputError(
            f"{where}: none of its {len(videos)} videos is in {features.name}; it lists {missing[0]!r}, "
            f"the feature set holds {held}; extract this manifest first"
        )
    ledger = features.ledger()
    _refuse_other_contents(present, ledger, features.name)
    digests = {video_id: row.source_digest for video_id, row in ledger.items()}
    labeled = split_videos(present, digests, config.seed, where)
    reasons = {name: ledger[name].reason if name in ledger else "never extracted" for name in missing}
    return replace(labeled, left_out={**reasons, **labeled.left_out})


def _refuse_other_contents(videos: Sequence[Video], ledger: Mapping[str, LedgerRow], name: str) -> None:
    """Refuses features of another file under a video's name; a file that is not here any more is not asked for."""
    for video in videos:
        row = ledger[video.video_id]
        try:
            stat = stat_source(video.path)
            same = stat == row.source_stat or digest_source(video.path) + video.segment == row.source_digest
        except OSError:
            continue
        if not same:
            raise InputError(
                f"{video.path}: the features of {video.video_id!r} in {name} are those of another content "
                f"(extracted from {row.source}); extract this manifest again, or into a --cache of its own"
            )


def refuse_fitted_on_held_out(features: FeatureSet, labeled: LabeledVideos) -> None:
    """Refuses a PCA, a range or a projection that was fitted on what must only be predicted."""
    if features.spec.lineage is None:
        return
    ledger = features.ledger()
    fitted_on = set(read_derivation(features.folder, features.spec.lineage).fitted_on)
    contents = {ledger[video_id].source_digest for video_id in fitted_on & ledger.keys()} - {""}
    for split in ("val", "test"):
        seen = [
            video.video_id
            for video in labeled.splits[split]
            if video.video_id in fitted_on or ledger[video.video_id].source_digest in contents
        ]
        if seen:
            named = ", ".join(map(repr, seen[:_SHOWN])) + ", …" * (len(seen) > _SHOWN)
            raise InputError(
                f"{features.name}: {len(seen)} of its {split} videos ({named}) are among those that it was fitted on; "
                "derive it again with a --manifest whose column 'split' names train, val and test"
            )


def refuse_hurt(features: FeatureSet, video_ids: Sequence[str]) -> None:
    """Digests all that will be trained on: features with a flipped bit would give numbers that nobody can repeat."""
    hurt = [video_id for video_id in video_ids if not features.is_intact(video_id)]
    if hurt:
        named = ", ".join(map(repr, hurt[:_SHOWN])) + ", …" * (len(hurt) > _SHOWN)
        raise InputError(
            f"{features.name}: the stored features of {len(hurt)} of {len(video_ids)} videos are hurt ({named}); "
            f"run framecache verify {features.name} --repair, then the extraction again"
        )
