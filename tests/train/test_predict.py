"""framecache-train predict: new videos, scored by a run as its own were."""

from __future__ import annotations

import csv
import io
import json
import shutil
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import fsspec
import numpy as np
import pytest

from framecache.cache import open_cache, sources
from framecache.cache.cli import run
from framecache.cache.sources import Url
from framecache.extract import remote
from framecache.train.__main__ import app
from framecache.train.config import FitConfig
from framecache.train.fit import fit
from framecache.train.predictions import read_predictions
from framecache.train.serving.answers import Answer, Question
from framecache.train.serving.scorer import Scorer

from .conftest import Data
from .served import CLASSES, Case, Served, derived, make_run, serve

TIMES = np.arange(4) * 500.0


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Served:
    served = serve(tmp_path_factory.mktemp("served"), ("gap",))
    derived(served, "tiny.gap-", pca=3)
    make_run(served, Case("lstm", "tiny.gap-", 6), served.folder / "run")
    make_run(served, Case("mean", "tiny.gap.pca=3"), served.folder / "derived")
    return served


def predict(served: Served, *words: Any, name: str = "run", cache: Path | None = None) -> int:
    common = ["--backbone", str(served.backbone), "--engine", "tensorflow", "--workers", "1"]
    where = ["--cache", str(cache or served.folder / "nowhere")]
    return run(app, ["predict", str(served.folder / name), *map(str, words), *where, *common])


