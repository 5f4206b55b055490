"""Specs: names, fingerprints, and mismatches that can be read."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from framecache.cache import InputError, Spec, SpecMismatchError
from framecache.cache.spec import diff_specs, require_same_spec

MakeSpec = Callable[..., Spec]

OTHER_VALUES = {
    "backbone": "ResNet50",
    "weights": "77c0" * 16,
    "tap": "block4",
    "default_tap": False,
    "preprocessing": {"height": 225, "width": 224, "interpolation": "bicubic"},
    "sampling": "fps=4",
    "reduction": "gmp",
    "feature_shape": (5,),
    "dtype": "float32",
    "precision": "mixed_float16",
    "lineage": {"parents": ["77c0"], "steps": [{"op": "l2"}]},
}
SPECS = st.builds(
    Spec,
    backbone=st.text(min_size=1),
    weights=st.text("0123456789abcdef", min_size=64, max_size=64),
    tap=st.text(),
    default_tap=st.booleans(),
    preprocessing=st.dictionaries(
        st.text(),
        st.none() | st.booleans() | st.integers() | st.text() | st.floats(allow_nan=False, allow_infinity=False),
    ),
    sampling=st.sampled_from(["all", "fps=4", "num=32"]),
    reduction=st.sampled_from(["gap", "gmp", "gap+gmp", "grid"]),
    feature_shape=st.lists(st.integers(1, 10**6), min_size=1, max_size=3).map(tuple),
    dtype=st.sampled_from(["float16", "float32", "uint8"]),
    lineage=st.none() | st.just({"parents": ["77c0"], "steps": []}),
)


def test_other_values_cover_every_field_but_the_version() -> None:
    assert {*OTHER_VALUES, "format_version"} == {field.name for field in fields(Spec)}


@pytest.mark.parametrize("field", OTHER_VALUES)
def test_every_field_changes_the_fingerprint(field: str, make_spec: MakeSpec) -> None:
    assert make_spec(**{field: OTHER_VALUES[field]}).fingerprint != make_spec().fingerprint


def test_equal_specs_have_one_fingerprint_whatever_the_order_of_keys(make_spec: MakeSpec) -> None:
    turned = make_spec(preprocessing=dict(reversed(make_spec().preprocessing.items())))
    assert turned.fingerprint == make_spec().fingerprint


@pytest.mark.parametrize(
    ("changes", "short_name"),
    [
        ({}, "efficientnet-lite0.gap"),
        ({"tap": "block4", "default_tap": False}, "efficientnet-lite0@block4.gap"),
        ({"sampling": "fps=8"}, "efficientnet-lite0.gap.fps=8"),
        ({"reduction": "gap+gmp", "sampling": "num=32"}, "efficientnet-lite0.gap+gmp.num=32"),
        ({"backbone": "nets:build"}, "nets_build.gap"),
        ({"backbone": "../../etc/passwd"}, "_.._etc_passwd.gap"),
        ({"backbone": ".hidden"}, "hidden.gap"),
        ({"backbone": ".."}, "_.gap"),
        ({"backbone": "Größe 1"}, "Gr__e_1.gap"),
        ({"tap": "a/b", "default_tap": False}, "efficientnet-lite0@a_b.gap"),
    ],
)
def test_names_say_backbone_tap_reduction_and_sampling(
    changes: dict[str, Any], short_name: str, make_spec: MakeSpec
) -> None:
    spec = make_spec(**changes)
    assert spec.short_name == short_name
    assert spec.name == f"{short_name}-{spec.fingerprint[:8]}"


@given(spec=SPECS)
def test_a_name_is_one_visible_folder(spec: Spec) -> None:
    assert "/" not in spec.name
    assert not spec.name.startswith(".")
    assert spec.name.isascii()
    assert spec.name.isprintable()
    assert " " not in spec.name


@given(spec=SPECS)
def test_a_spec_survives_its_json(spec: Spec) -> None:
    again = Spec.from_dict(json.loads(json.dumps(spec.to_dict())))
    assert again == spec
    assert again.fingerprint == spec.fingerprint


def test_to_dict_holds_plain_json_values(spec: Spec) -> None:
    values = spec.to_dict()
    assert values["feature_shape"] == [4]
    assert list(values) == [field.name for field in fields(Spec) if field.name != "lineage"]


def test_an_extracted_set_has_no_lineage_and_a_derived_one_keeps_it(spec: Spec) -> None:
    assert "lineage" not in spec.to_dict()
    derived = replace(spec, lineage=OTHER_VALUES["lineage"])
    assert Spec.from_dict(derived.to_dict()) == derived
    with pytest.raises(InputError, match="lineage: expected dict, found 5"):
        Spec.from_dict({**spec.to_dict(), "lineage": 5})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dtype": "float64"}, r"dtype: expected one of float16, float32, uint8, found 'float64'"),
        ({"feature_shape": ()}, r"feature_shape: expected positive sizes, found \(\)"),
        ({"feature_shape": (4, 0)}, r"feature_shape: expected positive sizes, found \(4, 0\)"),
        ({"feature_shape": (-1,)}, r"feature_shape: expected positive sizes, found \(-1,\)"),
        ({"format_version": 2}, r"format version 2: this framecache reads version 1; install the release"),
    ],
)
def test_impossible_values_are_refused(changes: dict[str, Any], message: str, make_spec: MakeSpec) -> None:
    with pytest.raises(InputError, match=message):
        make_spec(**changes)


def without(values: dict[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in values.items() if key != name}


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda values: without(values, "tap"), r"here: not a spec of format version 1; fields that differ: \['tap'\]"),
        (lambda values: {**values, "pooling": 1}, r"here: not a spec .* fields that differ: \['pooling'\]"),
        (lambda values: [values], r"here: not a spec .*: list"),
        (lambda values: None, r"here: not a spec .*: NoneType"),
        (lambda values: {**values, "feature_shape": 4}, r"here: feature_shape: expected a list of integers, found 4"),
        (lambda values: {**values, "feature_shape": [4.0]}, r"here: feature_shape: expected a list of integers"),
        (lambda values: {**values, "feature_shape": [True]}, r"here: feature_shape: expected a list of integers"),
        (lambda values: {**values, "feature_shape": "44"}, r"here: feature_shape: expected a list of integers"),
    ],
)
def test_what_is_no_spec_is_refused_with_its_origin(
    edit: Callable[[dict[str, Any]], Any], message: str, spec: Spec
) -> None:
    with pytest.raises(InputError, match=message):
        Spec.from_dict(edit(spec.to_dict()), "here")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("backbone", 5),
        ("weights", None),
        ("tap", ["top_conv"]),
        ("sampling", 8),
        ("preprocessing", [224]),
        ("preprocessing", {"mean": float("nan")}),
    ],
)
def test_a_spec_from_json_has_fields_of_the_right_kind(field: str, value: object, spec: Spec) -> None:
    with pytest.raises(InputError, match=field):
        Spec.from_dict({**spec.to_dict(), field: value}, "here")


@pytest.mark.parametrize(
    ("old", "new", "lines"),
    [
        ({"sampling": "fps=4"}, {"sampling": "fps=8"}, ["sampling: fps=4 → fps=8"]),
        ({"weights": "3fa9" * 16}, {"weights": "77c0" * 16}, ["weights: 3fa9… → 77c0…"]),
        ({"a": {"b": {"c": 1}, "d": 2}}, {"a": {"b": {"c": 3}, "d": 2}}, ["a.b.c: 1 → 3"]),
        ({"shape": [4]}, {"shape": [4, 5]}, ["shape: [4] → [4, 5]"]),
        ({"flag": True}, {"flag": False}, ["flag: true → false"]),
        ({"gone": "x"}, {"new": 1}, ["gone: x → (none)", "new: (none) → 1"]),
        ({"b": 1, "a": 1}, {"b": 2, "a": 2}, ["a: 1 → 2", "b: 1 → 2"]),
        ({"same": 1}, {"same": 1}, []),
    ],
)
def test_a_difference_reads_old_arrow_new(old: dict[str, Any], new: dict[str, Any], lines: list[str]) -> None:
    assert diff_specs(old, new) == lines


def test_another_spec_is_refused_with_every_difference(make_spec: MakeSpec) -> None:
    found = make_spec(sampling="fps=8", weights="77c0" * 16, preprocessing={"height": 225})
    with pytest.raises(SpecMismatchError) as caught:
        require_same_spec(make_spec(sampling="fps=4"), found, "shard.h5")
    message = str(caught.value)
    assert message.startswith("shard.h5: made under another spec (")
    assert "sampling: fps=4 → fps=8" in message
    assert "weights: 3fa9… → 77c0…" in message
    assert "preprocessing.height: 224 → 225" in message
    assert "preprocessing.width: 224 → (none)" in message
    assert found.name in message


def test_an_equal_spec_is_accepted(make_spec: MakeSpec) -> None:
    require_same_spec(make_spec(), make_spec(), "shard.h5")
