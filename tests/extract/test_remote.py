"""Remote sources: the same features as from a file, each byte transferred once, and no word of a credential."""

from __future__ import annotations

import shutil
import socket
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import fsspec
import pytest

from framecache.cache import InputError, open_cache, sources
from framecache.cache.cli import run
from framecache.cache.fingerprint import digest_source, stat_source
from framecache.cache.folders import read_source
from framecache.cache.ledger import LedgerRow
from framecache.cache.manifest import Video, read_manifest
from framecache.cache.sampling import Sampling
from framecache.cache.sources import Url, as_source
from framecache.extract import ExtractConfig, extract
from framecache.extract.__main__ import app
from framecache.extract.decoder import DecoderPool, _together
from framecache.extract.scaler import Geometry
from framecache.extract.video import Clip
from framecache.train.splits.labels import _refuse_other_contents

from .conftest import shades, write_video


@dataclass
class Site:
    """A server on loopback: what it serves, how it misbehaves, and what it was asked for.

    ``breaks``, ``statuses`` and ``redirects`` are per path: bytes until the connection is cut, a status instead of the
    content, where to go instead. ``breaks_unseen`` are breaks of answers that do not say how long they are.
    """

    folder: Path
    url: str = ""
    has_validators: bool = True
    has_sizes: bool = True
    breaks: dict[str, int] = field(default_factory=dict)
    breaks_unseen: dict[str, int] = field(default_factory=dict)
    statuses: dict[str, int] = field(default_factory=dict)
    redirects: dict[str, str] = field(default_factory=dict)
    gets: list[str] = field(default_factory=list)
    heads: list[str] = field(default_factory=list)
    authorizations: set[str] = field(default_factory=set)


class Handler(BaseHTTPRequestHandler):
    """Serves whole files, knows no ranges."""

    site: Site

    def do_HEAD(self) -> None:
        self.site.heads.append(self.path)
        self._answer(with_content=False)

    def do_GET(self) -> None:
        self.site.gets.append(self.path)
        self._answer(with_content=True)

    def _answer(self, with_content: bool) -> None:
        name = self.path.partition("?")[0].lstrip("/")
        site, file = self.site, self.site.folder / name
        site.authorizations.add(self.headers.get("Authorization", ""))
        if name in site.redirects:
            self.send_response(302)
            self.send_header("Location", site.redirects[name])
            self.end_headers()
            return
        status = site.statuses.get(name, 200 if file.is_file() else 404)
        self.send_response(status)
        content = file.read_bytes() if status == 200 else b""
        if site.has_sizes and not (with_content and name in site.breaks_unseen):
            self.send_header("Content-Length", str(len(content)))
        if site.has_validators and content:
            self.send_header("ETag", f'"{hash(content)}"')
            self.send_header("Last-Modified", formatdate(file.stat().st_mtime, usegmt=True))
        self.end_headers()
        if with_content:
            self.wfile.write(content[: (site.breaks | site.breaks_unseen).get(name, len(content))])
        self.close_connection = True

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def site(clips: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    """The folder of clips, on a server."""
    monkeypatch.setenv("NO_PROXY", "*")
    site = Site(clips)
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("SiteHandler", (Handler,), {"site": site}))
    site.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=[0.01])
    thread.start()
    yield site
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def memory(clips: Path) -> Iterator[str]:
    """The folder of clips in fsspec's memory file system."""
    files = fsspec.filesystem("memory")
    for file in clips.rglob("*.mp4"):
        files.pipe_file(f"/bucket/{file.relative_to(clips)}", file.read_bytes())
    yield "memory://bucket"
    files.rm("/bucket", recursive=True)


@pytest.fixture
def config(tiny_backbone: str, tmp_path: Path) -> ExtractConfig:
    return ExtractConfig(cache=tmp_path / "features", backbone=tiny_backbone, engine="tensorflow", batch_size=4)


NAMES = ("a/one.mp4", "a/two.mp4", "b/three.mp4")


def write_manifest(site: Site, rows: list[str] | None = None, name: str = "manifest.csv") -> str:
    (site.folder / name).write_text("\n".join(["path", *(NAMES if rows is None else rows)]) + "\n")
    return f"{site.url}/{name}"


