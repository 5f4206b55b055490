"""Hostile media: whatever a file does to the decoder, it ends with its reason and the other videos go on."""

from __future__ import annotations

import os
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from framecache.cache import open_cache
from framecache.cache.errors import InputError
from framecache.cache.sampling import Sampling, parse_sampling
from framecache.cache.writer import ShardWriter
from framecache.extract import limits, pipeline
from framecache.extract.config import ExtractConfig
from framecache.extract.decoder import DecoderPool, Finished, Frames
from framecache.extract.limits import Limits
from framecache.extract.pipeline import extract
from framecache.extract.video import Clip, DecodeStats, Geometry, VideoError, decode

from .conftest import shades, write_video
from .mutants import decode_mutants

SQUARE = Geometry(16, 16)


def outcome(path: Path, sample: str = "all", limits: Limits | None = None, **options: object):
    """Number of frames, reason (None if all is well) and stats of decoding in this process."""
    clip, stats = Clip(path, parse_sampling(sample), SQUARE, limits=limits or Limits(), **options), DecodeStats()
    count = 0
    try:
        for block in decode(clip, stats):
            count += len(block.frames)
    except VideoError as error:
        return count, str(error), stats
    return count, None, stats


# ---------------------------------------------------------------- files that are no videos, or say more than they hold


