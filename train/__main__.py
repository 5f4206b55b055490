"""``framecache-train``: sequence models on cached features."""

from __future__ import annotations

import json
import statistics
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from framecache.cache.cli import INTERRUPTED, OK, SOME_FAILED, make_app, run
from framecache.cache.errors import InputError
from framecache.train.config import FitConfig
from framecache.train.fidelity.fidelity import FidelityConfig, compare_fidelity
from framecache.train.fidelity.table import format_markdown, format_table
from framecache.train.fit import fit, fit_folds
from framecache.train.repeat import repeated_set, settings_of_run
from framecache.train.runs import Run
from framecache.train.serving.config import ExportConfig, PredictConfig
from framecache.train.splits.leakage import told_of_run as told_near_duplicates

app = make_app(
    "framecache-train",
    "Train sequence models on cached features.\n\n"
    "Example: framecache-train fit efficientnet-lite0.gap --manifest videos/manifest.csv\n"
    "Example: framecache-train compare runs/ --out comparison\n"
    "Example: framecache-train predict runs/NAME new-videos/ --top-k 3",
)
_SHOWN = 5  # of the videos left out
_TOLD = {"map": "mAP", "mae": "MAE", "r2": "R²", "accuracy": "accuracy", "edit": "edit", "macro_f1": "macro F1"}


app.config = (settings_of_run,)


@app.command(name="fit")
def fit_command(
    feature_set: Annotated[
        str | None, Parameter(name="set", help="Feature set: its name, with or without fingerprint, or a prefix.")
    ] = None,
    /,
    *,
    config: Annotated[FitConfig | None, Parameter(name="*")] = None,
    repeated: Annotated[
        Path | None, Parameter(name="--from", help="Repeat this run, with its feature set and settings.")
    ] = None,
    changes: Annotated[
        tuple[str, ...], Parameter(name="--set", help="field=value: a setting that is to be another.")
    ] = (),
    json_output: Annotated[bool, Parameter(name="--json", negative="", help="Print run.json.")] = False,
) -> int:
    """Train a model, and the mean-pool baseline beside it; the same command goes on after an interrupt or a kill.

    Its numbers are the same each time, to the last bit. With --folds and without --fold, a run of each fold.

    Example: framecache-train fit efficientnet-lite0.gap --manifest videos/manifest.csv
    Example: framecache-train fit efficientnet-lite0.gap --manifest videos/ --model bilstm --folds 5
    Example: framecache-train fit --from runs/efficientnet-lite0.gap-lstm-seed0 --set units=64
    """
    config = config or FitConfig()
    if repeated is not None:
        feature_set = repeated_set(repeated, feature_set, config)
    if feature_set is None:
        raise InputError("fit: expected the name of a feature set, or --from RUN; framecache ls lists what there is")
    is_every_fold = config.folds > 0 and not config.fold
    runs = fit_folds(feature_set, config, True) if is_every_fold else [fit(feature_set, config, progress=True)]
    if json_output:
        records = [{"run": str(finished.folder), **finished.record} for finished in runs]
        print(json.dumps(records if is_every_fold else records[0], indent=2, ensure_ascii=False))
        return OK
    for finished in runs:
        _print_run(finished)
    if is_every_fold:
        print(_told_folds([finished.record for finished in runs]))
    return OK


def _print_run(finished: Run) -> None:
    record = finished.record
    counts = record["num_videos"]
    for line in told_near_duplicates(record):
        print(line, file=sys.stderr)
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
        f"{record['epochs']} epochs in {seconds['train']:.1f} s, the best one was {record['best_epoch']}; "
        f"{seconds['load'] + seconds['compile']:.1f} s of start-up; trained on {counts['train']} videos"
    )


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
    """Train one model with the same seeds on several feature sets, and compare size, fidelity, accuracy and time.

    Example: framecache-train fidelity efficientnet-lite0.gap efficientnet-lite0.gap.pca=64 --manifest videos/m.csv
    """
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
        epochs = 100

        [grid]                         # all combinations
        model = ["lstm", "gru"]
        units = [32, 64]

    Example: framecache-train sweep experiments.toml

    At its top may also stand:

        seeds = 5                      # 0 to 4; or a list
        pruning = "none"               # or median, halving: trials that fall behind on val end early

    Instead of [grid], there may be [random] or [tpe] (values near the best ones so far) with a number of
    configurations:

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
    from framecache.train.sweep.sweep import sweep
    from framecache.train.sweep.table import format_sweep, sweep_json

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
            help="Compare only runs of which all hold: field=value, or field~text. The latter is a text within the "
            "value; fields are all settings, set, seed, task and run.",
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
    """Compare finished runs: scores over the seeds, whether their differences mean anything, and costs.

    Example: framecache-train compare --sort test
    Example: framecache-train compare runs/ --filter units=64 --filter set~gmp --out comparison
    """
    from framecache.train.comparison.compare import compare_runs

    chosen = [name for name, wanted in (("csv", csv_output), ("md", markdown), ("json", json_output)) if wanted]
    if len(chosen) > 1:
        raise InputError(f"--{', --'.join(chosen)}: expected one of them")
    compared = compare_runs(places, runs, filters, sort, group)
    for reason in compared.unreadable.values():
        print(f"warning: {reason}", file=sys.stderr)
    if out is not None:
        from framecache.train.comparison.report import write_report

        write_report(out, compared)
    print(compared.format(chosen[0] if chosen else "table"), end="")
    if out is not None:
        print(f"written: {out / 'report.html'}", file=sys.stderr if chosen else sys.stdout)
    return SOME_FAILED if compared.unreadable else OK


