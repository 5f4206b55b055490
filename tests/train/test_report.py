"""The page, its figures and its tables, made of runs whose names want to be more than text."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pytest

from framecache.train.comparison import themes
from framecache.train.comparison.compare import Compared, compare_runs
from framecache.train.comparison.plots import plots
from framecache.train.comparison.report import write_report
from framecache.train.comparison.themes import DARK, LIGHT

from .fake_runs import make_old, write_run

EVIL = "<script>alert(1)</script>"
CLASSES = (EVIL, 'a"b\' onload="x', r"$\frac{$", "日本 & {{ 7*7 }}")
VOID = {"meta", "img", "source"}


class Page(HTMLParser):
    """Elements of a page, each with its attributes and the text right within it; fails on tags that do not match."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None], list[str]]] = []
        self._open: list[tuple[str, dict[str, str | None], list[str]]] = []
        self.feed(text)
        assert not self._open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        element = (tag, dict(attrs), list[str]())
        self.elements.append(element)
        if tag not in VOID:
            self._open.append(element)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop()[0] == tag

    def handle_data(self, data: str) -> None:
        if self._open:
            self._open[-1][2].append(data)

    def texts(self, tag: str) -> list[str]:
        return ["".join(text).strip() for name, _, text in self.elements if name == tag]


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory) -> Compared:
    folder = tmp_path_factory.mktemp("runs")
    for seed in range(2):
        shared = {"seed": seed, "classes": CLASSES, "prefix": f"{EVIL}&"}
        write_run(folder / f"{EVIL.replace('/', '')}-{seed}", model=f"a.b:{EVIL}", skill=1.0, **shared)
        write_run(folder / f"good-{seed}", skill=4.0, feature_bytes=1 << 20, **shared)
    make_old(folder / "good-1")
    write_run(folder / "other", classes=[f"class {number}" for number in range(45)], counts={"val": 90, "test": 90})
    (write_run(folder / "hurt") / "run.json").write_text("{")
    return compare_runs([folder], folder)


@pytest.fixture(scope="module")
def out(compared: Compared, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("out")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(themes, "DPI", 40)
        write_report(folder, compared)
    return folder


@pytest.fixture(scope="module")
def text(out: Path) -> str:
    return (out / "report.html").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def page(text: str) -> Page:
    return Page(text)


def test_names_are_text_and_nothing_else(page: Page, text: str) -> None:
    assert len(page.texts("script")) == 1
    assert EVIL not in text
    assert any(EVIL in cell for cell in page.texts("td"))
    for name in CLASSES:
        assert name in page.texts("th")
    allowed = {"class", "scope", "data-key", "tabindex", "role", "aria-label", "open", "alt", "src", "srcset", "media"}
    for tag, attributes, _ in page.elements:
        if tag not in ("html", "meta"):
            assert set(attributes) <= allowed


def test_the_page_may_load_nothing_and_run_only_its_own_script(page: Page, text: str) -> None:
    (policy,) = [attributes["content"] or "" for _, attributes, _ in page.elements if "http-equiv" in attributes]
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert rules["default-src"] == "'none'"
    assert rules["img-src"] == "data:"
    for tag in ("script", "style"):
        (content,) = re.findall(f"<{tag}>(.*?)</{tag}>", text, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert rules[f"{tag}-src"] == f"'sha256-{digest}'"
    for _, attributes, _ in page.elements:
        for name in ("src", "srcset", "href"):
            assert (attributes.get(name) or "data:image/png;").startswith("data:image/png;")
    assert "http://" not in text
    assert "https://" not in text
    assert "url(" not in text


def test_every_figure_is_embedded_for_light_and_dark_and_lies_beside_the_page(page: Page, out: Path) -> None:
    light = [attributes["src"] or "" for tag, attributes, _ in page.elements if tag == "img"]
    dark = [attributes["srcset"] or "" for tag, attributes, _ in page.elements if tag == "source"]
    embedded = {base64.b64decode(source.partition(",")[2]) for source in light}
    files = {path.name for path in out.glob("*.png")}
    assert {"bytes.png", "seconds.png", "curves.png", "classes.png", "bytes-2.png"} <= files
    assert embedded == {path.read_bytes() for path in out.glob("*.png")}
    assert len(dark) == len(light)
    assert not set(dark) & set(light)


def test_figures_are_of_the_pages_own_colours(compared: Compared, tmp_path: Path) -> None:
    import matplotlib.image

    plot = plots(compared.comparisons[0])[0]
    for theme in (LIGHT, DARK):
        plot.save(tmp_path / "x.png", theme)
        pixels = matplotlib.image.imread(tmp_path / "x.png")
        np.testing.assert_allclose(pixels[0, 0, :3], mpl.colors.to_rgb(theme.paper), atol=0.01)


def test_tables_confusions_and_commands_are_there(page: Page, compared: Compared, out: Path) -> None:
    cells = page.texts("td")
    for row in compared.comparisons[0].rows:
        assert row.test is not None
        assert f"{row.test.mean:.3f} ± {row.test.std:.3f}" in cells
    told = json.loads((out / "comparison.json").read_text())
    assert [len(comparison["rows"]) for comparison in told["comparisons"]] == [2, 1]
    assert (out / "comparison.csv").read_text().count("\n") == 4
    assert (out / "comparison.md").read_text().count("\n| ") == 2 * (2 * 2 + 3) + 2
    commands = [result.command for each in compared.comparisons for row in each.rows for result in row.results]
    assert sorted(page.texts("pre")) == sorted(command for command in commands if command)
    assert commands.count(None) == 1
    assert any("did not keep the command" in quiet for quiet in page.texts("div"))
    assert any("not JSON" in reason for reason in page.texts("li"))


def test_confusions_are_summed_over_the_seeds(page: Page, compared: Compared) -> None:
    best = compared.comparisons[0].rows[0]
    confusions = [result.outcomes["test"].confusion() for result in best.results]
    counts = np.sum([confusion for confusion in confusions if confusion is not None], axis=0)
    found = [
        "".join(text)
        for tag, attributes, text in page.elements
        if tag == "td" and re.match(r"h\d|zero", attributes.get("class") or "")
    ]
    size = len(CLASSES) ** 2
    assert found[:size] == [str(count or "·") for count in counts.ravel()]
    assert len(found) == 2 * size  # the 45 classes of the other comparison are told by their most frequent pairs


def test_the_hardest_videos_are_those_wrong_most_often(page: Page, compared: Compared) -> None:
    outcomes = [result.outcomes["test"] for row in compared.comparisons[0].rows for result in row.results]
    wrong = np.sum([outcome.errors() for outcome in outcomes], axis=0)
    told = re.findall(rf"(\d) of {len(outcomes)}", " ".join(page.texts("td")))
    assert [int(number) for number in told] == sorted(wrong.astype(int), reverse=True)[: len(told)]
