"""Extraction beside its limits and its peers: a loop of ``predict``, PyTorch batch by batch, sampling all frames.

Rates are of decoding, computing and writing, without start-up, which has rows of its own. Each figure is the median
of some turns.
"""

from __future__ import annotations

import gc
import itertools
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from measure import Row
from numpy.typing import NDArray

from framecache.cache.quiet import quiet_stderr
from framecache.cache.reductions import parse_reduction
from framecache.cache.sampling import Sampling
from framecache.extract import ExtractConfig, ExtractReport, extract
from framecache.extract.backbones import load_backbone
from framecache.extract.decoder import DecoderPool, Finished, Frames
from framecache.extract.engines import make_engine
from framecache.extract.video import Clip, Geometry

_CORES = len(os.sched_getaffinity(0))
_BATCH = 16
_HOUR = 1800  # one frame every two seconds
_MEMORY_LIMIT_MB = 1200.0
Rate = Callable[[], float]  # does its work once, gives frames per second


def measure(scratch: Path) -> Iterator[Row]:
    """The rows of this section."""
    os.environ["XDG_CACHE_HOME"] = str(scratch / "xdg")  # networks converted here stay here
    videos = scratch / "videos"
    for number in range(4):
        _render(videos / f"{number}.mp4", num_frames=240, seed=number)
    run = _Extractions(scratch)
    yield from _start_up(scratch)
    yield _against_its_limit(run, videos)
    yield _against_pytorch(run, videos / "0.mp4")
    for network, num_frames, target in (("MobileNetV2", 480, 3.0), ("ResNet50", 64, 1.1)):
        yield from _against_predict(run, network, scratch, num_frames, target)
    yield _sparse_sampling(run, scratch)
    yield _decode_workers(scratch)
    yield _memory(scratch)


def _turns(contenders: Mapping[str, Rate], repeats: int = 2) -> dict[str, float]:
    """Median rate of each contender, called in turns; what has to be warmed up is warm before."""
    rates: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(repeats):
        for name, rate in contenders.items():
            gc.collect()
            rates[name].append(rate())
    return {name: statistics.median(found) for name, found in rates.items()}


class _Extractions:
    """Extracts a source into a new cache each time it is called, and gives frames per second or the report."""

    def __init__(self, scratch: Path) -> None:
        self._folders = (scratch / "features" / str(number) for number in itertools.count())

    def report(self, source: Path, config: ExtractConfig) -> ExtractReport:
        with quiet_stderr():
            report = extract(source, replace(config, cache=next(self._folders), batch_size=_BATCH))
        if report.failed:
            raise RuntimeError(f"expected no failed video, found {report.failed}")
        return report

    def rate(self, source: Path, config: ExtractConfig) -> float:
        report = self.report(source, config)
        return report.num_frames / report.seconds


def _start_up(scratch: Path) -> Iterator[Row]:
    """From the shell to the end of a video of one frame."""
    video = _render(scratch / "one" / "frame.mp4", num_frames=1)

    def seconds(xdg: Path, number: int) -> float:
        command = [sys.executable, "-m", "framecache.extract", video, "--cache", scratch / "start" / str(number)]
        begin = time.perf_counter()
        subprocess.run(
            [str(word) for word in command],
            check=True,
            capture_output=True,
            env=os.environ | {"XDG_CACHE_HOME": str(xdg), "TF_CPP_MIN_LOG_LEVEL": "3"},
        )
        return time.perf_counter() - begin

    cold = [seconds(scratch / "cold" / str(number), number) for number in range(2)]
    seconds(scratch / "warm", 100)
    warm = [seconds(scratch / "warm", 101 + number) for number in range(3)]
    yield Row(
        "start-up, shell to end of a 1-frame video: network converted before, against not",
        "s",
        statistics.median(warm),
        statistics.median(cold),
        4.0,
    )


