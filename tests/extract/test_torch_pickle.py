"""Legacy PyTorch files, assembled here opcode by opcode: read exactly, or refused without harm."""

import copyreg
import pickle
import struct
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from framecache.cache.errors import InputError
from framecache.extract.torch_pickle import MAGIC_NUMBER, PROTOCOL_VERSION, load_tensors

SYSTEM = {"protocol_version": 1001, "little_endian": True, "type_sizes": {"short": 2, "int": 4, "long": 4}}


# An assembler for pickles: each function returns the opcodes that leave one value on the stack.


def value(item: object) -> bytes:
    """None, a bool, a str or an int."""
    if isinstance(item, str):
        return b"X" + struct.pack("<I", len(item)) + item.encode()
    return pickle.dumps(item, 2)[2:-1]


def many(*items: bytes) -> bytes:
    return b"(" + b"".join(items) + b"t"


def ints(*numbers: int) -> bytes:
    return many(*map(value, numbers))


def named(module: str, name: str) -> bytes:
    return f"c{module}\n{name}\n".encode()


def called(function: bytes, *arguments: bytes) -> bytes:
    return function + many(*arguments) + b"R"


def ordered_dict(entries: dict[str, bytes]) -> bytes:
    pairs = b"".join(value(key) + item for key, item in entries.items())
    return called(named("collections", "OrderedDict")) + b"(" + pairs + b"u"


def storage(key: str, kind: str, num_elements: int, view: bytes = b"N") -> bytes:
    parts = [value("storage"), named("torch", kind), value(key), value("cpu"), value(num_elements), view]
    return many(*parts) + b"Q"


def tensor(source: bytes, offset: bytes, shape: bytes, strides: bytes) -> bytes:
    rebuild = named("torch._utils", "_rebuild_tensor_v2")
    return called(rebuild, source, offset, shape, strides, value(False), ordered_dict({}))


def complete(opcodes: bytes) -> bytes:
    return b"\x80\x02" + opcodes + b"."


def legacy(state: bytes, data: dict[str, np.ndarray] | None = None, keys: object = None) -> bytes:
    """A whole file: the five pickles, then the storages."""
    data = data or {}
    parts = [pickle.dumps(item, 2) for item in (MAGIC_NUMBER, PROTOCOL_VERSION, SYSTEM)]
    parts += [complete(state), pickle.dumps(list(data) if keys is None else keys, 2)]
    for elements in data.values():
        parts += [struct.pack("<q", elements.size), elements.tobytes()]
    return b"".join(parts)


def write(folder: Path, content: bytes) -> Path:
    path = folder / "weights.pth"
    path.write_bytes(content)
    return path


NUMBERS = np.arange(6, dtype="<f4")
SIX = storage("0", "FloatStorage", 6)
PLAIN = tensor(SIX, value(0), ints(2, 3), ints(3, 1))
SMALL = legacy(ordered_dict({"w": PLAIN}), {"0": NUMBERS})


# What is right is read


def test_reads_a_legacy_file_exactly(tmp_path):
    state = ordered_dict(
        {
            "plain": PLAIN,
            "transposed": tensor(SIX, value(0), ints(3, 2), ints(1, 3)),
            "tail": tensor(SIX, value(4), ints(2), ints(1)),
            "counter": tensor(storage("big", "LongStorage", 1), value(0), ints(), ints()),
            "empty": tensor(storage("none", "DoubleStorage", 0), value(0), ints(0, 3), ints(3, 1)),
        }
    )
    # PyTorch hangs its table of module versions on the dict, as an attribute.
    state += b"}" + value("_metadata") + ordered_dict({}) + b"s" + b"b"
    big = np.array([2**60], "<i8")
    data = {"big": big, "none": np.array([], "<f8"), "0": NUMBERS}
    tensors = load_tensors(write(tmp_path, legacy(state, data)))

    assert list(tensors) == ["plain", "transposed", "tail", "counter", "empty"]
    np.testing.assert_array_equal(tensors["plain"], NUMBERS.reshape(2, 3))
    np.testing.assert_array_equal(tensors["transposed"], NUMBERS.reshape(2, 3).T)
    np.testing.assert_array_equal(tensors["tail"], [4, 5])
    assert tensors["counter"].shape == ()
    assert tensors["counter"] == 2**60
    assert tensors["empty"].shape == (0, 3)
    assert not any(array.flags.writeable for array in tensors.values())