def test_features_of_urls_are_those_of_the_files_and_a_second_run_transfers_nothing(
    site: Site, memory: str, config: ExtractConfig, tmp_path: Path
) -> None:
    local = replace(config, cache=tmp_path / "local")
    extract(site.folder, local)
    expected = {name: row.feature_digest for name, row in open_cache(local.cache)["build.gap"].ledger().items()}
    sources = {name: row.source_digest for name, row in open_cache(local.cache)["build.gap"].ledger().items()}
    for source, prefix in ((write_manifest(site), site.url), (tmp_path / "list.csv", memory)):
        if isinstance(source, Path):
            source.write_text("path,video_id\n" + "".join(f"{memory}/{name},{name}\n" for name in NAMES))
        remote = replace(config, cache=tmp_path / prefix.partition(":")[0])
        report = extract(source, remote)
        assert (report.computed, report.failed) == (3, {})
        ledger = open_cache(remote.cache)["build.gap"].ledger()
        assert {name: row.feature_digest for name, row in ledger.items()} == expected
        assert {name: row.source_digest for name, row in ledger.items()} == sources
        assert {name: row.source for name, row in ledger.items()} == {name: f"{prefix}/{name}" for name in NAMES}
        site.gets.clear()
        assert extract(source, remote).cached == 3
        assert [path for path in site.gets if path.endswith(".mp4")] == []


def test_each_video_is_transferred_once_however_many_parts_and_passes_it_has(site: Site, config: ExtractConfig) -> None:
    rows = ["path,start,end", "a/two.mp4,0,0.3", "a/one.mp4,,", "a/two.mp4,0.3,0.5", "a/two.mp4,,"]
    (site.folder / "parts.csv").write_text("\n".join(rows) + "\n")
    report = extract(f"{site.url}/parts.csv", replace(config, sample="num=2"))
    assert (report.computed, report.failed) == (4, {})
    assert sorted(site.gets) == ["/a/one.mp4", "/a/two.mp4", "/parts.csv"]


def test_parts_of_one_source_are_decoded_one_after_the_other_so_that_few_files_are_held() -> None:
    paths = [Path("x"), Url("s3://b/1"), Url("s3://b/2"), Path("x"), Url("s3://b/1"), Url("s3://b/2")]
    assert _together([Clip(path, Sampling(), Geometry(16, 16)) for path in paths]) == [0, 1, 4, 2, 5, 3]


def test_a_single_url_is_a_source(site: Site, config: ExtractConfig) -> None:
    assert extract(f"{site.url}/b/three.mp4", config).num_frames == 4
    assert open_cache(config.cache)["build.gap"].video_ids == ("three.mp4",)


def test_a_changed_source_is_computed_again(site: Site, config: ExtractConfig) -> None:
    source = write_manifest(site)
    extract(source, config)
    write_video(site.folder / "a/one.mp4", shades(6)[::-1])
    report = extract(source, config)
    assert (report.computed, report.cached) == (1, 2)
    assert len(open_cache(config.cache)["build.gap"]["a/one.mp4"]) == 6


def test_where_a_server_tells_no_versions_apart_the_content_decides(site: Site, config: ExtractConfig) -> None:
    site.has_validators = False
    source = write_manifest(site)
    extract(source, config)
    assert stat_source(Url(f"{site.url}/a/one.mp4")) == ""
    before = (site.folder / "a/one.mp4").read_bytes()
    assert extract(source, config).cached == 3
    (site.folder / "a/one.mp4").write_bytes(before[:-1] + bytes([before[-1] ^ 1]))
    assert (site.folder / "a/one.mp4").stat().st_size == len(before)
    report = extract(source, config)
    assert (report.computed, report.cached) == (1, 2)


def test_the_same_content_under_two_urls_or_in_a_file_is_stored_once(site: Site, config: ExtractConfig) -> None:
    shutil.copy(site.folder / "a/one.mp4", site.folder / "b/copy.mp4")
    shutil.copy(site.folder / "b/three.mp4", site.folder / "b/here.mp4")
    rows = [f"{site.url}/a/one.mp4", f"{site.url}/b/copy.mp4", f"{site.url}/b/three.mp4", "b/here.mp4"]
    write_manifest(site, rows)
    report = extract(site.folder / "manifest.csv", replace(config, workers=1))
    assert (report.computed, report.duplicates, report.failed) == (2, 2, {})
    features = open_cache(config.cache)["build.gap"]
    assert features.ledger()["b/copy.mp4"].reason == "same content as a/one.mp4"
    assert features.ledger()["b/three.mp4"].reason == "same content as b/here.mp4"
    assert len(features["b/three.mp4"]) == 4
    assert extract(site.folder / "manifest.csv", config).computed == 0


