"""A sweep of 60 runs from the shell, beside as many processes of Keras's fit; the features are as of a small data set.

100 videos of 12 classes, 32 frames of 1280 numbers each: 56 to train, 10 to choose, 34 to test.
"""

from __future__ import annotations

import itertools
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from measure import Row

from framecache.cache.shard import VideoRow
from framecache.cache.spec import Spec
from framecache.cache.store import Cache
from framecache.cache.writer import ShardWriter

FRAMES, DIMS, CLASSES = 32, 1280, 12
SPLITS = {"train": 56, "val": 10, "test": 34}
MODELS, UNITS, RATES, SEEDS = ("lstm", "gru"), (32, 64), (3e-4, 1e-3, 3e-3), 5
RUNS = len(MODELS) * len(UNITS) * len(RATES) * SEEDS
TARGET_SECONDS, TARGET_RATIO, TARGET_EFFICIENCY = 180.0, 8.0, 0.85  # the first one on two cores


def measure(scratch: Path) -> Iterator[Row]:
    """The rows of this section."""
    _make(scratch)
    path = scratch / "bench.toml"
    places = "".join(f'{key} = "{scratch / name}"\n' for key, name in (("manifest", "manifest.csv"), ("runs", "runs")))
    axes = f"model = {json.dumps(MODELS)}\nunits = {list(UNITS)}\nlearning_rate = {list(RATES)}\n"
    path.write_text(f'sets = ["made.gap"]\ncache = "{scratch}"\nseeds = {SEEDS}\n{places}[grid]\n{axes}')
    begin = time.perf_counter()
    command = [sys.executable, "-m", "framecache.train", "sweep", str(path), "--json"]
    told = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    wall = time.perf_counter() - begin
    peers = [_keras_fit(scratch, model, units) for model, units in itertools.product(MODELS, UNITS)]
    epochs = statistics.fmean(epochs for _, epochs in peers)
    cores = len(os.sched_getaffinity(0))
    yield Row(f"a sweep of {RUNS} runs from the shell: against its target", "s", wall, TARGET_SECONDS, 1)
    name = f"a sweep of {RUNS} runs: against as many processes of Keras's fit"
    ours = statistics.fmean(json.loads(path.read_text())["epochs"] for path in scratch.glob("runs/bench/*/run.json"))
    note = f"scaled from {len(peers)} of them; {ours:.0f} and {epochs:.0f} epochs each"
    scaled = statistics.fmean(seconds for seconds, _ in peers) * RUNS
    yield Row(name, "s", wall, scaled, TARGET_RATIO, note)
    busy = told["seconds"]["training"] / (cores * wall)
    yield Row("share of all cores' time in trainings, start-up counted", "of 1", busy, 1.0, TARGET_EFFICIENCY)


def _make(scratch: Path) -> None:
    """A feature set whose classes differ in what comes first, its manifest, and the same as arrays."""
    rng = np.random.default_rng(0)
    spec = Spec("made", "00" * 32, "late", True, {}, "all", "gap", (DIMS,))
    begins, ends = rng.normal(size=(2, CLASSES, DIMS))
    ramp = np.linspace(0, 1, FRAMES)[:, None]
    lines, arrays = ["path,label,split"], {}
    with ShardWriter(Cache(scratch).create(spec), spec, {}, 1 << 30, 3600) as writer:
        for split, count in SPLITS.items():
            labels = np.arange(count) % CLASSES
            signal = np.stack([(1 - ramp) * begins[label] + ramp * ends[label] for label in labels])
            features = (0.15 * signal + rng.normal(size=signal.shape)).astype(np.float16)
            arrays[f"{split}_x"], arrays[f"{split}_y"] = features, labels
            for number, frames in enumerate(features):
                buffer = writer.open_video()
                buffer.append(frames, np.arange(FRAMES) * 40.0)
                name = f"{split}{number:03d}.mp4"
                digest = f"{len(lines):032x}"
                writer.add(buffer, VideoRow(name, FRAMES, buffer.hexdigest(), name, digest, "", None, FRAMES, ()))
                lines.append(f"{name},class{labels[number]:02d},{split}")
    (scratch / "manifest.csv").write_text("\n".join(lines) + "\n")
    np.savez(scratch / "arrays.npz", **arrays)


def _keras_fit(scratch: Path, model: str, units: int) -> tuple[float, int]:
    """Seconds from the shell, and epochs, of a process that trains one of the models with Keras's fit."""
    program = Path(__file__).parent / "sweeping_peer.py"
    command = [sys.executable, str(program), str(scratch / "arrays.npz"), model, str(units), str(RATES[1])]
    begin = time.perf_counter()
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return time.perf_counter() - begin, int(done.stdout.split()[-1])