def png(width: int, height: int, rows: int | None = None) -> bytes:
    """A PNG file of black pixels; all rows are there, or only so many."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    packer = zlib.compressobj(1)
    pixels = b"".join(packer.compress(bytes(1 + 3 * width)) for _ in range(height if rows is None else rows))
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels + packer.flush()) + chunk(b"IEND", b"")


def gif(width: int, height: int) -> bytes:
    """A GIF whose one picture claims this size."""
    size = struct.pack("<HH", width, height)
    return b"GIF89a" + size + b"\x80\0\0\0\0\0\xff\xff\xff,\0\0\0\0" + size + b"\0\x02\x02\x44\x01\0;"


def h264(width: int, height: int) -> bytes:
    """A raw H.264 stream whose sequence header claims this size (in whole macroblocks), and the start of a picture."""

    def golomb(number: int) -> str:
        digits = f"{number + 1:b}"
        return "0" * (len(digits) - 1) + digits

    def unit(head: int, bits: str) -> bytes:
        bits += "1"
        bits += "0" * (-len(bits) % 8)
        data = b"\0" + int(bits, 2).to_bytes(len(bits) // 8, "big")
        return b"\0\0\0\1" + bytes([head]) + data[1:].replace(b"\0\0", b"\0\0\3")

    ones = [0, 0, 2, 1]  # ids, frame numbers, order of pictures as decoded, reference frames
    sequence = f"{66:08b}{0:08b}{52:08b}" + "".join(map(golomb, ones)) + "0"
    sequence += golomb(width // 16 - 1) + golomb(height // 16 - 1) + "1" + "1" + "0" + "0"
    picture = golomb(0) + golomb(0) + "00" + golomb(0) + golomb(0) + golomb(0) + "000" + golomb(0) * 3 + "000"
    slice_ = golomb(0) + golomb(7) + golomb(0) + "0000" + golomb(0) + "00" + golomb(0) + "01" * 40
    return (unit(0x67, sequence) + unit(0x68, picture) + unit(0x65, slice_)) * 3


def test_every_kind_of_hostile_file_is_a_row_of_the_ledger(clips: Path, tiny_backbone: str, tmp_path: Path) -> None:
    expected = {
        "zero.mp4": "the file is empty",
        "text.mp4": "cannot be opened: Invalid data",
        "sound.mp4": "no video stream",
        "pipe.mp4": "cannot be read: not a regular file",
        "socket.mp4": "cannot be read: ",
        "loop.mp4": "cannot be read: Too many levels of symbolic links",
        "dangling.mp4": "cannot be read: No such file or directory",
        "playlist.mp4": "an HLS playlist",
        "script.mp4": "an ffconcat script",
        "huge.gif": "a picture of 12336×12336 is larger than 64 megapixels (--max-megapixels)",
        "hollow.mp4": "a folder without images",
    }
    (clips / "zero.mp4").touch()
    (clips / "text.mp4").write_text("no video\n" * 99)
    shutil.copy(sound(tmp_path), clips / "sound.mp4")
    os.mkfifo(clips / "pipe.mp4")
    listener = socket.socket(socket.AF_UNIX)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(clips)  # the name of a socket may not be long
        listener.bind("socket.mp4")
    (clips / "loop.mp4").symlink_to("loop.mp4")
    (clips / "dangling.mp4").symlink_to("gone.mp4")
    (clips / "playlist.mp4").write_text(f"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nfile://{clips}/a/one.mp4\n")
    (clips / "script.mp4").write_text("ffconcat version 1.0\nfile a/one.mp4\n")
    (clips / "huge.gif").write_bytes(gif(12336, 12336))
    (clips / "hollow.mp4").mkdir()
    (clips / "hollow.mp4/notes.txt").write_text("no image")
    (clips / "picture.mp4").write_bytes(png(64, 48))
    write_video(clips / "images.mp4" / "1.png", shades(1), codec="png", pixel_format="rgb24")
    strange = clips / os.fsdecode(b"caf\xe9.mp4")
    write_video(clips / "x.mp4", shades(6)).rename(strange)
    shutil.copy(clips / "a/one.mp4", clips / "copy.mp4")
    names = [path.relative_to(clips) for path in clips.rglob("*.*") if path.suffix in (".mp4", ".gif")]
    manifest = clips / "manifest.jsonl"
    manifest.write_text("".join(f'{{"path": "{name}"}}\n' for name in names if str(name).isascii()))

    config = ExtractConfig(cache=tmp_path / "features", backbone=tiny_backbone, engine="tensorflow", batch_size=4)
    report = extract(manifest, config)
    listener.close()
    assert report.failed.keys() == expected.keys()
    for name, reason in expected.items():
        assert reason in report.failed[name]
    rows = open_cache(config.cache)["build.gap"].ledger()
    statuses = [row.status for row in rows.values()]
    assert len(rows) == report.num_videos == len(names) - 1
    assert {status: statuses.count(status) for status in set(statuses)} == {"ok": 5, "duplicate": 1, "failed": 11}
    assert (report.computed, report.duplicates, len(report.failed)) == (5, 1, 11)

    # A folder takes names that a manifest, being text, cannot hold.
    report = extract(strange, config)
    assert (report.computed, report.failed) == (1, {})


def sound(folder: Path) -> Path:
    """An MP4 without pictures."""
    import av

    path = folder / "sound.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=44100)
        silence = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        silence.sample_rate = 44100
        container.mux(stream.encode(silence))
        container.mux(stream.encode())
    return path


@pytest.mark.parametrize(("suffix", "codec"), [(".mp4", "libx264"), (".mkv", "mpeg4"), (".ts", "libx264")])
def test_a_video_cut_off_anywhere_ends_with_a_reason_or_a_warning(tmp_path: Path, suffix: str, codec: str) -> None:
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 255, (20, 48, 64, 3), np.uint8)
    data = write_video(tmp_path / f"whole{suffix}", frames, codec=codec).read_bytes()
    kept = []
    for tenth in range(10):
        path = tmp_path / f"{tenth}{suffix}"
        path.write_bytes(data[: len(data) * tenth // 10])
        count, reason, stats = outcome(path, keep_partial=True)
        assert (reason is None) == (count > 0) == (stats.frames_kept > 0)
        assert count < 20
        kept.append(count)
    if suffix != ".mp4":  # whose index is at its end
        assert kept[9] > kept[5] > 0


def test_a_file_that_may_not_be_read_is_a_reason() -> None:
    # Root may read everything: then this process is somebody else for a moment, in a folder that he may enter.
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        path = write_video(folder / "secret.mp4", shades(3))
        path.chmod(0)
        is_root = os.geteuid() == 0
        if is_root:
            os.seteuid(65534)
        try:
            _, reason, _ = outcome(path)
        finally:
            if is_root:
                os.seteuid(0)
    assert reason == "cannot be decoded: Permission denied"


@pytest.mark.parametrize(
    "make", [os.mkfifo, os.mkdir, lambda path: os.symlink(path, path)], ids=["fifo", "dir", "loop"]
)
def test_what_is_no_file_does_not_hang_the_decoder(tmp_path: Path, make: Callable[[Path], None]) -> None:
    make(tmp_path / "v.mp4")
    _, reason, _ = outcome(tmp_path / "v.mp4")
    assert reason in ("not a regular file", "a folder without images", "no such file")


def test_an_image_in_a_folder_may_be_no_image(tmp_path: Path) -> None:
    folder = tmp_path / "images"
    folder.mkdir(exist_ok=True)
    (folder / "frame1.png").write_bytes(png(32, 32))
    (folder / "frame2.png").write_text("no image")
    count, reason, _ = outcome(folder)
    assert (count, reason) == (
        1,
        "decoding breaks after 1 of 2 frames: image frame2.png: Invalid data found when processing input; "
        "--retry-failed --keep-partial keeps them",
    )
    (folder / "frame2.png").unlink()
    os.mkfifo(folder / "frame2.png")
    assert "image frame2.png: not a regular file" in str(outcome(folder)[1])


# ---------------------------------------------------------------- files that lead FFmpeg elsewhere


@pytest.mark.parametrize("suffix", [".mp4", ".m3u8"])
def test_a_playlist_reaches_neither_the_network_nor_other_files(tmp_path: Path, suffix: str) -> None:
    write_video(tmp_path / "segment.ts", shades(5))
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.2)
        url = f"http://127.0.0.1:{server.getsockname()[1]}/segment.ts"
        path = tmp_path / f"list{suffix}"
        for segment in (url, "segment.ts", f"file://{tmp_path}/segment.ts"):
            path.write_text(f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{segment}\n#EXT-X-ENDLIST\n")
            count, reason, _ = outcome(path)
            assert count == 0
            assert "it is an HLS playlist, which leads to other files" in str(reason)
        with pytest.raises(TimeoutError):
            server.accept()


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("ffconcat version 1.0\nfile real.mp4\n", "it is an ffconcat script"),
        ("v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 5004 RTP/AVP 96\n", "it is an SDP"),
        ('<?xml version="1.0"?>\n<MPD xmlns="urn:mpeg:dash:schema:mpd:2011"></MPD>\n', "DASH|Invalid data"),
    ],
)
def test_other_files_that_name_files_are_refused_by_name(tmp_path: Path, text: str, reason: str) -> None:
    import re

    write_video(tmp_path / "real.mp4", shades(5))
    (tmp_path / "v.mp4").write_text(text)
    count, why, _ = outcome(tmp_path / "v.mp4")
    assert count == 0
    assert re.search(reason, str(why))


def test_no_part_of_a_name_is_a_pattern_or_a_protocol(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, count in (("a1.mp4", 4), ("a2.mp4", 4), ("a%d.mp4", 3), ("concat:a1.mp4|a2.mp4", 3)):
        write_video(tmp_path / name, shades(count))
        assert outcome(tmp_path / name)[:2] == (count, None)
    monkeypatch.chdir(tmp_path)
    assert outcome(Path("concat:a1.mp4|a2.mp4"))[:2] == (3, None)


def test_no_part_of_an_images_name_is_a_pattern(tmp_path: Path) -> None:
    write_video(tmp_path / "image.png", shades(1), codec="png", pixel_format="rgb24").rename(tmp_path / "%d.png")
    (tmp_path / "2.png").write_bytes(png(8, 8))
    (block,) = decode(Clip(tmp_path, Sampling(), SQUARE), DecodeStats())
    assert sorted(block.frames.mean(axis=(1, 2, 3)).round()) == [0, 20]


# ---------------------------------------------------------------- limits


MEASURE = """
import re, sys
from pathlib import Path
from framecache.cache.sampling import Sampling
from framecache.extract.video import Clip, DecodeStats, Geometry, VideoError, decode
for path in sys.argv[1:]:
    try:
        list(decode(Clip(Path(path), Sampling(), Geometry(16, 16)), DecodeStats()))
    except VideoError as error:
        print(error)