def test_what_cannot_be_transferred_fails_alone_and_is_tried_again(site: Site, config: ExtractConfig) -> None:
    (site.folder / "bad.mp4").write_bytes(b"no video")
    shutil.copy(site.folder / "a/one.mp4", site.folder / "a/half.mp4")
    site.breaks["a/one.mp4"] = 700
    site.breaks_unseen["a/half.mp4"] = 800
    site.statuses["b/three.mp4"] = 503
    source = write_manifest(site, [*NAMES, "a/half.mp4", "gone.mp4", "bad.mp4", "http://127.0.0.1:1/nobody.mp4"])
    report = extract(source, replace(config, keep_partial=True))
    size = (site.folder / "a/one.mp4").stat().st_size
    assert size > 800
    assert report.computed == 1
    assert report.failed.pop("bad.mp4").startswith("cannot be opened")
    assert report.failed == {
        "a/one.mp4": "cannot be read: the transfer broke off",
        "a/half.mp4": f"cannot be read: the transfer broke off: 800 of {size} bytes came",
        "b/three.mp4": "cannot be read: HTTP 503 Service Unavailable",
        "gone.mp4": "cannot be read: HTTP 404 Not Found",
        "nobody.mp4": "cannot be read: Connection refused",
    }
    site.breaks.clear()
    site.breaks_unseen.clear()
    site.statuses.clear()
    shutil.copy(site.folder / "a/two.mp4", site.folder / "gone.mp4")
    site.gets.clear()
    report = extract(source, replace(config, retry_failed=True))
    assert (report.computed, report.duplicates, report.cached) == (2, 2, 1)
    assert report.failed.keys() == {"bad.mp4", "nobody.mp4"}
    assert "/a/two.mp4" not in site.gets


def test_a_server_that_fails_for_a_moment_hides_no_features(site: Site, config: ExtractConfig) -> None:
    source = write_manifest(site)
    extract(source, config)
    (site.folder / "a/one.mp4").touch()
    write_video(site.folder / "a/one.mp4", shades(6)[::-1])
    site.breaks["a/one.mp4"] = 700
    assert extract(source, config).failed.keys() == {"a/one.mp4"}
    assert len(open_cache(config.cache)["build.gap"]["a/one.mp4"]) == 5


@pytest.mark.parametrize("has_sizes", [True, False])
def test_no_more_is_transferred_than_the_limit(site: Site, has_sizes: bool, config: ExtractConfig) -> None:
    site.has_sizes = has_sizes
    report = extract(f"{site.url}/a/two.mp4", replace(config, download_gb=5e-7))
    assert report.failed == {"two.mp4": "cannot be read: more than 5e-07 GB to transfer (--download-gb)"}
    assert site.gets.count("/a/two.mp4") == (0 if has_sizes else 3)  # twice to look for a size


def test_redirects_are_followed_and_never_to_a_file(site: Site, config: ExtractConfig) -> None:
    site.redirects = {"a/moved.mp4": f"{site.url}/a/one.mp4", "a/file.mp4": f"file://{site.folder}/a/one.mp4"}
    report = extract(write_manifest(site, ["a/moved.mp4", "a/file.mp4"]), config)
    assert report.computed == 1
    assert report.failed.keys() == {"a/file.mp4"}


PLAYLIST = "#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n{url}/a/one.mp4\n#EXT-X-ENDLIST\n"


def test_a_playlist_leads_to_no_other_request(site: Site, config: ExtractConfig) -> None:
    (site.folder / "list.mp4").write_text(PLAYLIST.format(url=site.url))
    report = extract(f"{site.url}/list.mp4", config)
    assert "HLS playlist" in report.failed["list.mp4"]
    assert site.gets == ["/list.mp4"]


