"""framecache-extract as a user meets it: closing lines, exit statuses, and one line for each mistake."""

from __future__ import annotations

import errno
import json
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from framecache.cache.cli import run
from framecache.extract.__main__ import app

from .conftest import shades, write_video


@pytest.fixture
def here(clips: Path, tiny_backbone: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory: ``clips`` with three videos, and manifests that are wrong in one way each."""
    folder = clips.parent
    monkeypatch.chdir(folder)
    (folder / "good.csv").write_text("path,label,split\nclips/a/one.mp4,a,train\nclips/b/three.mp4,b,test\n")
    (folder / "column.csv").write_text("file,label\nclips/a/one.mp4,a\n")
    (folder / "split.csv").write_text("path,split\nclips/a/one.mp4,tset\n")
    (folder / "outside.csv").write_text("path\n../elsewhere.mp4\n")
    (folder / "absent.csv").write_text("path\nclips/a/one.mp4\nclips/a/nine.mp4\n")
    (folder / "double.csv").write_text("path\nclips/a/one.mp4\nclips/a/one.mp4\n")
    (folder / "nothing").mkdir()
    return folder


BUSY = """
import hashlib, threading
from framecache.extract.__main__ import _handle_interrupts
_handle_interrupts()
threading.Timer(1.0, print, ["busy"], {"flush": True}).start()  # once the call below has begun
hashlib.pbkdf2_hmac("sha256", b"", b"", 2**31 - 1)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_second_interrupt_ends_a_long_call_at_once(number: signal.Signals) -> None:
    with subprocess.Popen([sys.executable, "-c", BUSY], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline() == b"busy\n"
        process.send_signal(number)
        assert process.stderr.readline() == b"\n"
        assert process.stderr.readline() == b"interrupted: sealing what is complete; once more to end at once\n"
        assert process.poll() is None
        process.send_signal(number)
        assert process.wait(60) == 130  # and not after some twenty minutes
        assert process.stderr.read() == b""


TINY = ["--backbone", "tiny_backbone:build", "--engine", "tensorflow"]


def test_the_closing_lines_say_what_was_done(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "clips/bad.mp4").write_bytes(b"no video")
    assert run(app, ["clips", *TINY, "--reduce", "gap", "gmp"]) == 1
    out, err = capsys.readouterr()
    lines = out.splitlines()
    assert [line.rpartition("-")[0] for line in lines[:2]] == ["build.gap", "build.gmp"]
    assert lines[2] == "4 videos: 3 computed, 0 cached, 0 duplicate, 1 failed"
    assert lines[3].startswith("16 frames in ")
    assert re.search(r" frames/s, tensorflow, bound by (decode|CNN|write)\), 384 B of features$", lines[3])
    assert re.fullmatch(
        r"spent \d+\.\d s, start-up included; each epoch of each later experiment saves \d+\.\d s of decoding and CNN",
        lines[4],
    )
    assert lines[5].startswith("failed: bad.mp4: cannot be opened")
    assert err == ""


def test_shards_that_cannot_be_merged_are_told_and_cost_no_feature(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def disk_full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("framecache.extract.pipeline.compact", disk_full)
    assert run(app, ["clips", *TINY]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[1] == "3 videos: 3 computed, 0 cached, 0 duplicate, 0 failed"
    assert lines[-1].startswith("small shards not merged: build.gap-")
    assert lines[-1].endswith("No space left on device")


def test_all_well_is_status_0_and_json_holds_the_report(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(app, ["good.csv", *TINY, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["num_videos"], report["computed"], report["num_frames"], report["failed"]) == (2, 2, 9, {})


def test_more_failures_than_fit_are_counted(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number in range(25):
        (here / f"nothing/{number}.mp4").write_text(f"no video {number}")
    assert run(app, ["nothing", *TINY]) == 1
    assert "… and 5 more: framecache ledger build.gap-" in capsys.readouterr().out


def test_a_single_video_and_a_folder_of_images_are_sources(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(app, ["clips/a/one.mp4", *TINY]) == 0
    for index, frame in enumerate(shades(3)):
        write_video(here / f"images/{index}.png", frame[None], codec="png", pixel_format="rgb24")
    assert run(app, ["images", *TINY]) == 0
    assert "3 frames in" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["gone.csv"], "gone.csv: no such manifest"),
        (["gone"], "gone: no such file or folder"),
        (["nothing"], "nothing: no video in this folder"),
        (["column.csv"], "column.csv: no column 'path', found file, label"),
        (["split.csv"], "split.csv, line 2: split 'tset', expected one of train, val, test; did you mean 'test'?"),
        (["outside.csv"], "outside.csv, line 2: path '../elsewhere.mp4' leads outside"),
        (["absent.csv"], "absent.csv: 1 of 2 paths do not exist"),
        (["double.csv"], "double.csv: duplicate video_id 'clips/a/one.mp4'"),
        (["good.csv", "--backbone", "mobilnetv2"], "no such network; did you mean"),
        (["good.csv", *TINY, "--tap", "erly"], "no such layer; did you mean early"),
        (
            ["good.csv", *TINY, "--reduce", "mean"],
            "--reduce 'mean': expected one of gap, gmp, gap+gmp, gem, gem=P, grid",
        ),
        (["good.csv", *TINY, "--sample", "4"], "--sample '4': expected all, fps=N, every=N or num=N"),
        (["good.csv", *TINY, "--dtype", "int8"], 'Invalid value "int8" for --dtype'),
        (["good.csv", "--redcue", "gap"], "Unknown option: --redcue. Did you mean --reduce?"),
        (["good.csv", "--config", "gone.toml"], "--config 'gone.toml': no such file"),
        ([], "requires an argument"),
    ],
    ids=lambda value: " ".join(value)[:30] if isinstance(value, list) else "",
)
def test_a_mistake_is_one_line_status_2_and_nothing_written(
    here: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted(here.rglob("*"))
    assert run(app, arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert message in err
    assert [path for path in sorted(here.rglob("*")) if "__pycache__" not in path.parts] == before