@pytest.mark.parametrize(
    ("kind", "dtype"),
    [
        ("DoubleStorage", "<f8"),
        ("FloatStorage", "<f4"),
        ("HalfStorage", "<f2"),
        ("LongStorage", "<i8"),
        ("IntStorage", "<i4"),
        ("ShortStorage", "<i2"),
        ("CharStorage", "i1"),
        ("ByteStorage", "u1"),
        ("BoolStorage", "?"),
    ],
)
def test_storage_types(tmp_path, kind, dtype):
    elements = np.array([0, 1, 100]).astype(dtype)
    state = ordered_dict({"w": tensor(storage("0", kind, 3), value(0), ints(3), ints(1))})
    array = load_tensors(write(tmp_path, legacy(state, {"0": elements})))["w"]
    assert array.dtype == np.dtype(dtype)
    np.testing.assert_array_equal(array, elements)


# Nothing in a file is executed


def attacks(marker: Path) -> dict[str, bytes]:
    """Opcodes that create `marker` with a plain unpickler, in as many ways as pickle has to call things."""
    command = value(f"touch '{marker}'")
    expression = value(f"open({str(marker)!r}, 'w').close()")
    extension = b"\x82\xf0"  # EXT1 240, registered by the test; find_class is not asked once it is cached
    return {
        "os.system": called(named("os", "system"), command),
        "posix.system": called(named("posix", "system"), command),
        "eval": called(named("builtins", "eval"), expression),
        "python 2 eval": called(named("__builtin__", "eval"), expression),
        "in a tensor": ordered_dict({"w": called(named("os", "system"), command)}),
        "STACK_GLOBAL": called(value("os") + value("system") + b"\x93", command),
        "INST": b"(" + command + b"ios\nsystem\n",
        "OBJ": b"(" + named("os", "system") + command + b"o",
        "EXT1": called(extension, command),
    }


ATTACKS = sorted(attacks(Path("x")))


@pytest.fixture
def extension_240(monkeypatch):
    """os.system as pickle extension 240, already cached as after one harmless use."""
    monkeypatch.setitem(copyreg._extension_registry, ("os", "system"), 240)
    monkeypatch.setitem(copyreg._inverted_registry, 240, ("os", "system"))
    pickle.loads(b"\x80\x02\x82\xf0.")
    yield
    copyreg._extension_cache.pop(240, None)


@pytest.mark.parametrize("attack", ATTACKS)
def test_the_attacks_would_work_elsewhere(tmp_path, extension_240, attack):
    marker = tmp_path / "executed"
    pickle.loads(complete(attacks(marker)[attack]))
    assert marker.exists()


@pytest.mark.parametrize("attack", ATTACKS)
@pytest.mark.parametrize("place", ["magic", "protocol", "system", "state", "keys"])
def test_executes_nothing(tmp_path, extension_240, attack, place):
    marker = tmp_path / "executed"
    pickles = {
        "magic": pickle.dumps(MAGIC_NUMBER, 2),
        "protocol": pickle.dumps(PROTOCOL_VERSION, 2),
        "system": pickle.dumps(SYSTEM, 2),
        "state": complete(ordered_dict({"w": PLAIN})),
        "keys": pickle.dumps(["0"], 2),
    }
    pickles[place] = complete(attacks(marker)[attack])
    path = write(tmp_path, b"".join(pickles.values()) + struct.pack("<q", 6) + NUMBERS.tobytes())
    with pytest.raises(InputError, match=r"it asks for |uses the pickle opcode"):
        load_tensors(path)
    assert not marker.exists()


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("torch", "load"),
        ("torch", "BFloat16Storage"),
        ("torch", "Storage"),
        ("torch._utils", "_rebuild_parameter"),
        ("torch.storage", "FloatStorage"),
        ("collections", "OrderedDict.fromkeys"),
        ("collections", "defaultdict"),
        ("os", "OrderedDict"),
    ],
)
def test_refuses_other_names_even_uncalled(tmp_path, module, name):
    path = write(tmp_path, legacy(ordered_dict({"w": named(module, name)})))
    with pytest.raises(InputError, match=rf"weights\.pth: .*asks for {module}\.{name}; expected only"):
        load_tensors(path)


