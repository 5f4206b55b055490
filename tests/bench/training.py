"""Training beside its peers: whole steps with optimiser, 32 sequences of 40 frames each.

Ours is the trainer that every run goes through: masks, batches gathered in another order each time, measures. The
peers get batches that are ready made, of full length and without masks.
"""

from __future__ import annotations

import importlib.util
import itertools
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from measure import Row, Work, take_turns, versus

from framecache.cache.shard import VideoRow
from framecache.cache.spec import Spec
from framecache.cache.store import Cache, open_cache
from framecache.cache.writer import ShardWriter
from framecache.extract.backbones import load_backbone
from framecache.train import feed
from framecache.train.config import ClipConfig
from framecache.train.data import CachedSequences
from framecache.train.feed import Feed
from framecache.train.tasks.registry import Classification
from framecache.train.trainer import Trainer

BATCH, STEPS, CLASSES, VIDEOS = 32, 40, 12, 320
SIZES = ((1280, 128), (256, 64), (256, 32))  # dimensions of the features, units of the LSTM
_ROWS = np.arange(VIDEOS)
_TARGETS = _ROWS % CLASSES
_TASK = Classification([str(number) for number in range(CLASSES)])


def measure(scratch: Path) -> Iterator[Row]:
    """The rows of this section."""
    made = {dims: _sequences(scratch, dims) for dims in sorted({dims for dims, _ in SIZES})}
    for dims, units in SIZES:
        yield from _lstm_steps(made[dims], units)
    for kind, make in _OTHERS.items():
        name = f"{kind}, 256 dimensions, 64 units: against Keras, compiled"
        yield versus(name, "sequences/s", ours(made[256], make()), _keras_step(made[256], make()), None)
    yield from _inputs(made[1280])
    yield _one_core_each(scratch)
    yield from _start_up(scratch)
    yield _end_to_end(made[1280])


Make = Callable[[], Any]  # a fresh recurrent layer, or several
_OTHERS: dict[str, Make] = {
    "GRU": lambda: [keras.layers.GRU(64)],
    "bidirectional LSTM": lambda: [keras.layers.Bidirectional(keras.layers.LSTM(64))],
    "two LSTMs": lambda: [keras.layers.LSTM(64, return_sequences=True), keras.layers.LSTM(64)],
}


def _sequences(scratch: Path, dims: int) -> CachedSequences:
    """A feature set of videos of :data:`STEPS` frames, written and opened as every other."""
    rng = np.random.default_rng(0)
    spec = Spec(f"made-{dims}", "00" * 32, "late", True, {}, "all", "gap", (dims,))
    folder = Cache(scratch).create(spec)
    lines = ["path,label,split"]
    with ShardWriter(folder, spec, {}, 1 << 30, 3600) as writer:
        for number in range(VIDEOS):
            buffer = writer.open_video()
            buffer.append(rng.normal(size=(STEPS, dims)).astype(np.float16), np.arange(STEPS) * 40.0)
            name, digest = f"{number:03d}.mp4", f"{number:032x}"
            writer.add(buffer, VideoRow(name, STEPS, buffer.hexdigest(), name, digest, "", None, STEPS, ()))
            lines.append(f"{name},class{number % CLASSES},{'val' if number % 5 == 4 else 'train'}")
    (scratch / "manifest.csv").write_text("\n".join(lines) + "\n")
    return held(scratch, dims)


def held(scratch: Path, dims: int) -> CachedSequences:
    """The feature set of so many dimensions, as sequences."""
    features = open_cache(scratch)[f"made-{dims}.gap"]
    return CachedSequences(features, features.video_ids, ClipConfig(max_len=STEPS))


def _stacked(sequences: CachedSequences, count: int) -> Any:
    """The first so many sequences, which have one length, ``(count, STEPS, dims)`` float32."""
    return np.stack([sequences.take(row) for row in range(count)]).astype(np.float32)


def _model(dims: int, layers: list[Any], masked: bool) -> Any:
    features = keras.Input((None, dims), name="features")
    mask = keras.Input((None,), dtype="bool", name="mask")
    x = features
    for layer in layers:
        x = layer(x, mask=mask) if masked else layer(x)
    inputs = {"features": features, "mask": mask} if masked else features
    return keras.Model(inputs, keras.layers.Dense(CLASSES)(x))


