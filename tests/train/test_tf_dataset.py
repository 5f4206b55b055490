"""A feature set as a tf.data.Dataset, and exported TFRecords as TensorFlow reads them."""

from __future__ import annotations

import doctest
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from framecache.cache import FeatureSet, InputError, open_cache
from framecache.cache.exchange.export_config import ExportConfig
from framecache.cache.exchange.exports import export_features
from framecache.cache.exchange.tf_dataset import epoch_rows

from .conftest import Data


@pytest.fixture(scope="module")
def features(data: Data) -> FeatureSet:
    """40 videos of 4 to 9 frames of 8 numbers."""
    return open_cache(data.cache)[data.name]


def rows_of(dataset: Any) -> list[float]:
    """What a pass over a data set labelled with numbers reads, in order."""
    return [target for _, targets in dataset for target in targets.numpy().tolist()]


def numbered(features: FeatureSet) -> dict[str, int]:
    return {video_id: number for number, video_id in enumerate(features)}


@pytest.mark.parametrize(("max_len", "ragged"), [(None, False), (6, True)])
def test_batches_hold_each_video_once(features: FeatureSet, max_len: int | None, ragged: bool) -> None:
    dataset = features.as_tf_dataset(numbered(features), 16, max_len=max_len, ragged=ragged)
    assert len(dataset) == 3
    seen = []
    for inputs, targets in dataset:
        for row, number in enumerate(targets.numpy().tolist()):
            expected = features[features.video_ids[number]][:max_len]
            frames = inputs["features"][row].numpy()
            if not ragged:
                mask = inputs["mask"][row].numpy()
                assert mask.tolist() == [True] * len(expected) + [False] * (len(mask) - len(expected))
                assert not frames[~mask].any()
                frames = frames[mask]
            np.testing.assert_array_equal(frames, expected)
            seen.append(number)
    assert seen == list(range(40))


def test_shapes_are_static_where_they_can_be(features: FeatureSet) -> None:
    spec = features.as_tf_dataset(batch_size=8, max_len=16, drop_remainder=True).element_spec
    assert (spec["features"].shape, spec["mask"].shape) == ((8, 16, 8), (8, 16))
    assert (spec["features"].dtype, spec["mask"].dtype) == (tf.float16, tf.bool)
    spec = features.as_tf_dataset(batch_size=8).element_spec
    assert spec["features"].shape.as_list() == [None, None, 8]
    spec = features.as_tf_dataset(batch_size=8, ragged=True, drop_remainder=True).element_spec
    assert isinstance(spec["features"], tf.RaggedTensorSpec)


def test_each_epoch_has_an_order_of_its_own_that_the_seed_decides(features: FeatureSet) -> None:
    def epochs(seed: int) -> list[list[float]]:
        dataset = features.as_tf_dataset(numbered(features), 16, seed=seed)
        return [rows_of(dataset) for _ in range(2)]

    first, again, other = epochs(1), epochs(1), epochs(2)
    assert first == again
    assert first[0] != first[1] != other[1]
    assert all(sorted(epoch) == list(range(40)) for epoch in (*first, *other))
    assert first[0] == epoch_rows(40, 1, 0).tolist()


def test_processes_share_an_epoch(features: FeatureSet) -> None:
    parts = [features.as_tf_dataset(numbered(features), 4, seed=3, shard=(index, 3)) for index in range(3)]
    for _ in range(2):
        assert sorted(row for part in parts for row in rows_of(part)) == list(range(40))
    policy = parts[0].options().experimental_distribute.auto_shard_policy
    assert policy == tf.data.experimental.AutoShardPolicy.OFF


@pytest.mark.parametrize("count", [1, 2, 3, 7])
@pytest.mark.parametrize("seed", [None, 5])
def test_even_shards_are_of_one_length_and_disjoint(count: int, seed: int | None) -> None:
    parts = [epoch_rows(40, seed, 1, (index, count), even=True).tolist() for index in range(count)]
    assert {len(part) for part in parts} == {40 // count}
    assert len({row for part in parts for row in part}) == 40 // count * count


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batch_size and max_len"),
        ({"max_len": 0}, "batch_size and max_len"),
        ({"shard": (2, 2)}, r"expected \(index, count\)"),
        ({"batch_size": 41, "drop_remainder": True}, "40 of 40 videos fill no batch of 41"),
    ],
)
def test_wrong_options_are_refused(features: FeatureSet, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        features.as_tf_dataset(**options)


def test_the_example_in_the_docstring_runs(features: FeatureSet) -> None:
    renamed = _Renamed(features)
    (test,) = doctest.DocTestFinder().find(FeatureSet.as_tf_dataset, "as_tf_dataset", globs={"features": renamed})
    result = doctest.DocTestRunner(verbose=False).run(test)
    assert (result.attempted, result.failed) == (3, 0)


class _Renamed:
    """The feature set under the names of the example."""

    def __init__(self, features: FeatureSet) -> None:
        self._features = features

    def as_tf_dataset(self, labels: dict[str, int], **options: Any) -> Any:
        real = dict(zip(self._features, labels.values(), strict=False))
        return self._features.as_tf_dataset(real, **options)


def test_tensorflow_reads_exported_tfrecords_as_their_readme_says(
    data: Data, features: FeatureSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    export_features(data.name, tmp_path / "out", ExportConfig("tfrecord", data.cache, shard_mb=0.003))
    monkeypatch.chdir(tmp_path / "out")
    program = (
        (tmp_path / "out" / "README.md").read_text(encoding="utf-8").partition("```python\n")[2].partition("```")[0]
    )
    found: dict[str, Any] = {}
    exec(program, found)
    rows = {video_id.numpy().decode(): (array, times) for video_id, array, times in found["dataset"]}
    assert len(list((tmp_path / "out").glob("*.tfrecord"))) > 1
    assert rows.keys() == set(features)
    for video_id, (array, times) in rows.items():
        np.testing.assert_array_equal(array, features[video_id])
        np.testing.assert_array_equal(times, features.timestamps_ms(video_id))