print(int(re.search(r"VmHWM:\\s*(\\d+) kB", Path("/proc/self/status").read_text())[1]) // 1024)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the peak of a process's memory is read from /proc")
def test_a_huge_picture_is_refused_before_it_costs_memory(tmp_path: Path) -> None:
    files = [tmp_path / name for name in ("a.png", "png.mp4", "b.gif", "c.h264", "h264.mp4")]
    contents = [png(12336, 12336, rows=9)] * 2 + [gif(12336, 12336)] + [h264(12336, 12336)] * 2
    for file, content in zip(files, contents, strict=True):
        file.write_bytes(content)
    images = tmp_path / "images"
    images.mkdir()
    shutil.copy(files[0], images)
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, *map(str, [*files, images])], capture_output=True, text=True, check=True
    )
    *reasons, peak_mb = done.stdout.splitlines()
    assert len(reasons) == 6
    for reason in reasons:
        assert reason.endswith("a picture of 12336×12336 is larger than 64 megapixels (--max-megapixels)")
    assert int(peak_mb) < 250  # one such picture has 456 MB
    assert done.stderr == ""


def test_a_picture_that_grows_midway_is_refused_when_it_does(tmp_path: Path) -> None:
    small = write_video(tmp_path / "small.mjpeg", shades(5), codec="mjpeg", pixel_format="yuvj420p")
    large = write_video(tmp_path / "large.mjpeg", shades(2, 1200, 1600), codec="mjpeg", pixel_format="yuvj420p")
    both = tmp_path / "both.mjpeg"
    both.write_bytes(small.read_bytes() + large.read_bytes())
    limits = Limits(max_megapixels=1.0)
    count, reason, _ = outcome(both, limits=limits)
    assert "decoding breaks after 5 frames: a picture of 1600×1200 is larger than 1 megapixels" in str(reason)
    count, reason, stats = outcome(both, limits=limits, keep_partial=True)
    assert (count, reason) == (5, None)
    assert stats.warnings == ["kept in part: a picture of 1600×1200 is larger than 1 megapixels (--max-megapixels)"]
    assert outcome(both)[0] == 7