def _against_its_limit(run: _Extractions, videos: Path) -> Row:
    """The pipeline, against its decoder and its CNN, each alone on all cores: 1 / (1 / cnn + 1 / decode)."""
    backbone = load_backbone("efficientnet-lite0")
    outputs = [(backbone.default_tap, parse_reduction("gap"))]
    with quiet_stderr():
        engine = make_engine("auto", backbone, outputs, _BATCH, _CORES)
    pixels = _noise((_BATCH, 224, 224, 3))
    clips = [Clip(path, Sampling(), backbone.geometry) for path in sorted(videos.iterdir())]

    def cnn() -> float:
        begin = time.perf_counter()
        for _ in range(30):
            engine.run(pixels)
        return 30 * _BATCH / (time.perf_counter() - begin)

    rates = _turns(
        {
            "cnn": cnn,
            "decode": lambda: _decode_rate(clips, _CORES),
            "pipeline": lambda: run.rate(videos, ExtractConfig()),
        }
    )
    limit = 1 / (1 / rates["cnn"] + 1 / rates["decode"])
    note = f"alone: CNN {rates['cnn']:.0f}, decode {rates['decode']:.0f}"
    return Row(
        "extraction of 640×360, against CNN and decoder in turn", "frames/s", rates["pipeline"], limit, 0.95, note
    )


def _decode_rate(clips: list[Clip], num_workers: int) -> float:
    """Decoded frames per second once all workers have begun."""
    count, begun, begin = 0, set(), 0.0
    with DecoderPool(clips, num_workers) as pool:
        for event in pool:
            if isinstance(event, Frames) and begin:
                count += len(event.block.frames)
            elif event is not None and not begin:
                begun.add(event.clip)
                if len(begun) == num_workers:
                    begin = time.perf_counter()
            if isinstance(event, Finished) and event.reason is not None:
                raise RuntimeError(event.reason)
        return count / (time.perf_counter() - begin)


def _against_pytorch(run: _Extractions, video: Path) -> Row:
    """The default backbone, against the same network in PyTorch, which takes turns with its decoder."""
    name = "efficientnet-lite0, against PyTorch batch by batch (as video_features does)"
    try:
        import torch
        from efficientnet_lite_pytorch import EfficientNet
    except ImportError as error:
        return Row(name, "frames/s", note=f"skipped: {error}; pip install 'framecache[bench]'")
    torch.set_num_threads(_CORES)
    network = EfficientNet.from_name("efficientnet-lite0").eval()

    def pytorch() -> float:
        begin, count, batch = time.perf_counter(), 0, []

        def forward() -> None:
            with torch.no_grad():
                network.extract_features(torch.stack(batch)).mean(dim=(2, 3)).numpy()
            batch.clear()

        for frame in _pictures(video):
            batch.append((torch.from_numpy(frame).permute(2, 0, 1).float() - 127) / 128)
            count += 1
            if len(batch) == _BATCH:
                forward()
        if batch:
            forward()
        return count / (time.perf_counter() - begin)

    pytorch()
    rates = _turns({"ours": lambda: run.rate(video, ExtractConfig()), "theirs": pytorch})
    return Row(name, "frames/s", rates["ours"], rates["theirs"], 3.0)


def _against_predict(run: _Extractions, network: str, scratch: Path, num_frames: int, target: float) -> Iterator[Row]:
    """A keras.applications network, against ``predict`` of a whole video and, if quick enough, of one frame."""
    import keras

    video = _render(scratch / f"{network}.mp4", num_frames)
    keras.utils.set_random_seed(0)
    model = getattr(keras.applications, network)(
        include_top=False, weights=None, pooling="avg", input_shape=(224, 224, 3)
    )

    def whole() -> float:
        begin = time.perf_counter()
        features = model.predict(np.stack(list(_pictures(video))).astype(np.float32), verbose=0)
        return len(features) / (time.perf_counter() - begin)

    def single() -> float:
        begin, some = time.perf_counter(), 32
        for frame in itertools.islice(_pictures(video), some):
            model.predict(frame[None].astype(np.float32), verbose=0)
        return some / (time.perf_counter() - begin)

    config = ExtractConfig(backbone=network, weights="random")
    run.rate(_render(scratch / "one" / "frame.mp4", num_frames=1), config)  # converts the network
    model.predict(np.zeros((_BATCH, 224, 224, 3), np.float32), verbose=0)
    model.predict(np.zeros((1, 224, 224, 3), np.float32), verbose=0)
    contenders: dict[str, Rate] = {"ours": lambda: run.rate(video, config), "whole": whole}
    if network == "MobileNetV2":
        contenders["single"] = single
    rates = _turns(contenders)
    yield Row(f"{network}, against model.predict per video", "frames/s", rates["ours"], rates["whole"], target)
    if "single" in rates:
        yield Row(f"{network}, against model.predict per frame", "frames/s", rates["ours"], rates["single"], 10.0)