@pytest.mark.parametrize(
    "stand_in",
    [
        named("collections", "OrderedDict"),
        named("torch._utils", "_rebuild_tensor_v2"),
        named("torch", "FloatStorage"),
        SIX,
        PLAIN,
    ],
)
@pytest.mark.parametrize("state", [b"}" + value("items") + b"Ns", b"N}" + value("items") + b"Ns\x86"])
def test_refuses_to_alter_what_the_names_stand_for(tmp_path, stand_in, state):
    poisoned = ordered_dict({"w": stand_in + state + b"b"})
    with pytest.raises(InputError, match="legacy PyTorch state dict, but"):
        load_tensors(write(tmp_path, legacy(poisoned, {"0": NUMBERS})))
    assert list(load_tensors(write(tmp_path, SMALL))) == ["w"]


# What is broken is refused


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (b"", "legacy PyTorch state dict, but"),
        (b"PK\x03\x04" + bytes(100), r"found a zip archive .*_use_new_zipfile_serialization=False"),
        (b"\x89HDF\r\n\x1a\n" + bytes(100), "legacy PyTorch state dict, but"),
        (pickle.dumps(MAGIC_NUMBER + 1, 2) + SMALL, "magic number"),
        (pickle.dumps(MAGIC_NUMBER, 2) + pickle.dumps(1002, 2) + SMALL, "protocol version is not 1001"),
        (
            b"".join(pickle.dumps(item, 2) for item in (MAGIC_NUMBER, 1001, {"little_endian": False})) + SMALL,
            "little-endian",
        ),
        (SMALL + b"\0", "1 bytes follow its last storage"),
        (legacy(value("weights")), "holds a str in place of a dict"),
        (legacy(ordered_dict({"epoch": value(3)})), "entry 'epoch' is a int in place of a named tensor"),
        (
            legacy(ordered_dict({"model": ordered_dict({"w": PLAIN})}), {"0": NUMBERS}),
            "'model' is a _StateDict in place of a named tensor",
        ),
        (legacy(b"}" + value(7) + PLAIN + b"s", {"0": NUMBERS}), "in place of a named tensor"),
    ],
)
def test_refuses_other_files(tmp_path, content, match):
    with pytest.raises(InputError, match=match):
        load_tensors(write(tmp_path, content))


@pytest.mark.parametrize("name", ["missing.pth", "."])
def test_refuses_what_it_cannot_read(tmp_path, name):
    with pytest.raises(InputError, match=r"cannot be read: .*check the path"):
        load_tensors(tmp_path / name)


def test_refuses_a_file_cut_anywhere(tmp_path):
    for length in [*range(0, len(SMALL), 5), *range(len(SMALL) - 40, len(SMALL))]:
        with pytest.raises(InputError, match="legacy PyTorch state dict"):
            load_tensors(write(tmp_path, SMALL[:length]))


def test_a_flipped_bit_is_refused_or_harmless(tmp_path):
    for position in range(len(SMALL)):
        content = bytearray(SMALL)
        content[position] ^= 1 << position % 8
        try:
            tensors = load_tensors(write(tmp_path, bytes(content)))
        except InputError:
            continue
        assert all(array.size <= 6 for array in tensors.values())


