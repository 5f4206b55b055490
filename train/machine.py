"""What of a machine decides how sums are rounded: with it, the same run has the same numbers to the last bit."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import Any

from framecache.cache.errors import InputError
from framecache.cache.quiet import quiet_stderr

_CPU_INFO = Path("/proc/cpuinfo")
_ENVIRONMENT = ("TF_ENABLE_ONEDNN_OPTS", "ONEDNN_MAX_CPU_ISA", "XLA_FLAGS")


def use_threads(wanted: int) -> None:
    """Gives TensorFlow its threads, within operations and for operations at once, before it computes anything.

    Args:
        wanted: How many; 0 for what it has, or else one for each core that this process may use.

    Raises:
        InputError: It is running with another number already, which cannot be changed.
    """
    with quiet_stderr():
        import tensorflow as tf
    found = _num_threads()
    try:
        tf.config.threading.set_intra_op_parallelism_threads(wanted or found)
        tf.config.threading.set_inter_op_parallelism_threads(wanted or found)
    except RuntimeError:  # it has computed something
        if wanted and wanted != found:
            raise InputError(
                f"--threads {wanted}: TensorFlow runs with {found} in this process already; start another process, or "
                "leave --threads out"
            ) from None


def describe_machine() -> dict[str, Any]:
    """The number of threads, what computes, and the variables of the environment that change numbers."""
    import tensorflow as tf

    gpus = tf.config.list_physical_devices("GPU")
    device = str(tf.config.experimental.get_device_details(gpus[0]).get("device_name", "GPU")) if gpus else _processor()
    environment = {name: os.environ[name] for name in _ENVIRONMENT if name in os.environ}
    return {"device": device, "threads": _num_threads(), "environment": environment}


def _num_threads() -> int:
    import tensorflow as tf

    return int(tf.config.threading.get_intra_op_parallelism_threads()) or len(os.sched_getaffinity(0))


def _processor() -> str:
    try:
        lines = _CPU_INFO.read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