def _sparse_sampling(run: _Extractions, scratch: Path) -> Row:
    """Seconds for one 720p video of 30 frames per second, key frames 2 s apart."""
    video = _render(scratch / "sparse.mp4", num_frames=300, width=1280, height=720, gop=60)
    rates = _turns(
        {
            sample: lambda sample=sample: 1 / run.report(video, ExtractConfig(sample=sample)).seconds
            for sample in ("fps=2", "all")
        },
    )
    return Row("--sample fps=2 of 30 fps 720p, against all", "s", 1 / rates["fps=2"], 1 / rates["all"], 4.0)


def _decode_workers(scratch: Path) -> Row:
    geometry = Geometry(224, 224, fit="crop", crop_fraction=0.875, interpolation="bicubic")
    clips = [
        Clip(_render(scratch / f"hd-{number}.mp4", 150, 1280, 720, seed=number), Sampling(), geometry)
        for number in range(4)
    ]
    rates = _turns({str(workers): lambda workers=workers: _decode_rate(clips, workers) for workers in (1, 2)})
    return Row("decoding 720p: two workers, against one", "frames/s", rates["2"], rates["1"], 1.6)


_PEAK = """
import json, resource, sys
from pathlib import Path
from framecache.extract import ExtractConfig, extract
report = extract(sys.argv[1], ExtractConfig(cache=Path(sys.argv[2]), workers=1))
assert not report.failed, report.failed
peak = sum(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
print(json.dumps([report.num_frames, peak / 1000]))
"""


def _memory(scratch: Path) -> Row:
    """Peak memory of the extraction and its decode process for an hour of 1080p, above that for one small frame."""
    hour = _render(scratch / "hour.mp4", _HOUR, 1920, 1080, fps=Fraction(1, 2), still=True)
    small = scratch / "one" / "frame.mp4"

    def peak_mb(video: Path, name: str) -> float:
        command = [sys.executable, "-c", _PEAK, str(video), str(scratch / name)]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        num_frames, peak = json.loads(done.stdout.splitlines()[-1])
        note_frames.append(num_frames)
        return float(peak)

    note_frames: list[int] = []
    peak_mb(small, "peak-first")  # where nothing else has converted the network yet
    beyond = peak_mb(hour, "peak-hour") - peak_mb(small, "peak-small")
    note = f"{note_frames[1]} frames"
    return Row("peak memory above the model's, an hour of 1080p", "MB", max(beyond, 1.0), _MEMORY_LIMIT_MB, 1.0, note)


def _pictures(video: Path) -> Iterator[NDArray[np.uint8]]:
    """A video's frames, scaled, RGB ``(224, 224, 3)``: what a plain loop begins with."""
    with av.open(str(video)) as container:
        for frame in container.decode(video=0):
            yield frame.to_ndarray(format="rgb24", width=224, height=224)


def _render(
    path: Path,
    num_frames: int,
    width: int = 640,
    height: int = 360,
    *,
    fps: int | Fraction = 30,
    gop: int = 250,
    seed: int = 0,
    still: bool = False,
) -> Path:
    """An H.264 video of a window that wanders over a painting with some noise (or, still, stands there)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (24, 40, 3), np.uint8)
    painting = np.asarray(
        av.VideoFrame.from_ndarray(coarse, format="rgb24")
        .reformat(width + 256, height + 256, interpolation="BICUBIC")
        .to_ndarray()
    )
    painting = np.clip(painting + rng.normal(0, 12, painting.shape), 0, 255).astype(np.uint8)
    with av.open(str(path), "w") as container:
        options = {"preset": "veryfast", "g": str(gop)}
        stream: Any = container.add_stream("libx264", rate=fps, options=options)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for index in range(num_frames):
            shift = 0 if still else round(128 + 127 * np.sin(index / 20))
            if index == 0 or not still:
                window = np.ascontiguousarray(painting[shift : shift + height, shift : shift + width])
                frame = av.VideoFrame.from_ndarray(window, format="rgb24").reformat(format="yuv420p")
            frame.pts, frame.time_base = index, 1 / Fraction(fps)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def _noise(shape: tuple[int, ...]) -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, shape, np.uint8)
