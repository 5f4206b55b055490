"""One experiment of several side by side: trains for some seconds on the cores it is given, prints its rate."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

_SECONDS = 5.0


def main(cache: str, cores: list[int]) -> None:
    """Prints sequences/s."""
    os.sched_setaffinity(0, cores)
    os.environ["OMP_NUM_THREADS"] = str(len(cores))
    os.environ["TF_NUM_INTRAOP_THREADS"] = str(len(cores))
    os.environ["TF_NUM_INTEROP_THREADS"] = str(len(cores))
    import keras
    import training

    sequences = training.held(Path(cache), 256)
    work = training.ours(sequences, [keras.layers.LSTM(64)])
    work()
    done, begin = 0.0, time.perf_counter()
    while time.perf_counter() < begin + _SECONDS:
        done += work()
    print(done / (time.perf_counter() - begin))


if __name__ == "__main__":
    main(sys.argv[1], [int(core) for core in sys.argv[2].split(",")])
