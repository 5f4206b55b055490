"""A shard from anybody: refused unless it is whole and plain."""

from __future__ import annotations

import json
import os
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from framecache.cache import FeatureSet, ShardError, Spec
from framecache.cache.reader import list_shards
from framecache.cache.shard import read_rows, read_shard, shard_number

MakeSpec = Callable[..., Spec]
FillSet = Callable[..., Path]
Edit = Callable[[h5py.File], None]

INT64_MAX = np.iinfo(np.int64).max


@pytest.fixture(scope="module")
def whole_set(tmp_path_factory: pytest.TempPathFactory, spec: Spec, fill_set: FillSet) -> Path:
    return fill_set(tmp_path_factory.mktemp("whole"), spec, {"v1": np.ones((3, 4)), "v2": np.full((2, 4), 2)})


@pytest.fixture
def shard(tmp_path: Path, whole_set: Path) -> Path:
    """A shard of two videos of 3 and 2 frames."""
    return list_shards(shutil.copytree(whole_set, tmp_path / "features" / whole_set.name))[0]


def read_all(path: Path, spec: Spec) -> None:
    """All that reading a feature set looks at."""
    features = FeatureSet(path.parent, spec)
    features.ledger()
    for video_id in features:
        features[video_id].sum()


def replace_dataset(file: h5py.File, name: str, **create: Any) -> None:
    del file[name]
    file.create_dataset(name, **create)


def link_to_itself(link: Callable[[str], object]) -> Edit:
    def edit(file: h5py.File) -> None:
        file.move("index", "timestamps")
        file["index"] = link("timestamps")

    return edit


def external_link(file: h5py.File) -> None:
    other = Path(file.filename).parent / "other.h5"
    with h5py.File(other, "w") as target:
        target["features"] = np.ones((5, 4), np.float16)
    del file["features"]
    file["features"] = h5py.ExternalLink(str(other), "features")


def extra_soft_link(file: h5py.File) -> None:
    file["more"] = h5py.SoftLink("/features")


def external_storage(file: h5py.File) -> None:
    outside = Path(file.filename).parent / "secret.bin"
    outside.write_bytes(bytes(40))
    del file["features"]
    file.create_dataset("features", (5, 4), "f2", external=[(str(outside), 0, 40)])


def virtual(file: h5py.File) -> None:
    layout = h5py.VirtualLayout((5, 4), "f2")
    layout[:] = h5py.VirtualSource("other.h5", "features", (5, 4))
    del file["features"]
    file.create_virtual_dataset("features", layout)


def compact(file: h5py.File) -> None:
    plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    plist.set_layout(h5py.h5d.COMPACT)
    del file["features"]
    h5py.h5d.create(file.id, b"features", h5py.h5t.IEEE_F16LE, h5py.h5s.create_simple((5, 4)), plist)


def in_place(name: str, **create: Any) -> Edit:
    def edit(file: h5py.File) -> None:
        data = create.pop("data", file[name][()])
        replace_dataset(file, name, data=data, **create)

    return edit


def column(table: str, name: str, value: object, row: int = 1) -> Edit:
    """Sets one cell."""

    def edit(file: h5py.File) -> None:
        rows = file[table][()]
        rows[name][row] = value
        file[table][...] = rows

    return edit


def retyped(table: str, name: str, dtype: Any, value: object = None) -> Edit:
    """Gives one column another type, and all of its cells another value."""

    def edit(file: h5py.File) -> None:
        old = file[table][()]
        types = [(field, dtype if field == name else old.dtype[field]) for field in old.dtype.names]
        new = np.zeros(len(old), types)
        for field in old.dtype.names:
            if field != name:
                new[field] = old[field]
            elif value is not None:
                new[field] = value
        replace_dataset(file, table, data=new)

    return edit


def variable_length_ids(file: h5py.File) -> None:
    old = file["index"][()]
    types = [(name, h5py.string_dtype() if name == "video_id" else old.dtype[name]) for name in old.dtype.names]
    new = np.empty(len(old), types)
    for name in old.dtype.names:
        new[name] = old[name]
    replace_dataset(file, "index", data=new)


def many_frames_and_short_integers(file: h5py.File) -> None:
    replace_dataset(file, "features", data=np.zeros((1000, 4), np.float16))
    replace_dataset(file, "timestamps_ms", data=np.zeros(1000))
    retyped("index", "length", "i1", 100)(file)