def lines_of(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_a_bad_video_is_a_row_with_its_reason_and_the_others_are_scored(
    served: Served, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"no video")
    good = served.videos[0].path
    assert predict(served, broken, good, tmp_path / "missing.mp4", "--top-k", "2") == 1
    printed = capsys.readouterr()
    rows = list(csv.DictReader(io.StringIO(printed.out)))
    assert [(Path(row["source"]).name, row["status"], row["rank"]) for row in rows] == [
        ("broken.mp4", "failed", ""),
        ("clip0.mp4", "ok", "1"),
        ("clip0.mp4", "ok", "2"),
        ("missing.mp4", "failed", ""),
    ]
    assert "cannot be opened" in rows[0]["reason"]
    assert "no such file" in rows[3]["reason"].lower()
    assert float(rows[1]["score"]) >= float(rows[2]["score"]) > 0
    assert "3 videos: 1 computed (tensorflow), 0 from the cache, 2 failed" in printed.err


def test_what_the_cache_holds_is_not_decoded_and_scores_are_the_same(
    served: Served, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    renamed = tmp_path / "other-name.mp4"
    shutil.copy(served.videos[1].path, renamed)
    assert predict(served, served.manifest, renamed, "--json") == 0
    live = lines_of(capsys)
    assert predict(served, served.manifest, renamed, "--json", cache=served.cache) == 0
    printed = capsys.readouterr()
    assert "4 videos: 0 computed, 4 from the cache, 0 failed" in printed.err
    cached = [json.loads(line) for line in printed.out.splitlines()]
    assert [line["cached"] for line in (*live, *cached)] == [False] * 4 + [True] * 4
    for one, other in zip(live, cached, strict=True):
        assert (one["video_id"], one["source"]) == (other["video_id"], other["source"])
        assert one["scores"] == [pytest.approx(score, abs=1e-5) for score in other["scores"]]
    scorer = Scorer(make_run(served, Case("lstm", "tiny.gap-", 6), tmp_path / "again"))
    (logits,) = scorer.logits([open_cache(served.cache)["tiny.gap-"]["clip1.mp4"]])
    probability = np.exp(logits).max() / np.exp(logits).sum()
    assert cached[1]["scores"][0] == pytest.approx({"label": CLASSES[logits.argmax()], "score": probability}, abs=1e-5)


def test_paths_may_come_from_standard_input(
    served: Served, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    listed = "".join(f"{video.path}\n" for video in served.videos[:2]) + "\n"
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(listed.encode())))
    assert predict(served, "-", "--json", cache=served.cache) == 0
    assert [line["source"] for line in lines_of(capsys)] == [str(video.path) for video in served.videos[:2]]


def test_a_video_behind_a_url_is_scored_as_its_file_is_and_transferred_once(
    served: Served, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    transferred: list[str] = []

    def read_url(url: Url, num_bytes: int | None = None) -> Iterator[bytes]:
        transferred.append(url.name)
        return sources.read_url(url, num_bytes)

    monkeypatch.setattr(remote, "read_url", read_url)
    files, local = fsspec.filesystem("memory"), served.videos[0].path
    files.pipe_file("/me:s3cret@bucket/clip0.mp4", local.read_bytes())
    urls = ["memory://me:s3cret@bucket/clip0.mp4", "memory://me:s3cret@bucket/missing.mp4"]
    assert predict(served, *urls, local, "--json") == 1
    files.rm("/me:s3cret@bucket", recursive=True)
    printed = capsys.readouterr()
    there, missing, here = (json.loads(line) for line in printed.out.splitlines())
    assert there["scores"] == [pytest.approx(score, abs=1e-6) for score in here["scores"]]
    assert there["source"] == there["video_id"] == "memory://bucket/clip0.mp4"
    assert missing["reason"] == "cannot be read: not found"
    assert transferred == ["clip0.mp4"]
    assert "s3cret" not in printed.out + printed.err


def test_windows_are_scored_by_themselves_and_drawn(
    served: Served, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # 12 frames, ten a second
    words = [served.videos[0].path, "--windows", 0.5, "--step", 0.3, "--json", "--timeline", tmp_path / "drawn"]
    assert predict(served, *words) == 0
    (line,) = lines_of(capsys)
    spans = [(window["start"], window["end"]) for window in line["windows"]]
    assert spans == [pytest.approx(span) for span in ((0, 0.5), (0.3, 0.8), (0.6, 1.1), (0.9, 1.2))]
    features = open_cache(served.cache)["tiny.gap-"]["clip0.mp4"]
    scorer = Scorer(make_run(served, Case("lstm", "tiny.gap-", 6), tmp_path / "again"))
    question = Question("classification", CLASSES)
    for window, frames in zip(line["windows"], ((0, 5), (3, 8), (6, 11), (9, 12)), strict=True):
        expected = question.told(scorer.logits([features[slice(*frames)]])[0])
        found = [(score["label"], pytest.approx(score["score"], abs=1e-5)) for score in window["scores"]]
        assert expected == found
    (figure,) = (tmp_path / "drawn").iterdir()
    assert figure.read_bytes().startswith(b"\x89PNG")


def test_another_cnn_is_refused_with_the_difference(
    served: Served, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import keras

    other = keras.saving.load_model(served.backbone)
    other.set_weights([2 * weights for weights in other.get_weights()])
    other.save(tmp_path / "tiny.keras")
    assert predict(replace(served, backbone=str(tmp_path / "tiny.keras")), served.manifest) == 2
    assert "weights: " in (told := capsys.readouterr()).err
    assert "… → " in told.err
    assert told.out == ""


def test_a_derived_set_needs_no_cache_but_its_lineage(
    served: Served, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kept = sorted(path.name for path in (served.folder / "derived" / "lineage").iterdir())
    assert [name.rpartition("-")[0] for name in kept] == ["tiny.gap", "tiny.gap.pca=3"]
    assert predict(served, served.videos[0].path, "--json", name="derived") == 0
    (line,) = lines_of(capsys)
    shutil.copytree(served.folder / "derived", tmp_path / "bare")
    shutil.rmtree(tmp_path / "bare" / "lineage")
    assert predict(served, served.videos[0].path, name=str(tmp_path / "bare")) == 2
    assert "name the cache that holds it with --cache" in capsys.readouterr().err
    assert predict(served, served.videos[0].path, "--json", name=str(tmp_path / "bare"), cache=served.cache) == 0
    (again,) = lines_of(capsys)
    assert again["scores"] == [pytest.approx(score, abs=1e-5) for score in line["scores"]]


def test_an_edited_spec_is_refused(served: Served, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(served.folder / "run", tmp_path / "edited")
    path = tmp_path / "edited" / "run.json"
    path.write_text(path.read_text().replace('"sampling": "all"', '"sampling": "fps=2"'))
    assert predict(served, served.manifest, name=str(tmp_path / "edited")) == 2
    assert "was it edited?" in capsys.readouterr().err


def test_a_scorer_gives_what_the_run_itself_predicted(data: Data, tmp_path: Path) -> None:
    config = FitConfig(manifest=data.manifest, cache=data.cache, runs=tmp_path, epochs=1, model="mean")
    config = replace(config, max_len=4, clip="windows")
    trained = fit("toy.gap", config)
    known = read_predictions(trained.folder / "logits.npz")
    features = open_cache(data.cache)["toy.gap"]
    found = Scorer(trained).logits([features[video_id] for video_id in known.video_id.tolist()])
    np.testing.assert_allclose(np.stack(found), known.logits, atol=1e-5)


def test_labels_of_several_are_told_from_the_threshold_on() -> None:
    question = Question("multilabel", ("a", "b", "c"), threshold=0.7)
    answer = Answer("v", "v.mp4", logits=np.array([0.0, 2.0, 1.0], np.float32), timestamps_ms=TIMES)
    assert answer.to_json(question)["scores"] == [
        {"label": "b", "score": pytest.approx(0.8808, abs=1e-4)},
        {"label": "c", "score": pytest.approx(0.7311, abs=1e-4)},
    ]
    none = Answer("v", "v.mp4", logits=np.full(3, -9, np.float32), timestamps_ms=TIMES)
    assert list(none.rows(question)) == [("v", "v.mp4", "ok", "", "", "", "", "", "")]


def test_a_number_is_told_as_it_is() -> None:
    answer = Answer("v", "v.mp4", logits=np.array([12.5], np.float32), timestamps_ms=TIMES)
    assert list(answer.rows(Question("regression", ()))) == [("v", "v.mp4", "ok", "", "", "", "1", "", "12.5")]
    assert answer.to_json(Question("regression", ()))["scores"] == [{"score": 12.5}]


def test_frame_labels_are_told_as_segments_to_the_end_of_their_last_frame() -> None:
    logits = np.array([[9, 0], [9, 0], [0, 9], [9, 0]], np.float32)
    answer = Answer("v", "v.mp4", logits=logits, timestamps_ms=TIMES)
    told = answer.to_json(Question("frames", ("cut", "pour")))["segments"]
    assert [(one["start"], one["end"], one["label"]) for one in told] == [
        (0.0, 1.0, "cut"),
        (1.0, 1.5, "pour"),
        (1.5, 2.0, "cut"),
    ]
