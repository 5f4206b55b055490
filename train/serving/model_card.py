"""The model card of an export, for people: what goes in, what comes out, how good it is, where it came from."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

_PYTHON = {
    "videos": """import tensorflow as tf

model = tf.saved_model.load("saved_model").signatures["serving_default"]
# frames (B, T, {height}, {width}, 3) uint8, lengths (B,) int32
scores = model(frames=frames, lengths=lengths)["scores"]
""",
    "stream": """import tensorflow as tf

model = tf.saved_model.load("saved_model").signatures["serving_default"]
state = {{{zeros}}}
for frame in frames:  # (1, {height}, {width}, 3) uint8 each
    found = model(frame=frame, **state)
    state = {{name: found["next_" + name] for name in state}}
    print(found["scores"])
""",
}


def format_card(card: Mapping[str, Any]) -> str:
    """The content of ``card.json`` as Markdown."""
    frames, spec = card["frames"], card["spec"]
    lines = [f"# {card['run']}", "", _what(card), "", "## Use", "", "```python", *_code(card), "```", ""]
    lines += [
        f"Frames are RGB, upright, {frames['height']} × {frames['width']} pixels, "
        + (
            "and scaled inside to the size of the CNN (antialiased; the decoder of framecache-extract computes "
            "slightly other pixels, by 0.3 of 255 on average)."
            if frames["resized_inside"]
            else f"cropped and scaled as the CNN wants it: {_geometry(spec['preprocessing'])}."
        ),
        f"Of a video, {_sampled(frames['sampling'])}; {_chosen(card)}",
        "",
    ]
    lines += _table(("input", "shape", "dtype"), _tensors(card["inputs"]))
    lines += _table(("output", "shape", "dtype"), _tensors(card["outputs"]))
    lines += ["## Files", ""]
    lines += _table(
        ("format", "file", "logits differ from the run's by"), [_file(*item) for item in card["files"].items()]
    )
    lines += [
        f"On a probe video; expected is at most {card['tolerance']:.2g}: what one step of the stored dtype "
        f"({spec['dtype']}) of each feature may do to a logit.",
        "",
    ]
    lines += ["## How good it is", "", *_metrics(card)]
    if card["classes"]:
        lines += ["## Classes", "", ", ".join(f"`{name}`" for name in card["classes"]), ""]
    lines += ["## Where it came from", ""]
    lines += ["```", str(card["command"] or "(not known)"), "```", "", f"Features: `{card['feature_set']}`", ""]
    lines += ["```json", json.dumps(spec, indent=2, ensure_ascii=False), "```", ""]
    versions = ", ".join(f"{name} {version}" for name, version in card["versions"].items())
    return "\n".join([*lines, f"Exported with {versions}.", ""])


def _what(card: Mapping[str, Any]) -> str:
    takes = "one frame at a time, with its state" if card["kind"] == "stream" else "the frames of whole videos"
    return (
        f"A frozen {card['spec']['backbone']} and a sequence model ({card['task']}) in one: it takes {takes} and gives "
        "scores. Nothing else is needed; trained with framecache."
    )


def _code(card: Mapping[str, Any]) -> list[str]:
    zeros = ", ".join(
        f'"{name}": tf.zeros((1, {tensor["shape"][1]}))'
        for name, tensor in card["inputs"].items()
        if tensor["dtype"] == "float32"  # states
    )
    frames = card["frames"]
    return _PYTHON[card["kind"]].format(height=frames["height"], width=frames["width"], zeros=zeros).splitlines()


def _geometry(preprocessing: Mapping[str, Any]) -> str:
    fit = preprocessing.get("fit")
    part = (
        f"the central square, {preprocessing.get('crop_fraction'):g} of the shorter side," if fit == "crop" else "all"
    )
    return f"{part} of the picture, {preprocessing.get('interpolation')} (swscale)"


def _sampled(sampling: str) -> str:
    return "all frames are meant" if sampling == "all" else f"frames sampled by `{sampling}` are meant"


def _chosen(card: Mapping[str, Any]) -> str:
    clip, max_len = card["clip"]["clip"], card["clip"]["max_len"]
    if not max_len:
        return "each counts."
    if card["kind"] == "stream":
        return (
            f"the run was trained on sequences of at most {max_len} ({clip}); begin again with a state of zeros now "
            "and then."
        )
    how = {"spread": "so many evenly spread", "crop": "so many in the middle", "windows": "stretches, averaged,"}[clip]
    return f"of one with more than {max_len}, {how} are taken inside."


def _tensors(tensors: Mapping[str, Any]) -> list[tuple[str, ...]]:
    return [
        (f"`{name}`", " × ".join("any" if size is None else str(size) for size in tensor["shape"]), tensor["dtype"])
        for name, tensor in tensors.items()
    ]


def _file(name: str, file: Mapping[str, Any]) -> tuple[str, ...]:
    if file["file"] is None:
        return name, "not written", f"does not convert: {file['reason']}"
    return name, f"`{file['file']}`", f"{file['difference']:.2g}"


def _metrics(card: Mapping[str, Any]) -> list[str]:
    rows = []
    for split in ("val", "test"):
        found, baseline = ((card[name] or {}).get(split) or {} for name in ("metrics", "baseline"))
        count = (card["num_videos"] or {}).get(split, "?")
        for name, value in found.items():
            beside = f"{baseline[name]:.4g}" if name in baseline else ""
            rows.append((f"{split} ({count} videos)", name, f"{value:.4g}", beside))
    return _table(("split", "metric", "this model", "mean-pool baseline"), rows) if rows else ["Not known.", ""]


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    cells = [[cell.replace("|", "\\|").replace("\n", " ") for cell in row] for row in (head, *rows)]
    lines = [f"| {' | '.join(row)} |" for row in cells]
    return [lines[0], "|" + " --- |" * len(head), *lines[1:], ""]
