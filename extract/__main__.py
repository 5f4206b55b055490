"""``framecache-extract``: frozen-CNN features of videos, computed once."""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import threading
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from framecache.cache.cli import INTERRUPTED, OK, SOME_FAILED, format_bytes, make_app, run
from framecache.cache.errors import InputError
from framecache.extract.config import ExtractConfig, ExtractReport
from framecache.extract.layouts import LayoutConfig, write_layout
from framecache.extract.pipeline import extract

app = make_app(
    "framecache-extract",
    "Run a frozen CNN over all frames of a video data set, once, and store the features.\n\n"
    "Example: framecache-extract videos/manifest.csv --reduce gap gmp\n"
    "Example: framecache-extract videos/ --backbone MobileNetV2 --sample fps=8\n"
    "Example: framecache-extract UCF101/ --layout ucf101 --split 1",
)
_SHOWN_FAILURES = 20
_INTERRUPTS = (signal.SIGINT, signal.SIGTERM)


@app.default
def main_command(
    source: Annotated[
        str,
        Parameter(
            help="A manifest, a folder of class folders, of videos or of images, or one video; also a URL of one."
        ),
    ],
    /,
    *,
    config: Annotated[ExtractConfig | None, Parameter(name="*", consume_multiple=True)] = None,
    layout: Annotated[LayoutConfig | None, Parameter(name="*")] = None,
    json_output: Annotated[bool, Parameter(name="--json", negative="", help="Print the report as JSON.")] = False,
) -> int:
    """Compute what is missing of a source's features."""
    said: dict[str, Any] = {}
    if layout is not None and layout.layout is not None:
        root, config = Path(source), config or ExtractConfig()
        if config.root is not None:
            raise InputError("--root: expected none beside --layout, whose manifest starts from SOURCE")
        made = write_layout(root, layout)
        source, config = str(made.manifest), replace(config, root=root)
        said = {"layout": made.to_json()}
        if not json_output:
            print("\n".join(made.lines()), flush=True)
        if layout.manifest_only:
            if json_output:
                print(json.dumps(said, indent=2, ensure_ascii=False))
            return OK
    report = extract(source, config, progress=True)
    if json_output:
        print(json.dumps(said | report.to_json(), indent=2, ensure_ascii=False))
    else:
        _print_report(report)
    return SOME_FAILED if report.failed or report.not_merged else OK


def _print_report(report: ExtractReport) -> None:
    for name in report.feature_sets:
        print(name)
    print(
        f"{report.num_videos} videos: {report.computed} computed, {report.cached} cached, "
        f"{report.duplicates} duplicate, {len(report.failed)} failed"
    )
    if report.num_frames:
        print(
            f"{report.num_frames} frames in {report.seconds:.1f} s ({report.num_frames / report.seconds:.0f} frames/s, "
            f"{report.engine}, bound by {report.bound_by}), {format_bytes(report.num_bytes)} of features"
        )
        print(
            f"spent {report.start_seconds + report.seconds:.1f} s, start-up included; "
            f"each epoch of each later experiment saves {report.saved_seconds:.1f} s of decoding and CNN"
        )
    if report.engine_note:
        print(f"warning: the slower engine was taken: {report.engine_note}")
    if report.warnings:
        print(f"{len(report.warnings)} computed with warnings: framecache ledger {report.feature_sets[0]}")
    for name, reason in report.not_merged.items():
        print(f"small shards not merged: {name}: {reason}")
    for video_id, reason in list(report.failed.items())[:_SHOWN_FAILURES]:
        print(f"failed: {video_id}: {reason}")
    if len(report.failed) > _SHOWN_FAILURES:
        print(f"… and {len(report.failed) - _SHOWN_FAILURES} more: framecache ledger {report.feature_sets[0]} --failed")


def _handle_interrupts() -> None:
    """A first Ctrl-C or SIGTERM seals what is complete; a second one ends at once and loses no more than a kill."""
    interrupted = False

    def interrupt(*_: object) -> None:
        nonlocal interrupted
        if not interrupted:
            interrupted = True
            raise KeyboardInterrupt

    ours, theirs = socket.socketpair()
    theirs.setblocking(False)  # as set_wakeup_fd wants it
    signal.set_wakeup_fd(theirs.detach(), warn_on_full_buffer=False)
    threading.Thread(target=_count_interrupts, args=[ours], daemon=True).start()
    for number in _INTERRUPTS:
        signal.signal(number, interrupt)


def _count_interrupts(numbers: socket.socket) -> None:
    """Runs in a thread that is told each signal as it comes.

    Python's own handlers wait for the end of a long call, as into TensorFlow, and take all that came meanwhile for one.
    """
    count = 0
    while True:
        for number in numbers.recv(16):
            if number not in _INTERRUPTS:
                continue
            count += 1
            if count > 1:
                os._exit(INTERRUPTED)
            with suppress(OSError):  # nobody may be there to read it
                os.write(2, b"\ninterrupted: sealing what is complete; once more to end at once\n")


def main() -> None:
    """The console script."""
    _handle_interrupts()
    sys.exit(run(app))


if __name__ == "__main__":
    main()
