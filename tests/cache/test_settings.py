"""Settings that are given in Python."""

from __future__ import annotations

from pathlib import Path

from framecache.cache import DeriveConfig, ExportConfig, ImportConfig
from framecache.cache.settings import changed
from framecache.extract import ExtractConfig
from framecache.train import ExportConfig as ModelConfig
from framecache.train import FidelityConfig, FitConfig


def test_paths_may_be_text_and_tuples_lists_or_one_text() -> None:
    fit = FitConfig(manifest="m.csv", cache="c", runs="r")  # type: ignore[arg-type]
    assert (fit.manifest, fit.cache, fit.runs, fit.model) == (Path("m.csv"), Path("c"), Path("r"), "lstm")
    assert FidelityConfig(runs="r").folder == Path("r/fidelity")  # type: ignore[arg-type]
    assert ExtractConfig(reduce="gap+gmp").reduce == ("gap+gmp",)  # type: ignore[arg-type]
    assert ExtractConfig(reduce=["gap", "gmp"], cache="c") == ExtractConfig(reduce=("gap", "gmp"), cache=Path("c"))  # type: ignore[arg-type]
    assert DeriveConfig(dense="runs/a") == DeriveConfig(dense=Path("runs/a"))  # type: ignore[arg-type]
    assert ExportConfig("npy", manifest="m.csv", split="train").split == ("train",)  # type: ignore[arg-type]
    assert ImportConfig("r50", key="rgb").key == ("rgb",)  # type: ignore[arg-type]
    assert ModelConfig(formats="keras", cache="c").formats == ("keras",)  # type: ignore[arg-type]


def test_settings_are_told_by_what_is_not_the_default() -> None:
    assert repr(FitConfig()) == "FitConfig()"
    config = FitConfig(model="gru", units=64, manifest=Path("m.csv"))
    assert repr(config) == "FitConfig(model='gru', units=64, manifest='m.csv')"
    assert eval(repr(config)) == config
    assert repr(FidelityConfig(num_seeds=2)) == "FidelityConfig(num_seeds=2)"
    assert repr(ImportConfig("r50")) == "ImportConfig(name='r50')"
    assert "secret" not in changed(FitConfig(manifest=Path("https://user:secret@host/m.csv")))
