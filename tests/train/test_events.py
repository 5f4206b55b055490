"""A folder of runs as TensorBoard itself reads it: curves, and the HParams tab with a row per run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tensorboard.backend.event_processing.data_provider import MultiplexerDataProvider
from tensorboard.backend.event_processing.plugin_event_multiplexer import EventMultiplexer
from tensorboard.context import RequestContext
from tensorboard.plugins.base_plugin import TBContext
from tensorboard.plugins.hparams import api_pb2
from tensorboard.plugins.hparams.backend_context import Context
from tensorboard.plugins.hparams.list_session_groups import Handler

from framecache.train.events import write_hparams
from framecache.train.history import HistoryWriter

PLACES = {"one": 32, "sweep/two": 64}  # runs, nested ones too, and their units


def record_of(units: int) -> dict[str, Any]:
    return {
        "config": {"units": units, "model": "lstm", "class_weights": False, "name": None, "manifest": "m.csv"},
        "feature_set": "toy.gap-01234567",
        "metrics": {"val": {"accuracy": units / 100, "loss": 0.5}, "test": None},
        "best_epoch": 2,
        "seconds": {"train": 1.5},
    }


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    for place, units in PLACES.items():
        folder = tmp_path / place
        folder.mkdir(parents=True)
        for _ in range(2):  # what was written before is gone
            with HistoryWriter(folder, {"loss": [0.75], "val_loss": [0.5]}) as history:
                history.write(2, {"loss": 0.25, "val_loss": 0.125})
        write_hparams(folder / "tensorboard", record_of(units))
    return tmp_path


def read(runs: Path) -> EventMultiplexer:
    return EventMultiplexer().AddRunsFromDirectory(str(runs)).Reload()


def test_curves_have_each_epoch_once(runs: Path) -> None:
    found = read(runs)
    for place in PLACES:
        for split, values in (("train", [0.75, 0.25]), ("validation", [0.5, 0.125])):
            events = found.Tensors(f"{place}/tensorboard/{split}", "epoch_loss")
            assert [event.step for event in events] == [1, 2]
            assert [event.tensor_proto.float_val[0] for event in events] == values
    assert (runs / "one" / "history.csv").read_text().splitlines() == [
        "epoch,loss,val_loss",
        "1,0.75,0.5",
        "2,0.25,0.125",
    ]


def test_the_hparams_tab_has_a_row_per_run_with_settings_and_final_metrics(runs: Path) -> None:
    context = Context(TBContext(data_provider=MultiplexerDataProvider(read(runs), str(runs))))
    columns = context.experiment_from_metadata(
        RequestContext(), "", True, context.hparams_metadata(RequestContext(), ""), []
    )
    assert {info.name for info in columns.hparam_infos} >= {"set", "units", "model", "class_weights"}
    assert {(info.name.group, info.name.tag) for info in columns.metric_infos} >= {
        ("", "val/accuracy"),
        ("validation", "epoch_loss"),
    }
    wanted = api_pb2.ListSessionGroupsRequest(
        slice_size=10, allowed_statuses=[api_pb2.STATUS_SUCCESS], include_metrics=True
    )
    rows = Handler(RequestContext(), context, "", wanted).run().session_groups
    found = {}
    for row in rows:
        assert row.hparams["set"].string_value == "toy.gap-01234567"
        assert not {"name", "manifest"} & set(row.hparams)
        metrics = {(value.name.group, value.name.tag): value.value for value in row.metric_values}
        found[row.sessions[0].name] = (row.hparams["units"].number_value, metrics["", "val/accuracy"])
    assert found == {f"{place}/tensorboard": (units, pytest.approx(units / 100)) for place, units in PLACES.items()}
