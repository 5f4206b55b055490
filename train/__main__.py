"""``framecache-train``: sequence models on cached features."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from framecache.cache.cli import INTERRUPTED, OK, SOME_FAILED, make_app, run
from framecache.cache.errors import InputError
from framecache.train.config import FitConfig
from framecache.train.fidelity import FidelityConfig, compare_fidelity
from framecache.train.fidelity_table import format_markdown, format_table
from framecache.train.fit import fit

app = make_app(
    "framecache-train",
    "Train sequence models on cached features.\n\n"
    "Example: framecache-train fit efficientnet-lite0.gap --manifest videos/manifest.csv\n"
    "Example: framecache-train fit efficientnet-lite0.gap --manifest videos/ --model bilstm --units 128\n"
    "Example: framecache-train fidelity efficientnet-lite0.gap efficientnet-lite0.gap.pca=64 --manifest videos/m.csv\n"
    "Example: framecache-train sweep experiments.toml\n"
    "Example: framecache-train compare --filter units=64 --out comparison",
)
_SHOWN = 5  # of the videos left out
_TOLD = {"map": "mAP", "mae": "MAE", "r2": "R²", "accuracy": "accuracy", "edit": "edit", "macro_f1": "macro F1"}


@app.command(name="fit")
def fit_command(
    feature_set: Annotated[
        str, Parameter(name="set", help="Feature set: its name, with or without fingerprint, or a prefix.")
    ],
    /,
    *,
    config: Annotated[FitConfig | None, Parameter(name="*")] = None,
    json_output: Annotated[bool, Parameter(name="--json", negative="", help="Print run.json.")] = False,
) -> int:
    """Train a model, and the mean-pool baseline beside it."""
    finished = fit(feature_set, config or FitConfig(), progress=True)
    record = finished.record
    if json_output:
        print(json.dumps({"run": str(finished.folder), **record}, indent=2, ensure_ascii=False))
        return OK
    counts = record["num_videos"]
    print(finished.folder)
    for video_id, reason in list(record["left_out"].items())[:_SHOWN]:
        print(f"left out: {video_id}: {reason}")
    if len(record["left_out"]) > _SHOWN:
        print(f"… and {len(record['left_out']) - _SHOWN} more, see run.json")
    for name, metrics in ((record["config"]["model"], record["metrics"]), ("mean baseline", record["baseline"])):
        told = [_told(split, metrics[split], counts[split]) for split in ("val", "test") if metrics[split]]
        print(f"{name:15s} {'; '.join(told)}")
    seconds = record["seconds"]
    print(
        f"{record['epochs']} epochs in {seconds['train']:.1f} s, after {seconds['load'] + seconds['compile']:.1f} s "
        f"of start-up; trained on {counts['train']} videos"
    )
    return OK


@app.command(name="fidelity")
def fidelity_command(
    sets: Annotated[
        tuple[str, ...], Parameter(name="set", help="Feature sets: names, with or without fingerprint, or prefixes.")
    ] = (),
    /,
    *,
    config: Annotated[FidelityConfig | None, Parameter(name="*")] = None,
    markdown: Annotated[bool, Parameter(name="--md", negative="", help="Print the table as Markdown.")] = False,
    json_output: Annotated[bool, Parameter(name="--json", negative="", help="Print fidelity.json.")] = False,
) -> int:
    """Train one model with the same seeds on several feature sets, and compare size, fidelity, accuracy and time."""
    if markdown and json_output:
        raise InputError("--md, --json: expected one of them")
    report = compare_fidelity(sets, config or FidelityConfig(), progress=True)
    if json_output:
        print(json.dumps(report.to_json(), indent=2, ensure_ascii=False))
    elif markdown:
        print(format_markdown(report))
    else:
        print(report.folder)
        print(format_table(report))
    return OK


@app.command(name="sweep")
def sweep_command(
    file: Annotated[Path, Parameter(help="TOML file with what is searched.")],
    /,
    *,
    workers: Annotated[int, Parameter(help="Processes, each with one thread; 0 for one a core, or two a GPU.")] = 0,
    retry_failed: Annotated[bool, Parameter(negative="", help="Train trials again that failed earlier.")] = False,
    json_output: Annotated[bool, Parameter(name="--json", negative="", help="Print all trials as JSON.")] = False,
) -> int:
    """Train many runs, one a core, and rank them on val; the same command goes on after an interrupt or a kill.

    The file has any setting of fit at its top, the feature sets, and the axes that are searched:

        manifest = "videos/manifest.csv"
        sets = ["efficientnet-lite0.gap", "efficientnet-lite0.gmp"]
        seeds = 5                      # 0 to 4; or a list
        pruning = "none"               # or median, halving: trials that fall behind on val end early
        epochs = 100

        [grid]                         # all combinations
        model = ["lstm", "gru"]
        units = [32, 64]

    or, instead of [grid], [random] or [tpe] (values near the best ones so far) with a number of configurations:

        [tpe]
        trials = 40
        model = ["lstm", "gru"]
        units = {low = 32, high = 256, step = 32}
        learning_rate = {log = [1e-4, 1e-2]}
        dropout = {low = 0.0, high = 0.6}

    Each trial is a run in RUNS/NAME (name = …, by default that of the file) and is trained with each seed. The best
    configuration has the best mean of accuracy (mAP, MAE) on val at the epochs that were kept, then the lowest loss;
    its score on test is told once, at the end. Only trials, seeds and values of a grid may be added to the file later.
    """
    from framecache.train.sweep import sweep
    from framecache.train.sweep_table import format_sweep, sweep_json

    try:
        swept = sweep(file, workers, retry_failed, progress=True)
    except KeyboardInterrupt as interrupt:
        print(f"error: {interrupt}", file=sys.stderr)
        return INTERRUPTED
    print(json.dumps(sweep_json(swept), indent=2, ensure_ascii=False) if json_output else format_sweep(swept))
    return SOME_FAILED if swept.count("failed") else OK


@app.command(name="compare")
def compare_command(
    places: Annotated[
        tuple[str, ...],
        Parameter(name="run", help="Runs, and folders in which runs are looked for at any depth; by default --runs."),
    ] = (),
    /,
    *,
    runs: Annotated[Path, Parameter(help="Folder of the runs; they may also be named from here.")] = Path("runs"),
    filters: Annotated[
        tuple[str, ...],
        Parameter(
            name="--filter",
            help="Compare only runs of which all hold: field=value, or field~text for a text within the value, of any "
            "setting, set, seed, task or run: --filter units=64 --filter set~gmp.",
        ),
    ] = (),
    sort: Annotated[str, Parameter(help="Column to sort by: val, test, seconds, bytes, units, …")] = "number",
    group: Annotated[
        bool, Parameter(negative="--no-group", help="Group the runs that differ only in their seed, or show each.")
    ] = True,
    csv_output: Annotated[bool, Parameter(name="--csv", negative="", help="Print the table as CSV.")] = False,
    markdown: Annotated[bool, Parameter(name="--md", negative="", help="Print the table as Markdown.")] = False,
    json_output: Annotated[bool, Parameter(name="--json", negative="", help="Print all of it as JSON.")] = False,
    out: Annotated[
        Path | None,
        Parameter(help="Folder that gets report.html, the figures as PNG, and the tables as CSV, Markdown and JSON."),
    ] = None,
) -> int:
    """Compare finished runs: scores over the seeds, whether their differences mean anything, and costs."""
    from framecache.train.compare import compare_runs

    chosen = [name for name, wanted in (("csv", csv_output), ("md", markdown), ("json", json_output)) if wanted]
    if len(chosen) > 1:
        raise InputError(f"--{', --'.join(chosen)}: expected one of them")
    compared = compare_runs(places, runs, filters, sort, group)
    for reason in compared.unreadable.values():
        print(f"warning: {reason}", file=sys.stderr)
    if out is not None:
        from framecache.train.report import write_report

        write_report(out, compared)
    print(compared.format(chosen[0] if chosen else "table"), end="")
    if out is not None:
        print(f"written: {out / 'report.html'}", file=sys.stderr if chosen else sys.stdout)
    return SOME_FAILED if compared.unreadable else OK


def _told(split: str, metrics: dict[str, Any], count: int) -> str:
    told = [f"{words} {metrics[name]:.3f}" for name, words in _TOLD.items() if name in metrics]
    return f"{split} {', '.join(told)} ({count} videos)"


def main() -> None:
    """The console script."""
    sys.exit(run(app))


if __name__ == "__main__":
    main()
