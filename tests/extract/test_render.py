"""The sample: what the manifest promises is there, and only the order tells its classes apart."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import av
import numpy as np
import numpy.typing as npt
import pytest

from framecache.cache.errors import InputError
from framecache.cache.manifest import read_manifest
from framecache.extract import render

FEW_SCENES = {"train": 2, "val": 1, "test": 1}
LABELS = [label for pair in render.PAIRS for label in pair]


def decode(path: Path) -> npt.NDArray[np.uint8]:
    """All frames, RGB `(N, H, W, 3)`."""
    with av.open(str(path)) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    return np.stack(frames).astype(np.uint8)


def contents(folder: Path) -> dict[str, bytes]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def refuse_to_render(*_: object) -> None:
    raise AssertionError("a complete sample is not rendered again")


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return render.render_sample(tmp_path_factory.mktemp("sample"), num_scenes=FEW_SCENES)


def test_manifest_has_every_clip_of_every_class_and_split(sample: Path) -> None:
    videos = read_manifest(sample)
    expected = {(label, split): count for label in LABELS for split, count in FEW_SCENES.items()}
    assert Counter((video.label, video.split) for video in videos) == expected
    assert {video.path for video in videos} == set(sample.parent.glob("*/scene-*.mp4"))


def test_default_sample_has_224_clips() -> None:
    assert len(LABELS) * sum(render.NUM_SCENES.values()) == 224


def test_a_scene_is_one_group_in_one_split(sample: Path) -> None:
    groups: dict[str | None, list[tuple[str | None, str | None]]] = {}
    for video in read_manifest(sample):
        groups.setdefault(video.group, []).append((video.split, video.label))
    for (split, label), (other_split, other_label) in groups.values():
        assert split == other_split
        assert (label, other_label) in render.PAIRS


def test_clips_are_h264_of_the_promised_size_and_length(sample: Path) -> None:
    for video in read_manifest(sample):
        with av.open(str(video.path)) as container:
            stream = container.streams.video[0]
            assert stream.codec_context.name == "h264"
            assert stream.codec_context.pix_fmt == "yuv420p"
            assert stream.average_rate == render.FPS
        assert decode(video.path).shape == (render.NUM_FRAMES, render.SIZE, render.SIZE, 3)


@pytest.mark.parametrize("pair", render.PAIRS, ids="/".join)
def test_reversed_pairs_hold_the_same_frames_reversed(sample: Path, pair: tuple[str, str]) -> None:
    forwards, backwards = (decode(sample.parent / label / "scene-000.mp4") for label in pair)
    np.testing.assert_array_equal(forwards, backwards[::-1])
    # and something does happen: the ends differ much more than neighbours do
    first, second, last = forwards[[0, 1, -1]].astype(np.float64)
    assert np.abs(first - last).mean() > 10 + np.abs(first - second).mean()


def test_clips_look_as_their_classes_say(sample: Path) -> None:
    def ends(label: str) -> list[npt.NDArray[np.float64]]:
        frames = decode(sample.parent / label / "scene-001.mp4").astype(np.float64)
        return [frames[0], frames[-1]]

    def detail(frame: npt.NDArray[np.float64]) -> float:
        return float(np.abs(np.diff(frame, axis=1)).mean())

    dark, bright = (float(frame.mean()) for frame in ends("brighten"))
    blurred, sharp = map(detail, ends("focus"))
    bare, full = map(detail, ends("appear"))
    wide, close = map(detail, ends("zoom-in"))
    assert dark < bright / 3
    assert blurred < sharp / 2
    assert bare < full / 2
    assert close < wide


def test_scenes_differ(sample: Path) -> None:
    for label in LABELS:
        first, second = (decode(sample.parent / label / f"scene-00{i}.mp4") for i in (0, 1))
        assert np.abs(first.astype(np.float64) - second).mean() > 5


def test_the_seed_decides_every_byte(tmp_path: Path) -> None:
    one_scene = {"train": 1}
    for folder, seed in (("a", 3), ("b", 3), ("c", 4)):
        render.render_sample(tmp_path / folder, seed, one_scene)
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    clip = "focus/scene-000.mp4"
    assert contents(tmp_path / "a")[clip] != contents(tmp_path / "c")[clip]


def test_a_complete_sample_is_left_as_it_is(sample: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(render, "_render_scene", refuse_to_render)
    assert render.render_sample(sample.parent, num_scenes=FEW_SCENES) == sample


def test_an_interrupted_rendering_leaves_no_manifest_and_is_redone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_clip = render._write_clip

    def interrupted(path: Path, frames: list[av.VideoFrame]) -> None:
        write_clip(path, frames[: render.NUM_FRAMES // 2])
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(render, "_write_clip", interrupted)
        with pytest.raises(KeyboardInterrupt):
            render.render_sample(tmp_path, num_scenes={"train": 1})
    assert list(tmp_path.rglob("*.mp4"))
    assert not (tmp_path / "manifest.csv").exists()

    manifest = render.render_sample(tmp_path, num_scenes={"train": 1})
    for video in read_manifest(manifest):
        assert len(decode(video.path)) == render.NUM_FRAMES
    assert not list(tmp_path.glob("*.tmp"))


def test_a_lost_clip_is_rendered_again(tmp_path: Path) -> None:
    manifest = render.render_sample(tmp_path, num_scenes={"train": 1})
    before = contents(tmp_path)
    (tmp_path / "darken" / "scene-000.mp4").unlink()
    assert render.render_sample(tmp_path, num_scenes={"train": 1}) == manifest
    assert contents(tmp_path) == before


@pytest.mark.parametrize("text", ["path,label\nmine.mp4,mine\n", ""])
def test_another_manifest_is_refused_and_kept(tmp_path: Path, text: str) -> None:
    manifest = tmp_path / "manifest.csv"
    manifest.write_text(text)
    with pytest.raises(InputError, match=r"manifest\.csv: expected no manifest, .*found another"):
        render.render_sample(tmp_path)
    assert contents(tmp_path) == {"manifest.csv": text.encode()}


def test_another_seed_does_not_pass_for_this_one(sample: Path) -> None:
    with pytest.raises(InputError, match="seed 1"):
        render.render_sample(sample.parent, seed=1, num_scenes=FEW_SCENES)


class TestMain:
    def test_says_what_there_is(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        render.render_sample(tmp_path, num_scenes={"train": 1})
        num_bytes = sum(path.stat().st_size for path in tmp_path.rglob("*.mp4"))
        monkeypatch.setattr(render, "render_sample", lambda folder: folder / "manifest.csv")
        assert render.main([str(tmp_path)]) == 0
        out, err = capsys.readouterr()
        assert out.startswith(f"{tmp_path / 'manifest.csv'}: ")
        assert out.endswith(f" 8 clips, 8 classes, 192 frames, {num_bytes:,} bytes\n")
        assert err == ""

    def test_file_is_status_2(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        (tmp_path / "file").write_text("")
        assert render.main([str(tmp_path / "file")]) == 2
        assert capsys.readouterr().err.startswith("error: ")

    def test_interrupt_is_status_130(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        def interrupted(folder: Path) -> Path:
            raise KeyboardInterrupt

        monkeypatch.setattr(render, "render_sample", interrupted)
        assert render.main([str(tmp_path)]) == 130
        assert "same command" in capsys.readouterr().err