@pytest.mark.parametrize("sample", ["all", "num=4", "fps=1"])
def test_a_stream_longer_than_allowed_is_given_up(tmp_path: Path, sample: str) -> None:
    path = write_video(tmp_path / "v.mp4", shades(20))
    _, reason, stats = outcome(path, sample, Limits(max_frames=10))
    assert "more than 10 frames (--max-frames)" in str(reason)
    assert stats.frames_decoded == 10
    assert outcome(path, sample, Limits(max_frames=20))[1] is None
    count, reason, stats = outcome(path, sample, Limits(max_frames=10), keep_partial=True)
    assert (reason, stats.warnings) == (None, ["kept in part: more than 10 frames (--max-frames)"])
    assert count == {"all": 10, "num=4": 4, "fps=1": 1}[sample]


@pytest.mark.parametrize("name", ["stall_seconds", "max_megapixels", "max_frames", "decoder_gb"])
def test_limits_are_positive(name: str) -> None:
    with pytest.raises(InputError, match=f"--{name.replace('_', '-')} 0: expected a positive number"):
        ExtractConfig(**{name: 0})
    assert getattr(ExtractConfig(**{name: 7}).limits, name) == 7


# ---------------------------------------------------------------- what is odd, and goes on


def noisy(path: Path, codec: str = "mpeg4") -> Path:
    rng = np.random.default_rng(1)
    noise = rng.integers(0, 255, (48, 64, 3), np.uint8)
    return write_video(path, np.stack([np.roll(noise, 3 * shift, 1) for shift in range(12)]), codec=codec)