def _lstm_steps(sequences: CachedSequences, units: int) -> Iterator[Row]:
    """The same network and optimiser: ours, PyTorch's, that of Keras compiled by XLA, and by its fit."""
    dims = sequences.features.feature_shape[0]
    contenders: dict[str, Work] = {
        "ours": ours(sequences, [keras.layers.LSTM(units)]),
        "Keras, compiled": _keras_step(sequences, [keras.layers.LSTM(units)]),
        "Keras, its fit": _keras_fit(sequences, [keras.layers.LSTM(units)]),
    }
    if importlib.util.find_spec("torch"):
        contenders["PyTorch"] = _torch_step(sequences, units)
    rates = take_turns(contenders, repeats=7)
    for peer, target in (("PyTorch", 1.3), ("Keras, compiled", 1.8), ("Keras, its fit", 1.8)):
        name = f"LSTM, {dims} dimensions, {units} units: against {peer}"
        note = "" if peer in rates else "skipped: it is not installed"
        yield Row(name, "sequences/s", rates["ours"], rates.get(peer), target, note)


def ours(sequences: CachedSequences, layers: list[Any]) -> Work:
    """Epochs of our trainer."""
    dims = sequences.features.feature_shape[0]
    trainer = Trainer(_model(dims, layers, masked=True), Feed(sequences, _TARGETS, BATCH), _TASK)
    epochs = itertools.count(1)

    def work() -> float:
        trainer.run_epoch(_ROWS, 0, next(epochs))
        return VIDEOS

    return work


def _keras_step(sequences: CachedSequences, layers: list[Any]) -> Work:
    """The loops of Keras in a step compiled by XLA, on one batch held ready."""
    model = _model(sequences.features.feature_shape[0], layers, masked=False)
    features, targets = tf.constant(_stacked(sequences, BATCH)), tf.constant(_TARGETS[:BATCH])
    optimizer = keras.optimizers.Adam()
    optimizer.build(model.trainable_variables)

    @tf.function(jit_compile=True)
    def step() -> Any:
        with tf.GradientTape() as tape:
            logits = model(features, training=True)
            loss = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(targets, logits))
        optimizer.apply(tape.gradient(loss, [variable.value for variable in model.trainable_variables]))
        return loss

    def work() -> float:
        float(step())
        return BATCH

    return work


def _keras_fit(sequences: CachedSequences, layers: list[Any]) -> Work:
    """One epoch of Keras's fit from arrays in memory, jit_compile left at its default."""
    model = _model(sequences.features.feature_shape[0], layers, masked=False)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(), loss, metrics=["accuracy"])
    features = _stacked(sequences, VIDEOS)

    def work() -> float:
        model.fit(features, _TARGETS, batch_size=BATCH, verbose=0)
        return VIDEOS

    return work


def _torch_step(sequences: CachedSequences, units: int) -> Work:
    import torch

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    lstm = torch.nn.LSTM(sequences.features.feature_shape[0], units, batch_first=True)
    head = torch.nn.Linear(units, CLASSES)
    optimizer = torch.optim.Adam([*lstm.parameters(), *head.parameters()])
    features, targets = torch.tensor(_stacked(sequences, BATCH)), torch.tensor(_TARGETS[:BATCH])

    def work() -> float:
        optimizer.zero_grad()
        logits = head(lstm(features)[0][:, -1])
        torch.nn.functional.cross_entropy(logits, targets).backward()
        optimizer.step()
        return BATCH

    return work


def _inputs(sequences: CachedSequences) -> Iterator[Row]:
    """What it costs to gather batches, against a batch held ready, and to read them ahead where they do not fit."""
    gathered, one_batch = ours(sequences, [keras.layers.LSTM(128)]), _one_batch(sequences)
    limit, feed.RESIDENT_BYTES = feed.RESIDENT_BYTES, 0
    streamed = ours(sequences, [keras.layers.LSTM(128)])
    feed.RESIDENT_BYTES = limit
    rates = take_turns({"held": gathered, "ready": one_batch, "streamed": streamed}, repeats=7)
    yield Row(
        "batches gathered by the graph: against one held ready", "sequences/s", rates["held"], rates["ready"], 0.9
    )
    name = "batches read ahead from the memory map: against gathered ones"
    yield Row(name, "sequences/s", rates["streamed"], rates["held"], 0.9)


