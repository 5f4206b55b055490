"""A sweep's worker that trains nothing: what becomes of a trial is decided by its settings.

``noise`` is the time it takes, in seconds; ``units`` 66 ends the process, 13 fails; ``learning_rate`` gives the score.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

from framecache.cache.child import connect


def main() -> None:
    with connect() as connection:
        try:
            json.loads(connection.recv_bytes())
            while True:
                job = json.loads(connection.recv_bytes())
                told = _do(connection, job)
                connection.send_bytes(json.dumps({"event": "done", "busy": 1.0, **told}).encode())
        except (EOFError, OSError):
            return


def _do(connection: Any, job: dict[str, Any]) -> dict[str, Any]:
    config = job["config"]
    with (Path(config["runs"]).parent / "calls.log").open("a") as log:
        log.write(f"{job['job']} {config['name']} {os.getpid()}\n")
    if job["job"] == "baseline":
        return {"logits": "baseline", "seconds": 0.5}
    folder = Path(config["runs"]) / config["name"]
    if job["job"] == "figures":
        (folder / "learning-curve.png").touch()
        return {"state": "finished"}
    folder.mkdir()
    (folder / "history.csv").write_text("half")
    score = min(1.0, 100 * config["learning_rate"])
    time.sleep(config["noise"])
    if config["units"] == 66:
        os.kill(os.getpid(), 9)
    if config["units"] == 13:
        (folder / "history.csv").unlink()
        folder.rmdir()
        return {"state": "failed", "reason": "the loss is nan after epoch 1"}
    measures = {}
    for epoch in range(1, config["epochs"] + 1):
        if job["report_every"] and epoch % job["report_every"] == 0:
            measures[epoch] = score
            connection.send_bytes(json.dumps({"event": "epoch", "epoch": epoch, "value": score}).encode())
            if json.loads(connection.recv_bytes())["prune"]:
                (folder / "history.csv").unlink()
                folder.rmdir()
                return {"state": "pruned", "value": score, "measures": measures}
    connection.send_bytes(json.dumps({"event": "trained"}).encode())
    assert json.loads(connection.recv_bytes()) == {"logits": "baseline", "seconds": 0.5, "reason": ""}
    loss = 1 / config["units"]
    record = {
        "config": config,
        "feature_set": job["set"],
        "fingerprint": (Path(config["cache"]) / "fingerprint").read_text(),
        "metrics": {"val": {"accuracy": score, "loss": loss}, "test": {"accuracy": 0.625, "loss": 1.0}},
        "seconds": {"train": 2.0},
        "num_videos": {"train": 8, "val": 4, "test": 4},
    }
    (folder / "run.json").write_text(json.dumps(record))
    return {"state": "finished", "value": score, "val_loss": loss, "seconds": 2.0, "measures": measures}


if __name__ == "__main__":
    main()
