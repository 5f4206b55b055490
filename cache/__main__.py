"""``framecache``: what is in the cache. Never imports TensorFlow."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from framecache.cache.cli import OK, SOME_FAILED, format_bytes, make_app, run
from framecache.cache.counts import Counts, count
from framecache.cache.derive_config import DeriveConfig
from framecache.cache.errors import FramecacheError, InputError
from framecache.cache.exchange.export_config import ExportConfig
from framecache.cache.exchange.import_config import ImportConfig
from framecache.cache.folders import natural_key
from framecache.cache.reader import list_shards
from framecache.cache.spec import Spec
from framecache.cache.store import lock_for_writing, open_cache, read_spec

if TYPE_CHECKING:
    from framecache.cache.verify import Verification

app = make_app(
    "framecache",
    "Look after a cache of frozen-CNN features.\n\n"
    "Example: framecache ls\n"
    "Example: framecache derive efficientnet-lite0.grid --reduce gem\n"
    "Example: framecache ledger efficientnet-lite0.gap --failed",
)

CacheFolder = Annotated[Path, Parameter(name="--cache", help="Folder of the cache.")]
AsJson = Annotated[bool, Parameter(name="--json", negative="", help="Print JSON instead of a table.")]
_SHOWN_HURT = 20
SetName = Annotated[str, Parameter(help="Feature set: its name, with or without fingerprint, or a prefix.")]


@app.command(name="ls")
def list_sets(*, cache: CacheFolder = Path("features"), json: AsJson = False) -> int:
    """List the feature sets of the cache.

    Example: framecache ls --cache /data/features
    Example: framecache ls --json
    """
    store = open_cache(cache)
    rows, status = [], OK
    for name in store:
        try:
            rows.append(_counted(store.folder / name))
        except FramecacheError as error:  # one damaged set does not hide the others
            print(f"error: {error}", file=sys.stderr)
            status = SOME_FAILED
    if json:
        _print_json(rows)
        return status
    columns = ("name", "videos", "frames", "shape", "dtype", "size")
    _print_table(
        columns,
        [
            (
                row["name"],
                row["num_videos"],
                row["num_frames"],
                "×".join(map(str, row["feature_shape"])),
                row["dtype"],
                format_bytes(row["bytes"]),
            )
            for row in rows
        ],
    )
    return status


@app.command
def info(name: SetName, /, *, cache: CacheFolder = Path("features"), json: AsJson = False) -> int:
    """Show one feature set: its spec, its size, and what became of its videos.

    Example: framecache info efficientnet-lite0.gap
    """
    features = open_cache(cache)[name]
    statuses = features.statuses()
    if json:
        _print_json(
            {**summary(features.spec, Counts.of(features)), "spec": features.spec.to_dict(), "videos": dict(statuses)}
        )
        return OK
    row = summary(features.spec, Counts.of(features))
    print(f"{row['name']}")
    print(f"  {row['num_videos']} videos, {row['num_frames']} frames, {format_bytes(row['bytes'])}")
    print(f"  ledger: {', '.join(f'{count} {status}' for status, count in sorted(statuses.items())) or 'empty'}")
    print(f"  fingerprint: {row['fingerprint']}")
    _print_mapping(features.spec.to_dict(), "  ")
    return OK


@app.command
def ledger(
    name: SetName,
    /,
    *,
    failed: Annotated[bool, Parameter(negative="", help="Only the videos that failed.")] = False,
    cache: CacheFolder = Path("features"),
    json: AsJson = False,
) -> int:
    """Show what became of every video of a feature set; status 1 if any failed.

    Example: framecache ledger efficientnet-lite0.gap --failed
    """
    rows = sorted(open_cache(cache)[name].ledger().values(), key=lambda row: natural_key(row.video_id))
    any_failed = any(row.status == "failed" for row in rows)
    shown = [row for row in rows if row.status == "failed" or not failed]
    if json:
        _print_json([row.to_json() for row in shown])
    else:
        columns = ("video_id", "status", "expected", "decoded", "stored", "reason or warnings")
        _print_table(
            columns,
            [
                (
                    row.video_id,
                    row.status,
                    "?" if row.frames_expected is None else row.frames_expected,
                    row.frames_decoded,
                    row.frames_stored,
                    "; ".join(filter(None, (row.reason, *row.warnings))),
                )
                for row in shown
            ],
        )
    return SOME_FAILED if any_failed else OK


@app.command(name="verify")
def verify_sets(
    names: Annotated[tuple[str, ...], Parameter(name="set", help="Feature sets; all of the cache if none.")] = (),
    /,
    *,
    repair: Annotated[
        bool, Parameter(negative="", help="Move hurt shards aside; the next extraction computes their hurt videos.")
    ] = False,
    cache: CacheFolder = Path("features"),
    json: AsJson = False,
) -> int:
    """Digest all stored features again and compare; status 1 if a single bit has changed.

    Example: framecache verify
    Example: framecache verify efficientnet-lite0.gap --repair
    """
    from framecache.cache.verify import Verification  # here and below, so that ls need not wait for it

    store = open_cache(cache)
    asked = [store.resolve(name) for name in names] or store.names()
    results = []
    for name in asked:
        try:
            results.append(_verify_set(store.folder / name, repair))
        except FramecacheError as error:
            if len(asked) == 1:
                raise
            results.append(Verification(name, errors={name: str(error)}))  # it does not hide the others
    if json:
        _print_json([result.to_json() for result in results])
    else:
        for result in results:
            _print_verification(result)
    return OK if all(result.ok for result in results) else SOME_FAILED


def _verify_set(folder: Path, repair: bool) -> Verification:
    from tqdm import tqdm

    from framecache.cache.verify import file_size, verify
    from framecache.cache.verify import repair as repair_set

    with ExitStack() as stack:
        if repair:
            stack.enter_context(lock_for_writing(folder))
        spec, total = read_spec(folder), sum(map(file_size, list_shards(folder)))
        bar = stack.enter_context(tqdm(desc=folder.name, total=total, unit="B", unit_scale=True, disable=None))
        return (repair_set if repair else verify)(folder, spec, bar.update)


def _print_verification(result: Verification) -> None:
    state = "ok" if result.ok else "HURT"
    print(f"{result.name}: {state}, {result.videos} videos in {result.shards} shards")
    for error in result.errors.values():
        print(f"hurt: {_plain(error)}")
    for video_id in result.hurt[:_SHOWN_HURT]:
        print(f"hurt video: {_plain(video_id)}")
    if len(result.hurt) > _SHOWN_HURT:
        print(f"… and {len(result.hurt) - _SHOWN_HURT} more: --json names them all")
    if result.repaired:
        print("moved aside; run the same extraction again: it computes exactly these videos")
    elif not result.ok:
        print(f"framecache verify {result.name} --repair moves the hurt shards aside")


@app.command(name="derive")
def derive_set(
    name: SetName,
    /,
    *,
    config: Annotated[DeriveConfig | None, Parameter(name="*", consume_multiple=True)] = None,
    json: AsJson = False,
) -> int:
    """Make a feature set from a cached one: no CNN, no decoding.

    Example: framecache derive efficientnet-lite0.grid --reduce gem
    Example: framecache derive efficientnet-lite0.gap --pca 256 --whiten --manifest videos/manifest.csv
    """
    from tqdm import tqdm

    from framecache.cache.derive import derive

    with tqdm(desc="derive", unit="frame", unit_scale=True, disable=None) as bar:

        def show(done: int, total: int) -> None:
            if done < bar.n:  # another pass
                bar.reset()
            bar.total = total
            bar.update(done - bar.n)

        report = derive(name, config or DeriveConfig(), show)
    if json:
        _print_json(report.to_json())
    else:
        print(report.feature_set)
        print(
            f"{report.num_videos} videos: {report.derived} derived, {report.cached} cached, {len(report.failed)} failed"
        )
        if report.explained_variance is not None:
            print(f"explained variance {report.explained_variance:.4f}, fitted on {report.fitted_videos} train videos")
    return SOME_FAILED if report.failed else OK


@app.command(name="import")
def import_set(
    sources: Annotated[
        tuple[Path, ...], Parameter(name="source", help="Folders or files: .npy or .npz per video, or TFRecords.")
    ],
    /,
    *,
    config: Annotated[ImportConfig, Parameter(name="*", consume_multiple=True)],
    json: AsJson = False,
) -> int:
    """Make a feature set of other tools' features: of video_features, of YouTube-8M, or arrays of your own.

    Example: framecache import output/resnet/resnet50 --name resnet50 --key resnet
    Example: framecache import yt8m/train*.tfrecord --name yt8m --key rgb audio
    """
    from tqdm import tqdm

    from framecache.cache.exchange.imports import import_features

    with tqdm(desc="import", unit="video", disable=None) as bar:
        report = import_features(sources, config, bar.update)
    if json:
        _print_json(report.to_json())
    else:
        print(report.feature_set)
        print(
            f"{report.num_videos} videos: {report.imported} imported, {report.cached} cached, "
            f"{report.duplicates} duplicate, {len(report.failed)} failed"
        )
        if report.unlisted:
            print(f"{len(report.unlisted)} more were left out, since the manifest does not list them")
        if report.manifest is not None:
            print(f"labels: {report.manifest}")
        _print_reasons("failed", report.failed)
    return SOME_FAILED if report.failed else OK


@app.command(name="export")
def export_set(
    name: SetName,
    folder: Annotated[Path, Parameter(name="dir", help="New folder for the files.")],
    /,
    *,
    config: Annotated[ExportConfig, Parameter(name="*", consume_multiple=True)],
    json: AsJson = False,
) -> int:
    """Write a feature set as files that other tools read, with check sums.

    Example: framecache export efficientnet-lite0.gap exported --format parquet --manifest videos.csv --split train val
    """
    from tqdm import tqdm

    from framecache.cache.exchange.exports import export_features

    with tqdm(desc="export", unit="video", disable=None) as bar:

        def show(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        report = export_features(name, folder, config, show)
    if json:
        _print_json(report.to_json())
    else:
        print(
            f"{report.folder}: {report.num_videos} videos, {report.num_frames} frames in {report.num_files} files, "
            f"{format_bytes(report.num_bytes)}"
        )
        _print_reasons("not exported", report.missing)
    return SOME_FAILED if report.missing else OK


def _print_reasons(what: str, reasons: Mapping[str, str]) -> None:
    for video_id, reason in list(reasons.items())[:_SHOWN_HURT]:
        print(f"{what}: {_plain(video_id)}: {_plain(reason)}")
    if len(reasons) > _SHOWN_HURT:
        print(f"… and {len(reasons) - _SHOWN_HURT} more: --json names them all")


@app.command(name="compact")
def compact_sets(
    names: Annotated[tuple[str, ...], Parameter(name="set", help="Feature sets; all of the cache if none.")] = (),
    /,
    *,
    shard_mb: Annotated[float, Parameter(help="Size of a large shard, in millions of bytes.")] = 512.0,
    cache: CacheFolder = Path("features"),
) -> int:
    """Merge small shards into large ones; readers may go on reading.

    Example: framecache compact
    Example: framecache compact efficientnet-lite0.gap --shard-mb 1024
    """
    if not 0 < shard_mb < float("inf"):
        raise InputError(f"--shard-mb {shard_mb:g}: expected a positive number")
    from framecache.cache.compact import compact

    store, status = open_cache(cache), OK
    asked = [store.resolve(name) for name in names] or store.names()
    for name in asked:
        folder = store.folder / name
        try:
            with lock_for_writing(folder):
                replaced = compact(folder, read_spec(folder), int(shard_mb * 1e6))
                print(f"{name}: {replaced} shards merged, {len(list_shards(folder))} now")
        except FramecacheError as error:
            if len(asked) == 1:
                raise
            print(f"error: {error}", file=sys.stderr)  # it does not keep the others as they are
            status = SOME_FAILED
    return status


@app.command(name="rm")
def remove_set(
    name: SetName,
    /,
    *,
    yes: Annotated[bool, Parameter(negative="", help="Do not ask, also on a terminal.")] = False,
    cache: CacheFolder = Path("features"),
) -> int:
    """Remove a feature set; on a terminal it asks first.

    Example: framecache rm efficientnet-lite0.gmp --yes
    """
    store = open_cache(cache)
    full = store.resolve(name)
    if not yes and sys.stdin.isatty() and not _agreed(f"remove {full}? [y/N] "):
        print("kept")
        return OK
    print(f"{store.remove(full)}: removed")
    return OK


def _agreed(question: str) -> bool:
    try:
        return input(question).strip().lower() in ("y", "yes")
    except EOFError:  # Ctrl-D
        return False


def summary(spec: Spec, counts: Counts) -> dict[str, Any]:
    """The row of ``framecache ls --json`` for one feature set."""
    return {
        "name": spec.name,
        "fingerprint": spec.fingerprint,
        "num_videos": counts.num_videos,
        "num_frames": counts.num_frames,
        "feature_shape": list(spec.feature_shape),
        "dtype": spec.dtype,
        "bytes": counts.num_bytes,
    }


def _counted(folder: Path) -> dict[str, Any]:
    spec = read_spec(folder)
    return summary(spec, count(folder, spec))


def _print_json(value: object) -> None:
    print(json.dumps(value, indent=2, ensure_ascii=False))


def _print_mapping(values: Mapping[str, Any], indent: str) -> None:
    for key, value in values.items():
        if isinstance(value, Mapping):
            print(f"{indent}{_plain(key)}:")
            _print_mapping(value, indent + "  ")
        else:
            print(f"{indent}{_plain(key)}: {_plain(str(value))}")


def _plain(text: str) -> str:
    """``text`` on one line and without control characters, which a cache from somebody else might hold."""
    return "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in text)


def _print_table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Left-aligned words, right-aligned numbers."""
    texts = [[_plain(str(cell)) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(columns, *texts, strict=True)]
    numeric = [bool(rows) and all(isinstance(row[i], int) for row in rows) for i in range(len(columns))]
    for line in [list(columns), *texts]:
        cells = [
            cell.rjust(width) if right else cell.ljust(width)
            for cell, width, right in zip(line, widths, numeric, strict=True)
        ]
        print("  ".join(cells).rstrip())


def main() -> None:
    """The console script."""
    sys.exit(run(app))


if __name__ == "__main__":
    main()
