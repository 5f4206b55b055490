"""The ``framecache`` command: what it prints and the status it ends with."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cyclopts import App

from framecache.cache import FramecacheError, InputError, Spec
from framecache.cache.__main__ import app
from framecache.cache.cli import format_bytes, make_app, run
from framecache.cache.ledger import LedgerRow, append_journal
from framecache.cache.reader import list_shards
from framecache.cache.store import lock_for_writing

MakeSpec = Callable[..., Spec]
FillSet = Callable[..., Path]
Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Command:
    """``command("ls", …)``: the status, and what went to standard output and standard error."""
    monkeypatch.setattr(app, "config", app.config)

    def call(*words: object) -> tuple[int, str, str]:
        status = run(app, [str(word) for word in words])
        return status, *capsys.readouterr()

    return call


@pytest.fixture
def cache(tmp_path: Path, make_spec: MakeSpec, fill_set: FillSet) -> Path:
    """Two feature sets; in the first a failed video and a duplicate."""
    folder = fill_set(tmp_path, make_spec(), {"v10": np.ones((3, 4)), "v2": np.ones((2, 4)), "日本": np.ones((1, 4))})
    failed = LedgerRow("bad", "videos/bad.mp4", "failed", "no frame could be decoded", ("cut short",), 9)
    copy = LedgerRow("copy", "videos/copy.mp4", "duplicate", "same content as v2", source_digest="content of v2")
    append_journal(folder, 1, [failed, copy])
    fill_set(
        tmp_path, make_spec(reduction="grid", feature_shape=(2, 2, 4), dtype="float32"), {"v1": np.ones((5, 2, 2, 4))}
    )
    return tmp_path


def num_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in list_shards(folder))


def test_ls_shows_a_row_per_feature_set(cache: Path, command: Command) -> None:
    status, out, err = command("ls", "--cache", cache)
    header, gap, grid = out.splitlines()
    assert (status, err) == (0, "")
    assert header.split() == ["name", "videos", "frames", "shape", "dtype", "size"]
    assert gap.split()[0].startswith("efficientnet-lite0.gap-")
    assert gap.split()[1:5] == ["4", "6", "4", "float16"]
    assert grid.split()[1:5] == ["1", "5", "2×2×4", "float32"]


def test_ls_json_has_the_documented_keys(cache: Path, command: Command, spec: Spec) -> None:
    status, out, _ = command("ls", "--cache", cache, "--json")
    gap, grid = json.loads(out)
    assert status == 0
    assert gap == {
        "name": spec.name,
        "fingerprint": spec.fingerprint,
        "num_videos": 4,
        "num_frames": 6,
        "feature_shape": [4],
        "dtype": "float16",
        "bytes": num_bytes(cache / spec.name),
    }
    assert (grid["feature_shape"], grid["dtype"], grid["num_frames"]) == ([2, 2, 4], "float32", 5)


def test_an_empty_cache_lists_nothing(tmp_path: Path, command: Command) -> None:
    assert command("ls", "--cache", tmp_path, "--json") == (0, "[]\n", "")
    assert command("ls", "--cache", tmp_path) == (0, "name  videos  frames  shape  dtype  size\n", "")


def test_the_cache_is_the_folder_features_by_default(
    cache: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    (cache.parent / "features").symlink_to(cache)
    monkeypatch.chdir(cache.parent)
    assert command("ls") == command("ls", "--cache", cache)


def test_info_shows_spec_size_and_statuses(cache: Path, command: Command, spec: Spec) -> None:
    status, out, _ = command("info", "efficientnet-lite0.gap", "--cache", cache)
    assert status == 0
    lines = out.splitlines()
    assert lines[0] == spec.name
    assert lines[1].startswith("  4 videos, 6 frames, ")
    assert "  ledger: 1 duplicate, 1 failed, 3 ok" in lines
    assert f"  fingerprint: {spec.fingerprint}" in lines
    assert "  reduction: gap" in lines
    assert "    interpolation: bicubic" in lines


def test_info_json_holds_the_whole_spec(cache: Path, command: Command, spec: Spec) -> None:
    status, out, _ = command("info", spec.name, "--cache", cache, "--json")
    shown = json.loads(out)
    assert status == 0
    assert Spec.from_dict(shown["spec"]) == spec
    assert shown["videos"] == {"ok": 3, "duplicate": 1, "failed": 1}
    (row,) = (row for row in json.loads(command("ls", "--cache", cache, "--json")[1]) if row["name"] == spec.name)
    assert {key: shown[key] for key in row} == row


def test_ledger_shows_every_video_in_natural_order_and_ends_with_1_if_any_failed(cache: Path, command: Command) -> None:
    status, out, err = command("ledger", "efficientnet-lite0.gap", "--cache", cache)
    header, *rows = (line.split(maxsplit=5) for line in out.splitlines())
    assert (status, err) == (1, "")
    assert header == ["video_id", "status", "expected", "decoded", "stored", "reason or warnings"]
    assert rows == [
        ["bad", "failed", "9", "0", "0", "no frame could be decoded; cut short"],
        ["copy", "duplicate", "?", "0", "0", "same content as v2"],
        ["v2", "ok", "2", "2", "2"],
        ["v10", "ok", "3", "3", "3"],
        ["日本", "ok", "1", "1", "1"],
    ]


def test_ledger_json_has_the_documented_keys(cache: Path, command: Command) -> None:
    status, out, _ = command("ledger", "efficientnet-lite0.gap", "--cache", cache, "--json")
    rows = {row["video_id"]: row for row in json.loads(out)}
    assert status == 1
    assert list(rows) == ["bad", "copy", "v2", "v10", "日本"]
    assert "日本" in out
    assert rows["bad"] == {
        "video_id": "bad",
        "source": "videos/bad.mp4",
        "status": "failed",
        "reason": "no frame could be decoded",
        "warnings": ["cut short"],
        "frames_expected": 9,
        "frames_decoded": 0,
        "frames_stored": 0,
        "source_digest": "",
        "feature_digest": "",
    }
    assert rows["v2"]["source_digest"] == rows["copy"]["source_digest"] == "content of v2"
    assert len(rows["v2"]["feature_digest"]) == 32


def test_ledger_failed_shows_only_the_failed(cache: Path, command: Command) -> None:
    status, out, _ = command("ledger", "efficientnet-lite0.gap", "--failed", "--cache", cache, "--json")
    assert (status, [row["video_id"] for row in json.loads(out)]) == (1, ["bad"])
    status, out, _ = command("ledger", "efficientnet-lite0.grid", "--failed", "--cache", cache, "--json")
    assert (status, json.loads(out)) == (0, [])


def test_a_row_of_the_ledger_is_one_line_of_plain_characters(cache: Path, spec: Spec, command: Command) -> None:
    odd = LedgerRow("two\nlines", "odd.mp4", "failed", "ffmpeg says:\n\x1b[31mred\x1b[0m", ("tab\there",))
    append_journal(cache / spec.name, 1, [odd])
    _, out, _ = command("ledger", spec.name, "--cache", cache)
    assert len(out.splitlines()) == 1 + 6
    assert all(line.isprintable() for line in out.splitlines())


def test_a_ledger_without_failures_ends_with_0(cache: Path, command: Command) -> None:
    assert command("ledger", "efficientnet-lite0.grid", "--cache", cache)[0] == 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["info", "efficientnet-lite0.gpa"], "no feature set 'efficientnet-lite0.gpa' in "),
        (["info", "eff"], "'eff' fits several feature sets of "),
        (["ledger", "vgg"], "no feature set 'vgg' in "),
        (["ls", "--cahce", "x"], "Unknown option: "),
        (["list"], 'Unknown command "list"'),
        (["info"], "requires an argument"),
        (["ls", "extra"], "extra"),
        (["ls", "--config", "missing.toml"], "--config 'missing.toml': no such file; expected a TOML file"),
        (["ls", "--config"], "--config '': no such file"),
    ],
)
def test_wrong_usage_is_one_line_and_status_2(words: list[str], message: str, cache: Path, command: Command) -> None:
    status, out, err = command(*words, *([] if "--config" in words else ["--cache", cache]))
    assert (status, out) == (2, "")
    assert err.startswith("error: ")
    assert message in err
    assert err.count("\n") == 1


def test_a_damaged_set_is_named_with_status_1_and_the_others_are_still_listed(
    cache: Path, spec: Spec, command: Command
) -> None:
    (path,) = list_shards(cache / spec.name)
    path.write_bytes(path.read_bytes()[:-100])
    status, out, err = command("ls", "--cache", cache)
    assert status == 1
    assert [line.split()[0] for line in out.splitlines()[1:]] == sorted(
        folder.name for folder in cache.iterdir() if folder.name != spec.name
    )
    assert err.startswith(f"error: {path}: not a whole, readable shard of format version 1")
    assert err.count("\n") == 1


def test_flags_may_be_keys_of_a_toml_file_and_flags_win(cache: Path, tmp_path: Path, command: Command) -> None:
    config = tmp_path / "config.toml"
    config.write_text(f'cache = "{cache}"\njson = true\n')
    expected = command("ls", "--cache", cache, "--json")
    assert command("ls", "--config", config) == expected
    assert command(f"--config={config}", "ls") == expected
    status, _, err = command("ls", "--config", config, "--cache", tmp_path / "missing")
    assert status == 2
    assert "missing': no such folder" in err


@pytest.mark.parametrize(
    ("text", "message"),
    [('cahce = "x"\n', "cahce"), ('json = "maybe"\n', "maybe"), ("json = = true\n", "Invalid value")],
)
def test_a_wrong_toml_file_is_wrong_usage_and_named(text: str, message: str, tmp_path: Path, command: Command) -> None:
    config = tmp_path / "config.toml"
    config.write_text(text)
    status, out, err = command("ls", "--config", config)
    assert (status, out) == (2, "")
    assert message in err
    assert str(config) in err


def test_a_config_counts_for_one_command_only(
    cache: Path, tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")  # without a cache in its default place
    config = tmp_path / "config.toml"
    config.write_text(f'cache = "{cache}"\n')
    command("ls", "--config", config)
    status, _, err = command("ls")
    assert (status, "'features': no such folder" in err) == (2, True)


@pytest.mark.parametrize("words", [[], ["--help"], ["ls", "--help"], ["--version"]])
def test_help_and_version_end_with_0(words: list[str], command: Command) -> None:
    status, out, err = command(*words)
    assert (status, err) == (0, "")
    assert out


def app_that(action: Callable[[], Any]) -> App:
    other = make_app("other", "Does one thing.")
    other.command(action, name="go")
    return other


def raising(error: BaseException) -> Callable[[], None]:
    def action() -> None:
        raise error

    return action


@pytest.mark.parametrize(
    ("error", "status", "line"),
    [
        (InputError("wrong\n  word"), 2, "error: wrong word"),
        (FramecacheError("gone wrong"), 1, "error: gone wrong"),
        (
            OSError(28, "No space left on device"),
            1,
            "error: No space left on device; what was sealed stays: mend this and run the same command again",
        ),
        (KeyboardInterrupt(), 130, "error: interrupted; run the same command again"),
    ],
)
def test_an_expected_error_is_one_line_and_its_status(
    error: BaseException, status: int, line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(app_that(raising(error)), ["go"]) == status
    assert capsys.readouterr() == ("", line + "\n")


def test_an_unexpected_error_is_not_hidden() -> None:
    with pytest.raises(ZeroDivisionError):
        run(app_that(raising(ZeroDivisionError())), ["go"])


@pytest.mark.parametrize(("returned", "status"), [(None, 0), (0, 0), (1, 1)])
def test_a_command_returns_its_status(returned: int | None, status: int) -> None:
    assert run(app_that(lambda: returned), ["go"]) == status


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (1_234_567, "1.2 MB"),
        (999_999, "1.0 MB"),
        (5_300_000_000, "5.3 GB"),
        (2_000_000_000_000, "2.0 TB"),
    ],
)
def test_bytes_are_shown_in_powers_of_1000(count: int, text: str) -> None:
    assert format_bytes(count) == text


def test_the_command_starts_without_tensorflow_and_ends_with_2_for_a_missing_cache(tmp_path: Path) -> None:
    command = [sys.executable, "-X", "importtime", "-m", "framecache.cache", "ls", "--cache", str(tmp_path / "missing")]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60)
    *imports, last = ended.stderr.splitlines()
    imported = {line.rpartition("|")[2].strip().partition(".")[0] for line in imports}
    assert ended.returncode == 2
    assert ended.stdout == ""
    assert last.startswith(f"error: cache '{tmp_path / 'missing'}': no such folder")
    assert {"framecache", "numpy"} <= imported
    assert not imported & {"tensorflow", "keras", "av", "matplotlib", "h5py", "filelock", "rich", "tqdm"}


def test_a_reader_that_goes_away_is_no_error(cache: Path) -> None:
    script = f"{sys.executable} -m framecache.cache info efficientnet-lite0.gap --cache {cache} | true"
    ended = subprocess.run(["/bin/sh", "-c", script], capture_output=True, text=True, timeout=60)
    assert ended.stderr == ""


@pytest.mark.parametrize(
    ("answer", "removed"), [("y\n", True), ("YES\n", True), ("n\n", False), ("\n", False), ("\x04", False)], ids=repr
)
def test_rm_asks_on_a_terminal(
    answer: str, removed: bool, cache: Path, command: Command, spec: Spec, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours, theirs = os.openpty()
    os.write(ours, answer.encode())
    with os.fdopen(theirs) as terminal:
        monkeypatch.setattr(sys, "stdin", terminal)
        status, out, err = command("rm", "efficientnet-lite0.gap", "--cache", cache)
    os.close(ours)
    assert (status, err) == (0, "")
    end = f"{spec.name}: removed\n" if removed else "kept\n"
    assert out == f"remove {spec.name}? [y/N] {end}"
    assert (cache / spec.name).exists() is not removed


def test_rm_does_not_ask_in_a_script_or_with_yes(
    cache: Path, command: Command, spec: Spec, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert command("rm", spec.name, "--cache", cache) == (0, f"{spec.name}: removed\n", "")
    ours, theirs = os.openpty()
    with os.fdopen(theirs) as terminal:
        monkeypatch.setattr(sys, "stdin", terminal)
        status, out, _ = command("rm", "efficientnet-lite0.grid", "--yes", "--cache", cache)
    os.close(ours)
    assert (status, out.endswith(": removed\n")) == (0, True)
    assert command("ls", "--cache", cache, "--json")[1] == "[]\n"


def test_rm_of_a_damaged_set_works(cache: Path, command: Command, spec: Spec) -> None:
    for path in list_shards(cache / spec.name):
        path.write_bytes(b"")
    assert command("rm", spec.name, "--yes", "--cache", cache)[0] == 0


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("verify", ["--repair", "Move hurt shards aside", "--cache", "--json", "status 1 if a single bit has changed"]),
        ("compact", ["--shard-mb", "Size of a large shard", "--cache", "Merge small shards into large ones"]),
        ("rm", ["--yes", "Do not ask", "--cache", "on a terminal it asks first"]),
    ],
)
def test_the_help_of_a_command_says_all_its_flags_within_80_columns(
    name: str, words: list[str], command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    status, out, _ = command(name, "--help")
    assert status == 0
    text = " ".join(out.split())
    assert [word for word in words if word not in text] == []
    assert max(map(len, out.splitlines())) <= 80


def test_a_writer_in_the_way_is_status_2_and_one_line(cache: Path, command: Command, spec: Spec) -> None:
    with lock_for_writing(cache / spec.name):
        for words in (["compact"], ["rm", "--yes"], ["verify", "--repair"]):
            status, out, err = command(*words, spec.name, "--cache", cache)
            assert (status, err.count("\n"), out) == (2, 1, "")
            assert f"process {os.getpid()} on " in err
        assert command("verify", spec.name, "--cache", cache)[0] == 0  # only looks
