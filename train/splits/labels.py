"""What may be trained on: a manifest's labels joined to a feature set, and what speaks against it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from framecache.cache.derivation import read_derivation
from framecache.cache.errors import InputError
from framecache.cache.exchange.import_config import IMPORTED
from framecache.cache.fingerprint import digest_source, stat_source
from framecache.cache.folders import scan_folder
from framecache.cache.ledger import LedgerRow
from framecache.cache.manifest import Video, read_manifest
from framecache.cache.reader import FeatureSet
from framecache.cache.sources import Url
from framecache.train.config import FitConfig
from framecache.train.splits.splitting import LabeledVideos, split_videos
from framecache.train.tasks.registry import TASKS

_SHOWN = 3  # videos named in an error message


def label_videos(features: FeatureSet, config: FitConfig) -> LabeledVideos:
    """The manifest's videos that have features, split up; of the others, why they are left out.

    Raises:
        InputError: There is no manifest, it does not fit the feature set, videos were never extracted (unless these are
            to be dropped), or labels or splits cannot be learned or judged.
    """
    if config.manifest is None:
        raise InputError("--manifest: expected the CSV, JSONL or folder with the labels; found none")
    where = config.manifest_name
    videos = _read_videos(config, config.manifest)
    task = TASKS[config.task]
    ledger = features.ledger()
    present = [video for video in videos if video.video_id in features]
    without = _without_features(videos, features, ledger, config, where)
    if not features.spec.backbone.startswith(IMPORTED):  # whose contents are files of features, not of videos
        _refuse_other_contents(present, ledger, features.name)
    digests = {video_id: row.source_digest for video_id, row in ledger.items()}
    labels = task.read(present, features, config)
    labeled = split_videos(present, digests, task.strata(labels), config, config.seed, where)
    labeled = replace(labeled, labels=labels, left_out={**without, **labeled.left_out})
    return replace(labeled, classes=task.check(labeled, where))


def _read_videos(config: FitConfig, manifest: Path) -> list[Video]:
    if not manifest.is_dir():
        return read_manifest(manifest, config.root, config.target)
    if config.target != FitConfig.target:
        raise InputError(
            f"--target {config.target!r}: {manifest} is a folder, whose only labels are its class folders; expected a "
            "CSV or JSONL with such a column"
        )
    return scan_folder(manifest)


def _without_features(
    videos: Sequence[Video], features: FeatureSet, ledger: Mapping[str, LedgerRow], config: FitConfig, where: str
) -> dict[str, str]:
    """Videos that have no features, and why; those that failed were told of when they were extracted."""
    missing = [video.video_id for video in videos if video.video_id not in features]
    if len(missing) == len(videos):
        held = ", ".join(map(repr, features.video_ids[:2])) or "nothing"
        raise InputError(
            f"{where}: none of its {len(videos)} videos is in {features.name}; it lists {missing[0]!r}, "
            f"the feature set holds {held}; extract this manifest first"
        )
    never = [video_id for video_id in missing if video_id not in ledger or ledger[video_id].status != "failed"]
    if never and config.missing == "error":
        named = ", ".join(map(repr, never[:_SHOWN])) + ", …" * (len(never) > _SHOWN)
        raise InputError(
            f"{where}: {len(never)} of its {len(videos)} videos were never extracted into {features.name} ({named}); "
            "extract this manifest again, or leave them out with --missing drop"
        )
    reasons = dict.fromkeys(never, "never extracted")
    return {video_id: reasons.get(video_id) or ledger[video_id].reason for video_id in missing}


def _refuse_other_contents(videos: Sequence[Video], ledger: Mapping[str, LedgerRow], name: str) -> None:
    """Refuses features of another file under a video's name; a file that is not here any more is not asked for.

    Nor is the URL that a video was extracted from: training needs no network, and extracting again is what compares.
    """
    for video in videos:
        row = ledger[video.video_id]
        if isinstance(video.path, Url) and str(video.path) == row.source:
            continue
        try:
            stat = stat_source(video.path)
            unchanged = bool(stat) and stat == row.source_stat
            same = unchanged or digest_source(video.path) + video.segment == row.source_digest
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
