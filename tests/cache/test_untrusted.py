"""A shard from anybody: refused unless it is plain, also where its check sums fit."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from framecache.cache import FeatureSet, ShardError, Spec
from framecache.cache.ledger import LEDGER_FILE, LedgerRow, append_journal
from framecache.cache.shard import read_rows
from framecache.cache.verify_worker import examine

from .conftest import read_all, reseal

Edit = Callable[[h5py.File], None]

INT64_MAX = np.iinfo(np.int64).max


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


def named(name: bytes) -> Edit:
    """Gives the second video another name, in a field that has the room."""

    def edit(file: h5py.File) -> None:
        retyped("index", "video_id", "S40", [b"v1", name])(file)

    return edit


def placed(starts: list[int], lengths: list[int]) -> Edit:
    def edit(file: h5py.File) -> None:
        rows = file["index"][()]
        rows["start"], rows["length"] = starts, lengths
        file["index"][...] = rows

    return edit


def loop(file: h5py.File) -> None:
    file["loop"] = file["/"]


def second_name(file: h5py.File) -> None:
    file["more"] = file["features"]


def committed_type(file: h5py.File) -> None:
    file["type"] = np.dtype("f8")


def references(file: h5py.File) -> None:
    fields = file["index"].dtype.fields.items()
    types = [(name, h5py.ref_dtype if name == "digest" else kind) for name, (kind, _) in fields]
    replace_dataset(file, "index", shape=(2,), dtype=np.dtype(types))


SUMS_FIT: dict[str, tuple[Edit, str]] = {
    "one name twice": (named(b"v1"), "names a video twice, or a path"),
    "parent folder": (named(b"../v2"), r"or a path \(\['../v2'\]\)"),
    "hidden parent folder": (named(b"a/../../v2"), "or a path"),
    "absolute name": (named(b"/etc/passwd"), "or a path"),
    "NUL in a name": (named(b"v2\0.mp4"), "or a path"),
    "no name": (named(b""), "or a path"),
    "overlapping ranges": (placed([0, 2], [3, 3]), "do not follow each other, or leave frames to nobody"),
    "one range within the other": (placed([0, 0], [5, 2]), "do not follow each other"),
    "frames of nobody between": (placed([0, 3], [2, 2]), "do not follow each other, or leave frames to nobody"),
    "frames of nobody at the end": (placed([0, 3], [3, 1]), "leave frames to nobody"),
    "backwards": (placed([2, 0], [3, 2]), "do not follow each other"),
    "negative start": (placed([-3, 0], [3, 5]), "points outside the 5 frames"),
    "lengths that overflow": (placed([0, 0], [INT64_MAX, INT64_MAX]), "points outside the 5 frames"),
    "start that is no number": (retyped("index", "start", "f8", np.nan), "'index' has fields"),
    "unsigned length": (retyped("index", "length", "u8", 1), "'index' has fields"),
    "dataset that does not belong": (lambda file: file.create_dataset("more", data=[1]), "holds 'more'"),
    "group that does not belong": (lambda file: file.create_group("more"), "holds 'more'"),
    "type that does not belong": (committed_type, "holds 'type'"),
    "cycle of hard links": (loop, "holds 'loop'"),
    "second name of the features": (second_name, "holds 'more'"),
    "attribute that does not belong": (attribute("more", 1), "attribute 'more', which no shard .* has"),
    "text attribute of variable length that does not belong": (attribute("more", "text"), "attribute 'more'"),
    "software of numbers": (attribute("software", np.bytes_(b'{"numpy": 2}')), "expected an object of strings"),
}


@pytest.mark.parametrize("name", SUMS_FIT)
def test_a_hostile_shard_is_refused_though_its_sums_fit(name: str, shard: Path, spec: Spec) -> None:
    edit, message = SUMS_FIT[name]
    with h5py.File(shard, "r+") as file:
        edit(file)
    reseal(shard)
    with pytest.raises(ShardError, match=message):
        FeatureSet(shard.parent, spec)  # opening is enough: no feature was read
    *_, answer = examine(json.dumps({"path": str(shard), "spec": spec.to_dict()}).encode())
    assert json.loads(answer)["error"]


WARNINGS: dict[str, tuple[Edit, str]] = {
    "warnings that are not JSON": (
        column("ledger", "warnings", b"{"),
        "Expecting property name",
    ),
    "warnings that are no list": (
        column("ledger", "warnings", b"5"),
        "expected a list, found 5",
    ),
    "warnings nested too deep": (
        retyped("ledger", "warnings", "S20000", b"[" * 20000),
        "recursion",
    ),
}


@pytest.mark.parametrize("name", WARNINGS)
def test_hostile_warnings_are_refused_though_their_sums_fit(name: str, shard: Path, spec: Spec) -> None:
    edit, message = WARNINGS[name]
    with h5py.File(shard, "r+") as file:
        edit(file)
    reseal(shard)
    with pytest.raises(ShardError, match=f"not a whole, readable shard .*{message}"):
        read_rows(shard)


def test_an_edit_that_harms_nobody_is_accepted_when_its_sums_fit(shard: Path, spec: Spec) -> None:
    """Otherwise the refusals above might come from the sums."""
    with h5py.File(shard, "r+") as file:
        named(b"class/other name.mp4")(file)
    with pytest.raises(ShardError, match="not the ones that were written"):
        read_all(shard, spec)
    reseal(shard)
    read_all(shard, spec)


@pytest.mark.parametrize(
    "value",
    ["text of variable length", [np.bytes_(b"one"), np.bytes_(b"two")], 5, np.zeros(3), h5py.Empty("S8")],
    ids=["vlen", "array", "integer", "floats", "empty"],
)
@pytest.mark.parametrize("name", ["spec", "software", "shard", "index_digest", "ledger_digest"])
def test_an_attribute_of_another_kind_is_refused(name: str, value: Any, shard: Path, spec: Spec) -> None:
    with h5py.File(shard, "r+") as file:
        file.attrs[name] = value
    with pytest.raises(ShardError, match=f"its {name} attribute is missing or not JSON"):
        read_all(shard, spec)


def test_an_attribute_of_references_is_refused(shard: Path, spec: Spec) -> None:
    with h5py.File(shard, "r+") as file:
        file.attrs["software"] = file["features"].ref
    with pytest.raises(ShardError, match="its software attribute is missing or not JSON"):
        read_all(shard, spec)


def test_references_in_the_index_are_refused(shard: Path, spec: Spec) -> None:
    with h5py.File(shard, "r+") as file:
        references(file)
    with pytest.raises(ShardError, match="'index'"):
        read_all(shard, spec)


def test_a_huge_attribute_is_refused_unread(shard: Path, spec: Spec) -> None:
    wrapped = shard.with_suffix(".tmp")
    with h5py.File(shard, "r") as file, h5py.File(wrapped, "w", libver="latest") as copy:
        for name in file:
            copy[name] = file[name][()]
        for name in file.attrs:
            copy.attrs[name] = file.attrs[name]
        copy.attrs["software"] = np.bytes_(b'{"a": "' + b"x" * (1 << 20) + b'"}')
    wrapped.replace(shard)
    with pytest.raises(ShardError, match="its software attribute has 1048585 bytes, expected 65536 at most"):
        read_all(shard, spec)


@pytest.mark.parametrize(("moved", "onto"), [("timestamps_ms", "features"), ("features", "index")])
def test_datasets_that_share_bytes_are_refused(moved: str, onto: str, shard: Path, spec: Spec) -> None:
    with h5py.File(shard, "r") as file:
        (offset, size), target = ((file[moved].id.get_offset(), file[moved].nbytes), file[onto].id.get_offset())
    raw = shard.read_bytes()
    extent = struct.pack("<QQ", offset, size)
    assert raw.count(extent) == 1
    shard.write_bytes(raw.replace(extent, struct.pack("<QQ", target, size)))
    with pytest.raises(ShardError, match=r"begins within '.*'; the bytes of two datasets overlap"):
        read_all(shard, spec)


def test_a_link_to_a_shard_is_refused(shard: Path, spec: Spec, tmp_path: Path) -> None:
    outside = shard.rename(tmp_path / shard.name)
    shard.symlink_to(outside)
    with pytest.raises(ShardError, match="not a file"):
        FeatureSet(shard.parent, spec)
    outside.unlink()
    with pytest.raises(ShardError, match="not a file"):  # and at once, though the link leads nowhere
        FeatureSet(shard.parent, spec)


@pytest.mark.parametrize("video_id", ["../x", "/x", "a/../x", "", "x\0y"])
def test_a_ledger_line_with_a_path_for_a_name_is_passed_over(video_id: str, shard: Path, spec: Spec) -> None:
    append_journal(shard.parent, 1, [LedgerRow(video_id, "", "duplicate", source_digest="content of v1")])
    features = FeatureSet(shard.parent, spec)
    assert set(features) == set(features.ledger()) == {"v1", "v2"}


@pytest.mark.parametrize("number", [-1, 10**12, 10**300])
def test_a_ledger_line_after_a_shard_that_cannot_be_is_passed_over(number: int, shard: Path, spec: Spec) -> None:
    append_journal(shard.parent, number, [LedgerRow("v1", "", "failed", "by force")])
    features = FeatureSet(shard.parent, spec)
    assert features.ledger()["v1"].status == "ok"
    assert features.last_shard == 1
    assert (shard.parent / LEDGER_FILE).exists()
