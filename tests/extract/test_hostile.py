"""Hostile files: whatever a file is or claims, it ends with its reason and costs neither memory nor secrets."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from framecache.cache import open_cache
from framecache.cache.errors import InputError
from framecache.cache.sampling import Sampling
from framecache.extract.config import ExtractConfig
from framecache.extract.limits import Limits
from framecache.extract.pipeline import extract
from framecache.extract.video import Clip, DecodeStats, decode

from .conftest import shades, write_video
from .hostile_files import SQUARE, gif, h264, outcome, png


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