@app.command(name="predict")
def predict_command(
    run_folder: Annotated[Path, Parameter(name="run", help="Folder of the run.")],
    videos: Annotated[
        tuple[str, ...],
        Parameter(
            name="video",
            help="Videos, folders of videos, manifests; - for a path per line on standard input.",
            allow_leading_hyphen=True,
        ),
    ] = (),
    /,
    *,
    config: Annotated[PredictConfig | None, Parameter(name="*")] = None,
    json_output: Annotated[bool, Parameter(name="--json", negative="", help="A line of JSON per video.")] = False,
) -> int:
    """Score videos with a trained run, as CSV; a video that cannot be scored is a row with its reason.

    Features come from the cache where it has them of the same content, else from the videos, by the CNN, the frames
    and the steps that the run's own were made by.

    Example: framecache-train predict runs/lstm videos/ new.mp4 --top-k 3
    Example: find . -name '*.mp4' | framecache-train predict runs/lstm - --windows 2 --timeline figures
    """
    from framecache.train.serving.predict import find_videos, print_answers

    settings = config or PredictConfig()
    found = find_videos(videos, sys.stdin.buffer, settings.root)
    return SOME_FAILED if print_answers(run_folder, found, settings, json_output) else OK


@app.command(name="export")
def export_command(
    run_folder: Annotated[Path, Parameter(name="run", help="Folder of the run.")],
    folder: Annotated[Path, Parameter(help="Folder to write; it must not exist yet.")],
    /,
    *,
    config: Annotated[ExportConfig | None, Parameter(name="*", consume_multiple=True)] = None,
    json_output: Annotated[bool, Parameter(name="--json", negative="", help="Print card.json.")] = False,
) -> int:
    """Write a run as one self-contained model, frames in and scores out: Keras, SavedModel and LiteRT, and a card.

    Frozen CNN, its preprocessing, reductions, derivations and the sequence model are all inside.

    Example: framecache-train export runs/lstm exported
    Example: framecache-train export runs/lstm live --stream --formats litert --size 360x640
    """
    from framecache.train.serving.export import export

    exported = export(run_folder, folder, config)
    if json_output:
        print(json.dumps(exported.card, indent=2, ensure_ascii=False))
        return OK
    print(exported.folder)
    for name, file in exported.card["files"].items():
        told = f"logits within {file['difference']:.1g} of the run's" if file["file"] else f"no: {file['reason']}"
        print(f"{name:11s} {file['file'] or '-':12s} {told}")
    return OK


def _told_folds(records: Sequence[Mapping[str, Any]]) -> str:
    """Mean and standard deviation over the runs of all folds, of the split on which each fold is judged."""
    split = "test" if all(record["metrics"]["test"] for record in records) else "val"
    measure = records[0]["measure"]
    lines = []
    for name, key in ((records[0]["config"]["model"], "metrics"), ("mean baseline", "baseline")):
        values = [record[key][split][measure] for record in records]
        spread = f"{statistics.fmean(values):.3f} ± {statistics.stdev(values):.3f}"
        lines.append(f"{name:15s} {split} {_TOLD.get(measure, measure)} {spread} over {len(values)} folds")
    return "\n".join(lines)


def _told(split: str, metrics: dict[str, Any], count: int) -> str:
    told = [f"{words} {metrics[name]:.3f}" for name, words in _TOLD.items() if name in metrics]
    return f"{split} {', '.join(told)} ({count} videos)"


def main() -> None:
    """The console script."""
    sys.exit(run(app))


if __name__ == "__main__":
    main()