@pytest.mark.parametrize(
    ("offset", "shape", "strides", "match"),
    [
        (value(1), ints(2, 3), ints(3, 1), "tensor 'w' .*outside its storage of 6 elements"),
        (value(0), ints(2, 3), ints(4, 1), "outside its storage"),
        (value(0), ints(7), ints(1), "outside its storage"),
        (value(6), ints(), ints(), "outside its storage"),
        (value(7), ints(0), ints(1), "outside its storage"),
        (value(2**62), ints(2), ints(1), "outside its storage"),
        (value(0), ints(2), ints(2**62), "outside its storage"),
        (value(0), ints(2**33, 2**33), ints(0, 0), "outside its storage"),
        (value(0), ints(7), ints(0), "outside its storage"),
        (value(-1), ints(2), ints(1), "integers from 0 up"),
        (value(5), ints(2), ints(-1), "integers from 0 up"),
        (value(0), ints(-2, -3), ints(3, 1), "integers from 0 up"),
        (value(0), many(value(True)), ints(1), "integers from 0 up"),
        (value("0"), ints(2), ints(1), "integers from 0 up"),
        (value(0), b"]" + value(2) + b"a", ints(1), "integers from 0 up"),
        (value(0), ints(2, 3), ints(1), "2 dimensions and 1 strides"),
        (value(0), ints(0, 2**70), ints(1, 1), "legacy PyTorch state dict, but"),
        (value(0), ints(1), ints(2**62), "legacy PyTorch state dict, but"),
        (value(0), ints(*[1] * 100), ints(*[1] * 100), "legacy PyTorch state dict, but"),
    ],
)
def test_refuses_a_tensor_outside_its_storage(tmp_path, offset, shape, strides, match):
    state = ordered_dict({"w": tensor(SIX, offset, shape, strides)})
    # A second storage behind it: what lies outside the first is still inside the file.
    state = state + b"(" + value("v") + tensor(storage("1", "FloatStorage", 6), value(0), ints(6), ints(1)) + b"u"
    path = write(tmp_path, legacy(state, {"0": NUMBERS, "1": NUMBERS}))
    with pytest.raises(InputError, match=match):
        load_tensors(path)


def one(source: bytes) -> bytes:
    return ordered_dict({"w": tensor(source, value(0), ints(1), ints(1))})


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (legacy(one(SIX), {"0": NUMBERS[:5]}), "'0' has 5 elements where its tensors expect 6"),
        (legacy(one(SIX), {"0": np.arange(7, dtype="<f4")}), "has 7 elements where its tensors expect 6"),
        (legacy(one(SIX), {"0": NUMBERS})[:-1], r"needs 24 bytes from byte \d+ on, found 23"),
        (legacy(one(SIX), {}), "lists 0 storages and its tensors refer to 1"),
        (legacy(one(SIX), {"1": NUMBERS}), "lists 1 storages and its tensors refer to 1"),
        (legacy(one(SIX), {"0": NUMBERS, "1": NUMBERS}), "lists 2 storages"),
        (legacy(one(SIX), {"0": NUMBERS}, keys=["0", "0"]), "lists 2 storages"),
        (legacy(one(SIX), {"0": NUMBERS}, keys={"0": 1}), "no list of storage keys"),
        (legacy(one(SIX), {"0": NUMBERS}, keys=[0]), "no list of storage keys"),
        (legacy(one(storage("0", "FloatStorage", -1))), "no number of elements from 0 up"),
        (legacy(one(storage("0", "FloatStorage", 6, view=ints(1, 2, 3)))), "a view of another"),
        (legacy(one(many(value("module"), b"N") + b"Q")), "refers to something other than"),
        (legacy(one(value("storage") + b"Q")), "refers to something other than"),
        (legacy(one(value(6))), "a tensor needs a storage, found int"),
        (
            legacy(ordered_dict({"w": PLAIN, "v": tensor(storage("0", "LongStorage", 6), value(0), ints(), ints())})),
            "'0' has two types or sizes",
        ),
    ],
)
def test_refuses_storages_that_do_not_fit(tmp_path, content, match):
    with pytest.raises(InputError, match=match):
        load_tensors(write(tmp_path, content))


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (
            legacy(one(storage("0", "FloatStorage", 2**62)), keys=["0"]) + struct.pack("<q", 2**62),
            "needs 18446744073709551616 bytes",
        ),
        (legacy(b"N" + b"r" + struct.pack("<I", 2**27)), "memoizes at index 134217728"),
        (legacy(b"X" + struct.pack("<I", 2**31 - 1)), "legacy PyTorch state dict, but"),
        (legacy(b"\x8e" + struct.pack("<Q", 2**31)), "legacy PyTorch state dict, but"),  # BINBYTES8
        (legacy(b"\x8b" + struct.pack("<i", 2**31 - 1)), "legacy PyTorch state dict, but"),  # LONG4
        (legacy(b"}N" + b"\x85" * 30_000 + b"Ns"), "builds more than 20000 tuples"),
    ],
)
def test_refuses_sizes_that_are_not_there_before_allocating_them(tmp_path, content, match):
    path = write(tmp_path, content)
    tracemalloc.start()
    try:
        with pytest.raises(InputError, match=match):
            load_tensors(path)
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak_bytes < 4_000_000