def test_errors_that_the_decoder_conceals_are_a_warning(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    data = bytearray(noisy(tmp_path / "v.avi").read_bytes())
    for place in range(len(data) // 2, len(data) // 2 + 2000, 100):
        data[place] ^= 0x10
    (tmp_path / "v.avi").write_bytes(data)
    count, reason, stats = outcome(tmp_path / "v.avi")
    assert (count, reason) == (12, None)
    assert any(warning.startswith("errors of FFmpeg: ") and "the first: " in warning for warning in stats.warnings)
    assert capfd.readouterr() == ("", "")


def test_nothing_that_a_worker_says_reaches_the_terminal(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = noisy(tmp_path / "v.avi")
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
    with DecoderPool([Clip(path, Sampling(), SQUARE)], 1) as pool:
        events = iter(pool)
        assert isinstance(next(event for event in events if event), Frames)
        process = pool._workers[0]._process
        # Some decoders print, but none that is at hand: the worker's standard error must lead nowhere.
        if process is not None and Path("/proc/self/fd").exists():
            assert os.readlink(f"/proc/{process.pid}/fd/2") == os.devnull
        assert any(isinstance(event, Finished) for event in events)
    assert capfd.readouterr() == ("", "")


def test_timestamps_that_jump_back_are_a_warning_in_the_part_that_is_kept(tmp_path: Path) -> None:
    data = write_video(tmp_path / "v.ts", shades(10)).read_bytes()
    (tmp_path / "v.ts").write_bytes(data * 2)
    _, reason, stats = outcome(tmp_path / "v.ts")
    assert reason is None
    assert any("timestamps do not increase" in warning for warning in stats.warnings)
    assert outcome(tmp_path / "v.ts", end=0.5)[2].warnings == []


def test_a_part_promises_no_frames_beyond_its_end(tmp_path: Path) -> None:
    path = write_video(tmp_path / "v.avi", shades(8), codec="mjpeg", pixel_format="yuvj420p")
    data = bytearray(path.read_bytes())
    struct.pack_into("<I", data, data.index(b"strh") + 8 + 32, 12)  # dwLength of the stream header
    path.write_bytes(data)
    assert outcome(path, start=0.2)[2].warnings == ["8 of 12 promised frames decoded"]
    assert outcome(path, "num=3")[2].warnings == ["8 of 12 promised frames decoded"]
    assert outcome(path, end=0.5)[2].warnings == []


# ---------------------------------------------------------------- decoders that crash, hang or eat


WORKER = """
import json, os, signal, sys, time
from framecache.cache.child import serve
from framecache.extract import decode_worker

def answer(message):
    name = os.path.basename(json.loads(message)["path"])
    for number, part in enumerate(decode_worker.answer(message)):
        if number == (3 if "late" in name else 1):
            if "hang" in name:
                time.sleep(1e6)
            if "segfault" in name:
                os.kill(os.getpid(), signal.SIGSEGV)
            if "babble" in name:
                part = b"no JSON"
            if "eat" in name:
                bytearray(sys.maxsize)
        if "short" in name and number == 2:
            part = part[:-3]
        if "lossy" in name and number in (1, 2):
            continue
        if "slow" in name and number < 6:
            time.sleep(0.4)
        yield part
    if "leave" in name:
        os._exit(0)

serve(answer)
"""


@pytest.fixture
def hostile_worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A module for workers that do to a clip what its name says."""
    folder = tmp_path / "workers"
    folder.mkdir()
    (folder / "hostile_worker.py").write_text(WORKER)
    paths = [str(folder), os.environ.get("PYTHONPATH", "")]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(path for path in paths if path))
    return "hostile_worker"


STALL_SECONDS = 1.5


def decode_hostile(folder: Path, names: list[str], module: str, keep_partial: bool = False) -> dict[str, Finished]:
    # The others may take their time on a busy machine.
    limits = [Limits(STALL_SECONDS) if "hang" in name or "slow" in name else Limits() for name in names]
    clips = [
        Clip(write_video(folder / f"{name}.mp4", shades(40)), Sampling(), SQUARE, None, None, keep_partial, limit)
        for name, limit in zip(names, limits, strict=True)
    ]
    counts = dict.fromkeys(names, 0)
    ends: dict[str, Finished] = {}
    with DecoderPool(clips, 1, module) as pool:
        for event in pool:
            if isinstance(event, Frames):
                counts[names[event.clip]] += len(event.block.frames)
            elif isinstance(event, Finished):
                assert names[event.clip] not in ends
                ends[names[event.clip]] = event
    for name, end in ends.items():
        assert end.stats.frames_kept == counts[name]
    return ends


def test_whatever_a_decoder_does_the_next_clip_goes_on(tmp_path: Path, hostile_worker: str) -> None:
    reasons = {
        "segfault": "the decoder crashed (Segmentation fault)",
        "good": None,
        "hang": "no frame for 1.5 s (--stall-seconds)",
        "late-segfault": "decoding breaks after 16 of 40 frames: the decoder crashed (Segmentation fault); "
        "--retry-failed --keep-partial keeps them",
        "slow": None,  # longer than that in all, but never without a frame for long
        "leave": None,
        "after": None,  # whose worker has gone before it came
        "babble": "the decoder crashed (exit status 0)",
        "lossy": "decoding breaks after 40 of 40 frames: the decoder crashed (exit status 0); "
        "--retry-failed --keep-partial keeps them",
        "short": "decoding breaks after 16 of 40 frames: the decoder crashed (exit status 0)",
    }
    ends = decode_hostile(tmp_path, list(reasons), hostile_worker)
    # A worker that is told to go may be too slow for it on a busy machine, and is killed.
    told_to_go = {"babble", "lossy", "short"}
    found = {
        name: str(end.reason).replace("(Killed)", "(exit status 0)") if name in told_to_go else end.reason
        for name, end in ends.items()
    }
    assert found == reasons


def test_what_came_before_a_crash_is_kept_when_that_is_wanted(tmp_path: Path, hostile_worker: str) -> None:
    ends = decode_hostile(tmp_path, ["late-segfault", "late-hang", "segfault"], hostile_worker, keep_partial=True)
    assert ends["late-segfault"].stats.warnings == ["kept in part: the decoder crashed (Segmentation fault)"]
    assert ends["late-hang"].stats.warnings == ["kept in part: no frame for 1.5 s (--stall-seconds)"]
    assert [ends[name].reason for name in ends] == [None, None, "the decoder crashed (Segmentation fault)"]
    assert ends["late-hang"].stats.frames_kept == 16


def test_the_consumer_gets_turns_while_nothing_is_decoded(tmp_path: Path, hostile_worker: str) -> None:
    clip = Clip(
        write_video(tmp_path / "hang.mp4", shades(3)), Sampling(), SQUARE, limits=Limits(stall_seconds=STALL_SECONDS)
    )
    with DecoderPool([clip], 1, hostile_worker) as pool:
        events = list(pool)
    assert events.count(None) >= 2
    assert isinstance(events[-1], Finished)


def test_the_consumers_own_slowness_is_no_stall(tmp_path: Path) -> None:
    path = write_video(tmp_path / "v.mp4", shades(200))
    with DecoderPool([Clip(path, Sampling(), SQUARE, limits=Limits(STALL_SECONDS))], 1) as pool:
        for event in pool:
            if isinstance(event, Frames):
                time.sleep(1.5 * STALL_SECONDS if event.block.timestamps_ms[0] == 0 else 0)
            elif event is not None:
                assert event.reason is None


def test_frames_that_are_not_kept_are_signs_of_life(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from framecache.extract import video

    everything = write_video(tmp_path / "v.avi", shades(30), codec="mpeg4")
    shortcut = write_video(tmp_path / "v.mp4", shades(30))  # key frames at 0, 4, …
    monkeypatch.setattr(video, "_PULSE_SECONDS", 0.0)
    for path, sample, beats in (
        (everything, "every=1000", 29),
        (everything, "num=1", 30 + 29),
        (shortcut, "every=7", 3 + 3 + 2 + 1 + 0),  # frames 7, 14, 21 and 28 behind their key frames
    ):
        clip = Clip(path, parse_sampling(sample), SQUARE)
        assert list(video.decode_with_pulse(clip, DecodeStats())).count(None) >= beats


def test_a_run_survives_its_decoders_and_accounts_for_every_video(
    tmp_path: Path, tiny_backbone: str, hostile_worker: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    sealings, turns = [], []

    class Watched(DecoderPool):
        def __iter__(self):
            for event in super().__iter__():
                before = len(sealings)
                yield event
                if event is None:
                    turns.append(len(sealings) > before)

    seal_if_due = ShardWriter.seal_if_due
    monkeypatch.setattr(ShardWriter, "seal_if_due", lambda self: (sealings.append(self), seal_if_due(self)))
    monkeypatch.setattr(pipeline, "DecoderPool", partial(Watched, module=hostile_worker))
    folder = tmp_path / "videos"
    names = ["good", "late-segfault", "hang", "eat", "last"]
    for number, name in enumerate(names):
        write_video(folder / f"{name}.mp4", shades(20 + number))
    config = ExtractConfig(
        tmp_path / "features", backbone=tiny_backbone, engine="tensorflow", stall_seconds=STALL_SECONDS
    )
    report = extract(folder, config)
    rows = open_cache(config.cache)["build.gap"].ledger()
    assert {name: rows[f"{name}.mp4"].status for name in names} == {
        "good": "ok",
        "late-segfault": "failed",
        "hang": "failed",
        "eat": "failed",
        "last": "ok",
    }
    assert (report.num_videos, report.computed, len(report.failed)) == (5, 2, 3)
    assert len(turns) > 0
    assert all(turns), "nothing would be sealed while a decoder is slow"
    assert (rows["late-segfault.mp4"].frames_decoded, rows["late-segfault.mp4"].frames_expected) == (16, 21)
    report = extract(folder, replace(config, retry_failed=True, keep_partial=True))
    assert report.failed.keys() == {"hang.mp4", "eat.mp4"}
    features = open_cache(config.cache)["build.gap"]
    assert len(features["late-segfault.mp4"]) == 16
    assert features.ledger()["late-segfault.mp4"].warnings == (
        "kept in part: the decoder crashed (Segmentation fault)",
    )


@pytest.mark.skipif(sys.platform != "linux", reason="the memory of a process is limited on Linux only")
def test_a_decoder_gets_no_more_memory_than_allowed(tmp_path: Path) -> None:
    bomb = tmp_path / "bomb.mp4"
    bomb.write_bytes(png(6000, 6000))
    good = write_video(tmp_path / "good.mp4", shades(5))
    clips = [Clip(path, Sampling(), SQUARE, limits=Limits(decoder_gb=0.1)) for path in (good, bomb, good)]
    with DecoderPool(clips, 1) as pool:
        reasons = {event.clip: event.reason for event in pool if isinstance(event, Finished)}
    assert reasons == {0: None, 1: "decoding needs more than 0.1 GB of memory (--decoder-gb)", 2: None}
    with DecoderPool([Clip(bomb, Sampling(), SQUARE)], 1) as pool:
        assert [event.reason for event in pool if isinstance(event, Finished)] == [None]


def test_a_system_that_limits_no_memory_does_not_end_the_decoder(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def refuse(*arguments: object) -> None:
        asked.append(arguments)
        raise ValueError("current limit exceeds maximum limit")

    endless = sys.maxsize  # as on macOS, where it is not -1
    system = SimpleNamespace(
        RLIMIT_AS=5, RLIM_INFINITY=endless, getrlimit=lambda _: (endless, endless), setrlimit=refuse
    )
    monkeypatch.setattr(limits, "resource", system)
    monkeypatch.setattr(limits, "_at_start", lambda: 0)
    limits.limit_memory(1.0)
    assert asked == []
    monkeypatch.setattr(limits, "_at_start", lambda: 5)
    limits.limit_memory(1.0)
    assert asked == [(5, (1_000_000_005, endless))]


def test_a_few_mutants(tmp_path: Path) -> None:
    """The soak test in short."""
    ends = decode_mutants(tmp_path, 24, seed=3, stall_seconds=10.0)
    assert {"warned", "failed"} <= ends.keys()
