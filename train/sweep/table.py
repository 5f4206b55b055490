"""How a sweep is told at its end: the best configurations as a table, how its trials ended, where to go on."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from framecache.train.sweep.search import shown
from framecache.train.sweep.sweep import Swept
from framecache.train.sweep.trials import FAILED, FINISHED, PRUNED
from framecache.train.tables import Heading, decimal, mean_and_deviation, terminal_table

_SHOWN = 8  # configurations, and failures


def format_sweep(swept: Swept) -> str:
    """The table and what there is to say of it, for a terminal."""
    failed = [f"failed: {trial.name}: {trial.reason}" for trial in swept.trials if trial.state == FAILED]
    more = [f"… and {len(failed) - _SHOWN} more failed, see --json"] if len(failed) > _SHOWN else []
    lines = [
        terminal_table(_title(swept), _headings(swept), _rows(swept), [told_best(swept)])
        if swept.best
        else told_best(swept),
        *swept.warnings,
        *failed[:_SHOWN],
        *more,
        _told_trials(swept),
        f"compare them, with intervals and tests: framecache-train compare {swept.folder}",
    ]
    return "\n".join(lines)


def html_sweep(swept: Swept) -> str:
    """The same for a notebook."""
    from framecache.cache.html import card, notes, reasons, table

    failed = {trial.name: trial.reason for trial in swept.trials if trial.state == FAILED}
    headings = _headings(swept)
    return card(
        _title(swept),
        table([heading.text for heading in headings], _rows(swept), [heading.is_name for heading in headings]),
        reasons("failed", failed),
        notes([told_best(swept), *swept.warnings, _told_trials(swept)]),
    )


def _headings(swept: Swept) -> list[Heading]:
    return [
        Heading("#"),
        Heading("configuration", is_name=True),
        Heading("trials"),
        Heading(f"val\n{swept.measure}"),
        Heading("val\nloss"),
        Heading("seconds"),
    ]


def _rows(swept: Swept) -> list[list[str]]:
    return [
        [
            str(place),
            shown(found.values, 4) or "(one)",
            str(len(found.trials)),
            mean_and_deviation(found.value, _deviation([trial.value or 0.0 for trial in found.trials])),
            decimal(found.val_loss, 3),
            decimal(statistics.fmean(trial.seconds for trial in found.trials), 1),
        ]
        for place, found in enumerate(swept.ranking[:_SHOWN], start=1)
    ]


def _title(swept: Swept) -> str:
    few = len(swept.ranking) > _SHOWN
    told = f"best {_SHOWN} of {len(swept.ranking)} configurations" if few else f"{len(swept.ranking)} configurations"
    return f"{swept.folder}: {told}, chosen on val by the mean over their trials"


def told_best(swept: Swept) -> str:
    """The best trial and its scores."""
    best, score = swept.best, (swept.test or {}).get(swept.measure)
    if best is None:
        return "no trial was finished"
    told_test = "no test videos" if score is None else f"test {swept.measure} {score:.3f}, told of this trial only"
    return f"best trial of the best configuration: {best.name}: val {swept.measure} {best.value:.3f}; {told_test}"


def _told_trials(swept: Swept) -> str:
    counts = ", ".join(f"{swept.count(state)} {state}" for state in (FINISHED, PRUNED, FAILED))
    return (
        f"{len(swept.trials)} trials: {counts}; {swept.seconds['wall']:.1f} s with {swept.workers} workers, "
        f"{swept.efficiency:.0%} of them in trainings"
    )


def sweep_json(swept: Swept) -> dict[str, Any]:
    """The same, with all trials, as plain JSON."""
    best = swept.best
    return {
        "sweep": str(swept.folder),
        "measure": swept.measure,
        "best": None if best is None else {**_told(best), "run": str(swept.folder / best.name), "test": swept.test},
        "configurations": [
            {
                "values": dict(found.values),
                "trials": [trial.name for trial in found.trials],
                "val": found.value,
                "val_loss": found.val_loss,
            }
            for found in swept.ranking
        ],
        "trials": [_told(trial) for trial in swept.trials],
        **{state: swept.count(state) for state in (FINISHED, PRUNED, FAILED)},
        "workers": swept.workers,
        "seconds": {name: round(value, 3) for name, value in swept.seconds.items()},
        "efficiency": round(swept.efficiency, 4),
        "warnings": list(swept.warnings),
    }


def _told(trial: Any) -> dict[str, Any]:
    return {key: value for key, value in asdict(trial).items() if key != "measures"}


def _deviation(values: Sequence[float]) -> float | None:
    return statistics.stdev(values) if len(values) > 1 else None
