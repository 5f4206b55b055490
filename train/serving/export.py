"""Exporting: a run as files that need neither the cache nor framecache, checked before anybody gets to see them."""

from __future__ import annotations

import importlib.metadata
import json
import secrets
import shutil
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from framecache.cache.durable import PARTIAL_SUFFIX
from framecache.cache.errors import FramecacheError, InputError
from framecache.cache.quiet import quiet_stderr
from framecache.cache.shown import Shown
from framecache.train.clips import evaluation_sequences
from framecache.train.lineage import read_lineage
from framecache.train.runs import Run, open_run
from framecache.train.serving.config import FORMATS, ExportConfig
from framecache.train.serving.model_card import format_card
from framecache.train.serving.scorer import Scorer
from framecache.train.tables import NONE

if TYPE_CHECKING:
    from framecache.train.serving.exported import FrameFeatures

CARD_FILE = "card.json"
FILES = {"keras": "model.keras", "savedmodel": "saved_model", "litert": "model.tflite"}
_PACKAGES = ("framecache", "tensorflow", "keras", "numpy", "ai-edge-litert")
_PROBE_FRAMES = 40  # at most; with more than a sequence's it is seen that the right ones are chosen

Arrays = dict[str, NDArray[Any]]
Form = Callable[[Arrays], Arrays]  # an exported model, whatever runs it


@dataclass(frozen=True, repr=False)
class Exported(Shown):
    """What was written.

    Attributes:
        folder: Where.
        card: Content of ``card.json``.
    """

    folder: Path
    card: Mapping[str, Any]

    def _line(self) -> str:
        return f"{self.folder}: {self.card['run']} as {', '.join(self._written())}"

    def _written(self) -> list[str]:
        return [name for name, file in self.card["files"].items() if file["file"]]

    def _html(self) -> str:
        from framecache.cache import html

        rows = [
            (name, file["file"] or NONE, f"{file['difference']:.1g}" if file["file"] else file["reason"])
            for name, file in self.card["files"].items()
        ]
        table = html.table(("format", "file", "logits differ from the run's by"), rows, (True, True, True))
        told = [
            ("takes", "a frame at a time" if self.card["kind"] == "stream" else "videos"),
            ("tolerance", f"{self.card['tolerance']:.2g}, of logits"),
            ("folder", self.folder),
        ]
        return html.card(f"exported run {self.card['run']}", table, html.facts(told))