def without_field(table: str, name: str) -> Edit:
    def edit(file: h5py.File) -> None:
        old = file[table][()]
        rest = [field for field in old.dtype.names if field != name]
        new = np.empty(len(old), [(field, old.dtype[field]) for field in rest])
        for field in rest:
            new[field] = old[field]
        replace_dataset(file, table, data=new)

    return edit


def short_ledger(file: h5py.File) -> None:
    replace_dataset(file, "ledger", data=file["ledger"][:1])


def attribute(name: str, value: object) -> Edit:
    return lambda file: file.attrs.__setitem__(name, value)


def spec_field(name: str, value: object) -> Edit:
    def edit(file: h5py.File) -> None:
        values = json.loads(bytes(file.attrs["spec"]))
        file.attrs["spec"] = np.bytes_(json.dumps({**values, name: value}))

    return edit


def group_for_dataset(file: h5py.File) -> None:
    del file["features"]
    file.create_group("features")


def never_written(file: h5py.File) -> None:
    del file["features"]
    file.create_dataset("features", (1 << 40, 4), "f2")


HOSTILE: dict[str, tuple[Edit, str]] = {
    "soft link": (link_to_itself(h5py.SoftLink), "'index' is a soft or external link"),
    "dangling soft link": (link_to_itself(lambda _: h5py.SoftLink("/nowhere")), "soft or external link"),
    "soft link that nobody asks for": (extra_soft_link, "'more' is a soft or external link"),
    "external link": (external_link, "'features' is a soft or external link"),
    "external storage": (external_storage, "'features' is not plain contiguous data within the file"),
    "virtual dataset": (virtual, "'features' is not plain contiguous data within the file"),
    "compact dataset": (compact, "'features' is not plain contiguous data within the file"),
    "chunked features": (in_place("features", chunks=(1, 4)), "'features' is not plain contiguous data"),
    "resizable features": (in_place("features", maxshape=(None, 4)), "'features' is not plain contiguous data"),
    "compressed features": (in_place("features", compression="gzip"), "'features' is not plain contiguous data"),
    "compressed index": (in_place("index", compression="gzip"), "'index' is not plain contiguous data"),
    "chunked timestamps": (in_place("timestamps_ms", chunks=True), "'timestamps_ms' is not plain contiguous data"),
    "no features": (lambda file: file.__delitem__("features"), "no dataset 'features'; expected a framecache shard"),
    "no index": (lambda file: file.__delitem__("index"), "no dataset 'index'"),
    "no ledger": (lambda file: file.__delitem__("ledger"), "no dataset 'ledger'"),
    "group for a dataset": (group_for_dataset, "no dataset 'features'"),
    "null dataspace": (in_place("features", data=h5py.Empty("f2")), "features"),
    "declared but never written": (never_written, "'features' declares 8796093022208 bytes"),
    "object features": (
        in_place("features", data=["a"] * 5, dtype=h5py.string_dtype()),
        r"features are \(5,\) object; its spec says \(num_frames, 4\) float16",
    ),
    "variable-length video_id": (
        variable_length_ids,
        "dataset 'index' has fields .*'video_id': 'O'.*, expected video_id",
    ),
    "nested field": (retyped("index", "digest", ("S8", 4)), "dataset 'index' has fields"),
    "plain index": (in_place("index", data=np.zeros(2)), "dataset 'index' has fields {}, expected video_id, start"),
    "index of two dimensions": (
        lambda file: in_place("index", data=file["index"][()][None])(file),
        "'index' has fields",
    ),
    "index without digest": (
        without_field("index", "digest"),
        "expected video_id, start, length, digest, source_digest",
    ),
    "ledger without source": (without_field("ledger", "source"), "expected source, source_stat, frames_expected"),
    "short ledger": (short_ledger, "index has 2 rows, ledger 1"),
    "integers for names": (retyped("index", "video_id", "i8"), "index"),
    "text for a start": (retyped("index", "start", "S8", b"0"), "index"),
    "text for a count": (retyped("ledger", "frames_expected", "S8", b"three"), "ledger"),
    "short integers": (many_frames_and_short_integers, "index"),
    "negative start": (column("index", "start", -1), "the index points outside the 5 frames of the shard"),
    "negative length": (column("index", "length", -2), "the index points outside the 5 frames"),
    "no frames": (column("index", "length", 0), "the index points outside the 5 frames"),
    "one frame too many": (column("index", "length", 3), "the index points outside the 5 frames"),
    "start beyond the end": (column("index", "start", 5), "the index points outside the 5 frames"),
    "length that overflows": (column("index", "length", INT64_MAX), "the index points outside the 5 frames"),
    "start that overflows": (column("index", "start", INT64_MAX), "the index points outside the 5 frames"),
    "start and length that overflow": (
        lambda file: (column("index", "start", INT64_MAX)(file), column("index", "length", INT64_MAX)(file))[0],
        "the index points outside the 5 frames",
    ),
    "name that is not UTF-8": (
        column("index", "video_id", b"\xff"),
        "not a whole, readable shard .*'utf-8' codec can't decode",
    ),
    "warnings that are not JSON": (
        column("ledger", "warnings", b"{"),
        "not a whole, readable shard .*Expecting property name",
    ),
    "warnings that are no list": (
        column("ledger", "warnings", b"5"),
        "not a whole, readable shard .*expected a list, found 5",
    ),
    "warnings nested too deep": (
        retyped("ledger", "warnings", "S20000", b"[" * 20000),
        "not a whole, readable shard .*recursion",
    ),
    "no version": (lambda file: file.attrs.__delitem__("format_version"), "format version None, expected 1"),
    "other version": (attribute("format_version", 2), "format version 2, expected 1; use the release that wrote it"),
    "text for a version": (attribute("format_version", "1"), "format version that is no integer, expected 1"),
    "several versions": (attribute("format_version", np.array([1, 1])), r"format version \[1 1\], expected 1"),
    "no spec": (lambda file: file.attrs.__delitem__("spec"), "its spec attribute is missing or not JSON"),
    "spec that is not JSON": (attribute("spec", np.bytes_(b"{")), "its spec attribute is missing or not JSON"),
    "spec that is not UTF-8": (attribute("spec", np.bytes_(b'"\xff"')), "its spec attribute is missing or not JSON"),
    "spec of variable length": (attribute("spec", "{}"), "its spec attribute is missing or not JSON"),
    "number for a spec": (attribute("spec", np.int64(1 << 60)), "spec"),
    "spec nested too deep": (attribute("spec", np.bytes_(b"[" * 60000)), "spec"),
    "spec without fields": (attribute("spec", np.bytes_(b"{}")), "not a spec of format version 1; fields that differ"),
    "spec of another dtype": (
        spec_field("dtype", "float32"),
        r"features are \(5, 4\) float16; .* \(num_frames, 4\) float32",
    ),
    "spec of an unknown dtype": (spec_field("dtype", "object"), "dtype: expected one of float16, float32"),
    "spec of another shape": (spec_field("feature_shape", [5]), r"features are \(5, 4\) float16; .* \(num_frames, 5\)"),
    "spec of more dimensions": (spec_field("feature_shape", [2, 2]), r"its spec says \(num_frames, 2, 2\) float16"),
    "features of another dtype": (in_place("features", dtype="f4"), r"features are \(5, 4\) float32"),
    "features of another byte order": (in_place("features", dtype=">f2"), r"features are \(5, 4\) >f2|float16"),
    "features without a shape": (in_place("features", data=np.float16(1)), r"features are \(\) float16"),
    "timestamps of whole numbers": (in_place("timestamps_ms", dtype="i8"), r"timestamps_ms is \(5,\) int64"),
    "too few timestamps": (
        in_place("timestamps_ms", data=np.zeros(4)),
        r"timestamps_ms is \(4,\) float64, expected \(5,\)",
    ),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_shard_is_refused(name: str, shard: Path, spec: Spec) -> None:
    edit, message = HOSTILE[name]
    with h5py.File(shard, "r+") as file:
        edit(file)
    with pytest.raises(ShardError, match=message) as caught:
        read_all(shard, spec)
    assert isinstance(caught.value, OSError)


@pytest.mark.parametrize(
    "name", ["spec of an unknown dtype", "soft link", "negative start", "no spec", "other version"]
)
def test_a_refusal_names_the_file(name: str, shard: Path, spec: Spec) -> None:
    with h5py.File(shard, "r+") as file:
        HOSTILE[name][0](file)
    with pytest.raises(ShardError) as caught:
        read_all(shard, spec)
    assert str(shard) in str(caught.value)


def test_a_whole_shard_is_accepted(shard: Path, spec: Spec) -> None:
    read_all(shard, spec)
    info = read_shard(shard)
    assert info.number == 1
    assert info.spec == spec
    assert info.features.shape == (5, 4)
    assert [row.video_id for row in read_rows(shard)] == ["v1", "v2"]


def test_a_user_block_before_the_data_moves_no_features(shard: Path, spec: Spec) -> None:
    wrapped = shard.with_suffix(".tmp")
    with h5py.File(shard, "r") as file, h5py.File(wrapped, "w", userblock_size=512) as copy:
        for name in file:
            copy[name] = file[name][()]
        for name in file.attrs:
            copy.attrs[name] = file.attrs[name]
    os.replace(wrapped, shard)
    assert FeatureSet(shard.parent, spec)["v2"].tolist() == [[2] * 4] * 2


@pytest.mark.parametrize("keep", [0.0, 0.01, 0.3, 0.5, 0.9, 0.999])
def test_a_truncated_shard_is_refused(keep: float, shard: Path) -> None:
    os.truncate(shard, int(shard.stat().st_size * keep))
    with pytest.raises(ShardError, match="not a whole, readable shard of format version 1"):
        read_shard(shard)


@pytest.mark.parametrize("declared", [(1000, 4), (1 << 62, 4), (5, 1 << 62)])
def test_features_that_declare_more_than_the_file_holds_are_refused(declared: tuple[int, int], shard: Path) -> None:
    raw = shard.read_bytes()
    shape, forged = struct.pack("<4Q", 5, 4, 5, 4), struct.pack("<4Q", *declared, *declared)
    assert raw.count(shape) == 1
    shard.write_bytes(raw.replace(shape, forged))
    with pytest.raises(ShardError, match="'features'"):
        read_shard(shard)


def test_features_beyond_the_end_of_the_file_are_refused(shard: Path) -> None:
    with h5py.File(shard, "r") as file:
        offset, num_bytes = file["features"].id.get_offset(), file["features"].nbytes
    raw = shard.read_bytes()
    extent, forged = struct.pack("<QQ", offset, num_bytes), struct.pack("<QQ", len(raw) - 16, num_bytes)
    assert raw.count(extent) == 1
    shard.write_bytes(raw.replace(extent, forged))
    with pytest.raises(ShardError, match="'features'"):
        read_shard(shard)


@pytest.mark.parametrize("content", [b"", b"not HDF5", b"\x89HDF\r\n\x1a\n", bytes(5000)])
def test_what_is_no_hdf5_is_refused(content: bytes, shard: Path) -> None:
    shard.write_bytes(content)
    with pytest.raises(ShardError, match="not a whole, readable shard of format version 1"):
        read_shard(shard)


def test_a_folder_in_the_place_of_a_shard_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "shard-000001-00000000.h5"
    path.mkdir()
    with pytest.raises(ShardError, match="not a whole, readable shard of format version 1"):
        read_shard(path)


def test_a_flipped_byte_anywhere_is_refused_or_leaves_the_shard_readable(shard: Path, spec: Spec) -> None:
    whole = shard.read_bytes()
    with h5py.File(shard, "r") as file:
        data = [
            range(d.id.get_offset(), d.id.get_offset() + d.nbytes) for d in (file["features"], file["timestamps_ms"])
        ]
    escaped: dict[int, Exception] = {}
    positions = [
        p for p in (*range(0, 1000, 17), *range(1000, len(whole), 131)) if not any(p in extent for extent in data)
    ]
    for position in positions:
        shard.write_bytes(whole[:position] + bytes([whole[position] ^ 0xFF]) + whole[position + 1 :])
        try:
            read_shard(shard)
            read_rows(shard)
        except ShardError:
            pass
        except Exception as error:
            escaped[position] = error
    assert not escaped


@pytest.mark.parametrize(
    ("name", "number"),
    [
        ("shard-000001-0123abcd.h5", 1),
        ("shard-123456-0123abcd.h5", 123456),
        ("shard-1234567-0123abcd.h5", 1234567),
        (".shard-000001-0123abcd.h5.partial", None),
        ("shard-000001-0123abcd.h5.partial", None),
        ("shard-00001-0123abcd.h5", None),
        ("shard-000001-0123ABCD.h5", None),
        ("shard-000001-0123abc.h5", None),
        ("shard-000001.h5", None),
        ("old-shard-000001-0123abcd.h5", None),
        ("spec.json", None),
    ],
)
def test_only_sealed_shards_have_a_number(name: str, number: int | None) -> None:
    assert shard_number(Path("folder") / name) == number


def test_a_pipe_in_the_place_of_a_shard_is_refused_at_once(tmp_path: Path) -> None:
    path = tmp_path / "shard-000001-00000000.h5"
    os.mkfifo(path)
    with pytest.raises(ShardError, match="not a file"):
        read_shard(path)