def test_credentials_reach_the_server_and_nothing_else(
    site: Site, config: ExtractConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    signed = site.url.replace("http://", "http://me:hush@")
    site.breaks["b/three.mp4"] = 10
    rows = [f"{signed}/{name}?signature=hush" for name in (*NAMES, "gone.mp4")]
    write_manifest(site, rows)
    flags = ["--cache", str(config.cache), "--backbone", config.backbone, "--engine", "tensorflow"]
    assert run(app, [f"{signed}/manifest.csv?signature=hush", *flags, "--json"]) == 1
    assert run(app, [f"{signed}/gone.csv?signature=hush", *flags]) == 2
    assert run(app, [f"{signed}/manifest.csv?signature=hush", *flags, "--workers", "2"]) == 1
    assert site.authorizations == {"Basic bWU6aHVzaA=="}
    assert "/a/one.mp4?signature=hush" in site.gets
    told = capsys.readouterr()
    assert "gone.mp4" in told.out
    assert "hush" not in told.out + told.err
    stored = [path for path in config.cache.rglob("*") if path.is_file()]
    assert any(b"/a/one.mp4" in path.read_bytes() for path in stored)
    assert not [path for path in stored if b"hush" in path.read_bytes()]


def test_digests_and_signatures_of_urls(site: Site, memory: str) -> None:
    digest = digest_source(site.folder / "a/one.mp4")
    for url in (Url(f"{site.url}/a/one.mp4"), Url(f"{memory}/a/one.mp4")):
        before = stat_source(url)
        assert digest_source(url) == digest
        assert stat_source(url) == before != ""
    assert stat_source(Url(f"{site.url}/a/one.mp4?signature=1")) == stat_source(Url(f"{site.url}/a/one.mp4"))


def test_an_interrupted_pool_leaves_no_file_and_waits_for_no_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with socket.create_server(("127.0.0.1", 0)) as silent:  # takes connections and never answers
        url = Url(f"http://127.0.0.1:{silent.getsockname()[1]}/a.mp4")
        with DecoderPool([Clip(url, Sampling(), Geometry(16, 16))], 1) as pool:
            assert next(iter(pool)) is None
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("root", "written", "url", "video_id"),
    [
        ("https://u:p@host/data/list.csv?sig=1", "a b/#1.mp4", "https://u:p@host/data/a%20b/%231.mp4", "a b/#1.mp4"),
        ("https://host/data/list.csv", "https://host/data/a%20b.mp4?s=1", "https://host/data/a%20b.mp4?s=1", "a b.mp4"),
        ("https://host/data/list.csv", "s3://bucket/x/a.mp4", "s3://bucket/x/a.mp4", "x/a.mp4"),
        ("s3://bucket/list.csv", "./x/../a%20#.mp4", "s3://bucket/a%20#.mp4", "a%20#.mp4"),
        ("memory://bucket/list.csv", "a.mp4", "memory://bucket/a.mp4", "a.mp4"),
        ("list.csv", "gs://bucket/x/a.mp4", "gs://bucket/x/a.mp4", "x/a.mp4"),
    ],
)
def test_a_row_of_a_manifest_leads_to(
    root: str, written: str, url: str, video_id: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = as_source(root)
    text = f"path,start\n{written},1\n"
    monkeypatch.setattr("framecache.cache.manifest.read_text_url", lambda _: text.encode())
    if isinstance(manifest, Path):
        manifest = tmp_path / manifest
        manifest.write_text(text)
    (video,) = read_manifest(manifest)
    assert (video.path, video.video_id) == (Url(url), f"{video_id}#1-")


@pytest.mark.parametrize("written", ["../a.mp4", "x/../../a.mp4", "/etc/a.mp4", "../data2/a.mp4"])
def test_no_row_leads_outside_the_folder_of_a_remote_manifest(written: str, site: Site) -> None:
    (site.folder / "a/list.csv").write_text(f"path\n{written}\n")
    with pytest.raises(InputError, match=rf"a/list.csv, line 2: path '{written}' leads outside {site.url}/a; "):
        read_manifest(as_source(f"{site.url}/a/list.csv"))


@pytest.mark.parametrize("written", ["file:///etc/passwd", "local://a.mp4", "simplecache::s3://b/a", "ftp://h/a.mp4"])
def test_other_protocols_and_chains_of_them_are_refused(written: str, tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text(f"path\n{written}\n")
    with pytest.raises(InputError, match=r"list.csv, line 2: path .*://…: expected a path, or a URL of one of s3://, "):
        read_manifest(tmp_path / "list.csv")


def test_the_root_of_a_manifest_may_be_a_url_that_was_taken_for_a_path(tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text("path\na.mp4\n")
    (video,) = read_manifest(tmp_path / "list.csv", Path("https://host/data"))
    assert (video.path, video.video_id) == (Url("https://host/data/a.mp4"), "a.mp4")


@pytest.mark.parametrize("source", ["s3://bucket/a.mp4", "list.csv"])
def test_without_the_library_one_error_says_what_to_install(
    source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, config: ExtractConfig
) -> None:
    (tmp_path / "list.csv").write_text("path\ns3://bucket/a.mp4\n")
    monkeypatch.setitem(sys.modules, "fsspec", None)
    sources._filesystem.cache_clear()
    with pytest.raises(
        InputError, match=r"s3:// is read by s3fs, which is not installed; pip install 'framecache\[rem"
    ):
        extract(source if "://" in source else tmp_path / source, config)
    assert not config.cache.exists()


def test_training_asks_no_server_for_the_url_that_features_are_of() -> None:
    url = Url("http://127.0.0.1:1/a.mp4?signature=2")
    row = LedgerRow("a.mp4", "http://127.0.0.1:1/a.mp4", "ok", source_digest="1", source_stat="2")
    _refuse_other_contents([Video("a.mp4", url)], {"a.mp4": row}, "set")


def test_a_folder_behind_a_url_is_refused(site: Site) -> None:
    with pytest.raises(InputError, match="expected the URL of a manifest or of a video"):
        read_source(f"{site.url}/a/")
