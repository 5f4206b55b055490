"""A warm process of a sweep, ``python -m framecache.train.sweep.worker FD``: it trains one trial after the other.

Features, labels and traced graphs stay between trials. Messages are JSON objects. The first one says which place of the
machine this process has; each other one is a ``job``:

baseline
    Answered by ``done`` with the logits of the mean-pool baseline.
trial
    Answered by ``epoch`` (if measures are asked for; then by ``go on`` or ``prune``), by ``trained`` (then by
    the baseline's logits) and at last by ``done`` with how it ended.
figures
    Answered by ``done``, once those of a finished run are drawn.
"""

from __future__ import annotations

import base64
import csv
import io
import json
import os
import shutil
import time
from collections.abc import Mapping
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

from framecache.cache.child import connect
from framecache.cache.quiet import quiet_stderr
from framecache.train.config import FitConfig
from framecache.train.experiment import Experiment, Scored, Trained
from framecache.train.fit import write_run
from framecache.train.predictions import PREDICTIONS_FILE, read_predictions
from framecache.train.runs import open_run
from framecache.train.sweep.folder import remove_unfinished
from framecache.train.sweep.pool import Pool
from framecache.train.sweep.search import typed
from framecache.train.sweep.trials import FAILED, FINISHED, PRUNED


class _PrunedError(Exception):
    """The trial is to end here."""


def main() -> None:
    """Does jobs until the parent hangs up."""
    with connect() as connection:
        try:
            _serve(connection)
        except (EOFError, BrokenPipeError, ConnectionResetError):
            return


def _serve(connection: Connection) -> None:
    place = json.loads(connection.recv_bytes())
    _settle_down(place)
    from framecache.train.feed import RESIDENT_BYTES

    pool = Pool(RESIDENT_BYTES // place["num_workers"])
    jobs = {"baseline": _baseline, "trial": _trial, "figures": _figures}
    while True:
        job = json.loads(connection.recv_bytes())
        begin = time.perf_counter()
        try:
            told = jobs[job["job"]](connection, pool, job)
        except (EOFError, BrokenPipeError, ConnectionResetError):
            raise
        except Exception as error:  # whatever a user's model or a full disk may raise
            told = {"state": FAILED, "reason": _reason(error)}
        _send(connection, {"event": "done", "busy": time.perf_counter() - begin, **told})


def _settle_down(place: Mapping[str, Any]) -> None:
    """Takes a core of its own, or a share of a GPU, before TensorFlow looks around."""
    if place["gpu"] is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = place["gpu"]
    elif place["core"] is not None:
        os.sched_setaffinity(0, [place["core"]])
    with quiet_stderr():
        import keras  # noqa: F401
        import tensorflow as tf
    if place["gpu"] is None:
        tf.config.threading.set_intra_op_parallelism_threads(1)
        tf.config.threading.set_inter_op_parallelism_threads(1)
    for device in tf.config.list_physical_devices("GPU"):
        tf.config.experimental.set_memory_growth(device, True)


def _baseline(connection: Connection, pool: Pool, job: Mapping[str, Any]) -> dict[str, Any]:
    config = _config_of(job)
    baseline = pool.open(job["set"], config).baseline(config)
    return {"logits": _packed(baseline.logits), "seconds": baseline.seconds}


def _trial(connection: Connection, pool: Pool, job: Mapping[str, Any]) -> dict[str, Any]:
    begin = time.perf_counter()
    config = _config_of(job)
    experiment = pool.open(job["set"], config)
    config = experiment.settle(config)
    task = experiment.task
    near = experiment.near_duplicates(config.near_duplicate)
    measures: dict[int, float] = {}
    loaded = time.perf_counter() - begin

    def on_epoch(epoch: int, found: Mapping[str, float]) -> None:
        if not job["report_every"] or epoch % job["report_every"]:
            return
        measures[epoch] = found[f"val_{task.measure}"]
        _send(connection, {"event": "epoch", "epoch": epoch, "value": measures[epoch]})
        if json.loads(connection.recv_bytes())["prune"]:
            raise _PrunedError

    folder = config.runs / str(config.name)
    remove_unfinished(folder)
    folder.mkdir(parents=True)
    try:
        trained = experiment.train(config, folder, on_epoch=on_epoch)
        waiting = time.perf_counter()
        _send(connection, {"event": "trained"})
        told = json.loads(connection.recv_bytes())
        waited = time.perf_counter() - waiting
        if told["reason"]:
            raise RuntimeError(f"the mean-pool baseline could not be trained: {told['reason']}")
        baseline = Scored(_unpacked(told["logits"]), told["seconds"])
        seconds = {"load": loaded, "compile": trained.history.compile_seconds}
        run = write_run(folder, experiment, config, trained, baseline, seconds, near, figures=False)
    except _PrunedError:
        shutil.rmtree(folder, ignore_errors=True)
        return {"state": PRUNED, "value": measures[max(measures)], "measures": measures}
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)  # half a run would only be in the way of the next
        raise
    metrics = run.record["metrics"]["val"]
    scores = {"value": metrics[task.measure], "val_loss": metrics["loss"]}
    return {"state": FINISHED, **scores, "seconds": trained.seconds, "waited": waited, "measures": measures}


def _figures(connection: Connection, pool: Pool, job: Mapping[str, Any]) -> dict[str, Any]:
    from framecache.train.outputs import write_figures

    config = _config_of(job)
    folder = config.runs / str(config.name)
    write_figures(folder, pool.open(job["set"], config), _trained_of(folder, pool.open(job["set"], config)))
    return {"state": FINISHED}


def _trained_of(folder: Path, experiment: Experiment) -> Trained:
    """What a run's files tell of its training; its model is not loaded."""
    from framecache.train.trainer import History

    predictions = read_predictions(folder / PREDICTIONS_FILE)
    lengths = 1 if predictions.lengths is None else predictions.lengths
    splits = np.repeat(predictions.split, lengths)
    logits = {split: predictions.logits[splits == split] for split, rows in experiment.rows.items() if len(rows)}
    with (folder / "history.csv").open(newline="", encoding="utf-8") as stream:
        epochs = list(csv.DictReader(stream))
    measures = {name: [float(row[name]) for row in epochs] for name in epochs[0] if name != "epoch"}
    return Trained(logits, 0.0, None, History(measures, open_run(folder).record["best_epoch"], ()))


def _config_of(job: Mapping[str, Any]) -> FitConfig:
    return FitConfig(**{name: typed(name, value) for name, value in job["config"].items() if value is not None})


def _reason(error: Exception) -> str:
    known = str(error) or type(error).__name__
    return known if isinstance(error, ValueError) else f"{type(error).__name__}: {known}"


def _packed(logits: Mapping[str, Any]) -> str:
    """Arrays as text, without pickle."""
    stream = io.BytesIO()
    np.savez(stream, **logits)
    return base64.b64encode(stream.getvalue()).decode()


def _unpacked(text: str) -> dict[str, Any]:
    with np.load(io.BytesIO(base64.b64decode(text)), allow_pickle=False) as arrays:
        return dict(arrays)


def _send(connection: Connection, message: Mapping[str, Any]) -> None:
    connection.send_bytes(json.dumps(message).encode())


if __name__ == "__main__":
    main()