def export(run: str | Path, folder: str | Path, config: ExportConfig | None = None) -> Exported:
    """Writes a run as one self-contained model in several formats, with a model card beside it.

    Args:
        run: The run's folder.
        folder: Where to; it must not exist yet.
        config: Settings; the defaults if None.

    Raises:
        InputError: The run cannot be used or cannot be exported so, or the folder exists; nothing was written.
        FramecacheError: An exported file gives other scores than the run; nothing was written.
    """
    config, folder = config or ExportConfig(), Path(folder)
    opened = open_run(run)
    scorer = Scorer(opened)
    if config.stream:
        _require_stream(opened)
    if folder.exists():
        raise InputError(f"{folder}: exists already; expected a folder to be made")
    lineage = read_lineage(opened, config.cache)
    from framecache.train.serving.exported import FrameFeatures

    features = FrameFeatures(lineage, config)
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = folder.parent / f".{folder.name}.{secrets.token_hex(4)}{PARTIAL_SUFFIX}"
    partial.mkdir()
    try:
        card = _write(partial, opened, scorer, features, config)
        (partial / CARD_FILE).write_text(json.dumps(card, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        (partial / "README.md").write_text(format_card(card), encoding="utf-8")
        partial.rename(folder)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    return Exported(folder, card)


def _require_stream(run: Run) -> None:
    from framecache.train.serving.streaming import require_stream

    require_stream(run.config().model)


def _write(folder: Path, run: Run, scorer: Scorer, features: FrameFeatures, config: ExportConfig) -> dict[str, Any]:
    """Writes the wanted formats, each checked; gives the model card."""
    from framecache.train.serving.exported import build_exported
    from framecache.train.serving.streaming import build_stream

    build = build_stream if config.stream else build_exported
    model = build(features, scorer)
    probe = _probe(scorer, features.size, config.stream)
    states = [tensor for tensor in model.inputs if tensor.name != "frame"]
    expected, tolerance = _expected(probe, features, scorer, config.stream)
    files: dict[str, Any] = {}
    for name in [name for name in FORMATS if name in (config.formats or FORMATS)]:
        path = folder / FILES[name]
        try:
            form = _WRITERS[name](path, model, lambda: build(features, scorer, 1))
        except Exception as error:  # the converter raises many kinds for what it does not know
            reason = str(error).strip().partition("\n")[0][:200]
            if name != "litert" or name in config.formats:
                raise InputError(f"--formats {name}: {run.folder} cannot be written so ({reason})") from error
            files[name] = {"file": None, "reason": reason}
            continue
        difference = float(np.abs(_run(form, probe, config.stream, states) - expected).max())
        if not difference <= tolerance:
            raise FramecacheError(
                f"{name}: the exported model differs by {difference:.2g} in its logits, expected at most "
                f"{tolerance:.2g}; please report it"
            )
        files[name] = {"file": FILES[name], "difference": difference}
    spec, geometry = features.lineage.spec, features.backbone.geometry
    return {
        "run": run.folder.name,
        "kind": "stream" if config.stream else "videos",
        "task": scorer.task,
        "classes": list(scorer.classes),
        "inputs": {tensor.name: _described(tensor) for tensor in model.inputs},
        "outputs": {name: _described(tensor) for name, tensor in model.output.items()},
        "frames": {
            "height": features.size[0],
            "width": features.size[1],
            "sampling": features.sampling,
            "resized_inside": features.size != (geometry.height, geometry.width),
        },
        "clip": {name: getattr(scorer.clips, name) for name in ("clip", "max_len", "stride")},
        "files": files,
        "tolerance": tolerance,
        "metrics": run.record.get("metrics"),
        "baseline": run.record.get("baseline"),
        "num_videos": run.record.get("num_videos"),
        "feature_set": run.record.get("feature_set"),
        "spec": spec.to_dict(),
        "command": run.record.get("command"),
        "versions": {name: importlib.metadata.version(name) for name in _PACKAGES},
        "trained_with": run.record.get("versions"),
    }


def _described(tensor: Any) -> dict[str, Any]:
    return {"shape": list(tensor.shape), "dtype": str(tensor.dtype)}


def _probe(scorer: Scorer, size: tuple[int, int], stream: bool) -> NDArray[np.uint8]:
    """A video that exported models are tried on, ``(1, T, H, W, 3)``: slopes of colour that move, and noise."""
    max_len = scorer.clips.max_len
    num_frames = 4 if stream else min(max_len + 3 if max_len else 8, _PROBE_FRAMES)
    height, width = size
    rng = np.random.RandomState(0)
    slope = np.linspace(0, 255, width)[None, :, None] + np.linspace(0, 128, num_frames)[:, None, None]
    frames = np.broadcast_to((slope % 256)[:, None, :, :], (num_frames, height, width, 3)).copy()
    frames += rng.randint(-20, 20, frames.shape)
    found: NDArray[np.uint8] = np.clip(frames, 0, 255).astype(np.uint8)[None]
    return found


def _expected(
    probe: NDArray[np.uint8], features: FrameFeatures, scorer: Scorer, stream: bool
) -> tuple[NDArray[np.float32], float]:
    """The run's logits for the probe, its CNN run as in extraction; and how far those of others may lie from them."""
    from framecache.train.serving.tolerance import feature_deviations, logit_tolerance

    rows, deviations = feature_deviations(features.lineage, features.computed(probe[0]))
    if stream:
        sequences = [np.arange(len(rows))]
        logits = scorer.model({"features": rows[None], "mask": np.ones((1, len(rows)), np.bool_)}).numpy()[0]
        logits = logits[-1] if scorer.per_frame else logits
    else:
        sequences = evaluation_sequences(len(rows), scorer.clips, scorer.per_frame)
        (logits,) = scorer.logits([rows])
    return logits, max(logit_tolerance(scorer.model, rows[at], deviations[at]) for at in sequences)


def _run(form: Form, probe: NDArray[np.uint8], stream: bool, states: Sequence[Any]) -> NDArray[np.float32]:
    """Logits of an exported model for the probe, of its last frame if it takes one at a time."""
    if not stream:
        whole: NDArray[np.float32] = form({"frames": probe, "lengths": np.array([probe.shape[1]], np.int32)})["logits"]
        first: NDArray[np.float32] = whole[0]
        return first
    before = {tensor.name: np.zeros((1, tensor.shape[1]), np.float32) for tensor in states}
    found: Arrays = {}
    for frame in probe[0]:
        found = form({"frame": frame[None], **before})
        before = {name: found[f"next_{name}"] for name in before}
    last: NDArray[np.float32] = found["logits"][0]
    return last


def _write_keras(path: Path, model: Any, build_one: Callable[[], Any]) -> Form:
    import keras

    model.save(path)
    loaded = keras.saving.load_model(path, safe_mode=True)
    return lambda inputs: {name: value.numpy() for name, value in loaded(inputs).items()}


def _write_saved_model(path: Path, model: Any, build_one: Callable[[], Any]) -> Form:
    import tensorflow as tf

    with quiet_stderr(), redirect_stdout(sys.stderr):
        model.export(path, format="tf_saved_model", verbose=False)
    loaded = tf.saved_model.load(path)
    signature = loaded.signatures["serving_default"]

    def run(inputs: Arrays) -> Arrays:
        found = signature(**{name: tf.constant(value) for name, value in inputs.items()})
        return {name: value.numpy() for name, value in found.items()}

    run.loaded = loaded  # type: ignore[attr-defined]  # a signature does not keep its model alive
    return run


def _write_litert(path: Path, model: Any, build_one: Callable[[], Any]) -> Form:
    """For one video at a time: with a fixed batch, the time loop converts to plain operations of any length."""
    import tensorflow as tf
    from ai_edge_litert.interpreter import Interpreter

    one = build_one()
    module = tf.Module()
    module.model_weights = [variable.value for variable in one.variables]  # saving needs to see them
    names = [tensor.name for tensor in one.inputs]
    specs = [tf.TensorSpec(tensor.shape, tensor.dtype, name=tensor.name) for tensor in one.inputs]
    module.run = tf.function(
        lambda *values: one(dict(zip(names, values, strict=True)), training=False), input_signature=specs
    )
    with tempfile.TemporaryDirectory() as folder, quiet_stderr():
        tf.saved_model.save(module, folder, signatures=module.run.get_concrete_function())
        path.write_bytes(tf.lite.TFLiteConverter.from_saved_model(folder).convert())
    with quiet_stderr():
        interpreter = Interpreter(model_path=str(path))
        interpreter.allocate_tensors()
        runner = interpreter.get_signature_runner()

    def run(inputs: Arrays) -> Arrays:
        found: Arrays = runner(**inputs)
        return found

    run.interpreter = interpreter  # type: ignore[attr-defined]  # a runner does not keep it alive
    return run


_WRITERS: dict[str, Callable[[Path, Any, Callable[[], Any]], Form]] = {
    "keras": _write_keras,
    "savedmodel": _write_saved_model,
    "litert": _write_litert,
}