def _one_batch(sequences: CachedSequences) -> Work:
    """Our trainer on a batch that is always the same and never gathered."""

    class Ready(Feed):
        def take(self, batches: Any, batch: Any) -> Any:
            return self.ready

    model = _model(sequences.features.feature_shape[0], [keras.layers.LSTM(128)], masked=True)
    ready = Ready(sequences, _TARGETS, BATCH)
    ready.ready = Feed.take(ready, ready.evaluation(_ROWS)[0], 0)
    trainer = Trainer(model, ready, _TASK)

    def work() -> float:
        trainer.run_epoch(_ROWS, 0, 1)
        return VIDEOS

    return work


def _one_core_each(scratch: Path) -> Row:
    """Experiments side by side with a core each, against one that has all cores; both warm, sequences in sum."""
    cores = sorted(os.sched_getaffinity(0))
    alone = sum(_in_processes(scratch, [cores]))
    each = sum(_in_processes(scratch, [[core] for core in cores]))
    return Row(
        "one experiment per core: against one on all cores, 256 dimensions, 64 units", "sequences/s", each, alone
    )


def _in_processes(scratch: Path, pinned: list[list[int]]) -> list[float]:
    program = [sys.executable, str(Path(__file__).parent / "training_worker.py"), str(scratch)]
    started = [
        subprocess.Popen([*program, ",".join(map(str, cores))], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        for cores in pinned
    ]
    return [float(process.communicate()[0]) for process in started]


def _start_up(scratch: Path) -> Iterator[Row]:
    """From the shell to the end of the first epoch, beside what it cannot be without: importing TensorFlow."""
    imported = _seconds([sys.executable, "-c", "import keras, tensorflow"])
    program = [
        sys.executable,
        "-m",
        "framecache.train",
        "fit",
        "made-256.gap",
        "--cache",
        str(scratch),
        "--epochs",
        "1",
    ]
    program += [
        "--manifest",
        str(scratch / "manifest.csv"),
        "--runs",
        str(scratch / "runs"),
        "--name",
        "first",
        "--json",
    ]
    begin = time.perf_counter()
    record = json.loads(subprocess.run(program, check=True, capture_output=True, text=True).stdout)
    whole = time.perf_counter() - begin
    told = ", ".join(f"{part} {seconds:.1f} s" for part, seconds in record["seconds"].items())
    name = "a run of one epoch, from the shell: against importing TensorFlow"
    yield Row(name, "s", whole, imported, None, f"of it {told}")


def _seconds(program: list[str]) -> float:
    begin = time.perf_counter()
    subprocess.run(program, check=True, capture_output=True)
    return time.perf_counter() - begin


def _end_to_end(sequences: CachedSequences) -> Row:
    """An epoch from the cache, against one with the frozen CNN inside the model; that one's decoding not counted."""
    backbone = load_backbone("efficientnet-lite0")
    tap = backbone.graph.outputs[backbone.default_tap]
    network = keras.Model(backbone.graph.frames, keras.layers.GlobalAveragePooling2D()(tap))
    height, width = backbone.geometry.height, backbone.geometry.width
    frames = tf.constant(np.random.default_rng(0).integers(0, 256, (STEPS, height, width, 3), np.uint8))
    head = _model(1280, [keras.layers.LSTM(128)], masked=False)
    optimizer = keras.optimizers.Adam()
    optimizer.build(head.trainable_variables)

    @tf.function
    def step() -> Any:
        with tf.GradientTape() as tape:
            features = network(backbone.normalise(tf.cast(frames, tf.float32)), training=False)
            loss = tf.reduce_mean(tf.square(head(tf.stop_gradient(features)[None], training=True)))
        optimizer.apply(tape.gradient(loss, [variable.value for variable in head.trainable_variables]))
        return loss

    def work() -> float:
        float(step())
        return 1

    name = "an epoch from the cache: against the same with the CNN in the model"
    return versus(name, "sequences/s", ours(sequences, [keras.layers.LSTM(128)]), work, 100, repeats=3)
