"""Read a legacy PyTorch weights file without PyTorch, and without trusting the file.

Before version 1.6 `torch.save` wrote no zip archive but a plain stream:

    pickle   magic number 0x1950a86a20f9469cfc6c
    pickle   protocol version 1001
    pickle   system info: protocol version, byte order, sizes of short, int and long
    pickle   the state dict, its tensors as views (offset, shape, strides) of numbered storages
    pickle   the list of storage keys
    binary   per key, in that order: int64 number of elements, then the raw little-endian elements

Source: `_legacy_save` and `_legacy_load` in torch/serialization.py.

A pickle is a program, so two doors are closed before any of it runs. A scan admits only the opcodes
that such a file needs and finds where each pickle ends, which also settles that every length it
declares is there. Then the unpickler resolves three kinds of name, each to an object of this module
that can do no harm; nothing is ever imported.
"""

import io
import math
import pickle
import pickletools
import struct
from pathlib import Path
from typing import Any, NamedTuple, TypeGuard

import numpy as np
from numpy.typing import NDArray

from framecache.cache.errors import InputError

__all__ = ["load_tensors"]

MAGIC_NUMBER = 0x1950A86A20F9469CFC6C
PROTOCOL_VERSION = 1001

STORAGE_DTYPES = {
    "DoubleStorage": "<f8",
    "FloatStorage": "<f4",
    "HalfStorage": "<f2",
    "LongStorage": "<i8",
    "IntStorage": "<i4",
    "ShortStorage": "<i2",
    "CharStorage": "|i1",
    "ByteStorage": "|u1",
    "BoolStorage": "|b1",
}

# What pickle protocol 2 writes for a state dict. What is missing here matters: EXT1 and its like
# reach a cache of objects that find_class never sees, INST, OBJ and NEWOBJ construct, FRAME and the
# 8-byte strings announce sizes that the unpickler allocates before it reads.
# fmt: off
_OPCODES = frozenset({
    "PROTO", "STOP", "MARK", "NONE", "NEWTRUE", "NEWFALSE", "BININT", "BININT1", "BININT2", "LONG1",
    "BINFLOAT", "BINUNICODE", "EMPTY_TUPLE", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3", "EMPTY_LIST",
    "APPEND", "APPENDS", "EMPTY_DICT", "SETITEM", "SETITEMS", "BINPUT", "LONG_BINPUT", "BINGET",
    "LONG_BINGET", "GLOBAL", "REDUCE", "BUILD", "BINPERSID",
})
# fmt: on

# A tensor takes four tuples. Without a limit a file could nest them so deep that hashing one as a key
# overflows the C stack, which kills the process.
_MAX_TUPLES = 20_000

_SAVE = "torch.save(..., _use_new_zipfile_serialization=False)"


class _Storage(NamedTuple):
    """One run of elements of the file: its key, numpy dtype string and number of elements."""

    key: str
    dtype: str
    num_elements: int


class _View(NamedTuple):
    """A tensor as the pickle describes it: a storage and where its elements lie, in elements."""

    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


class _StateDict(dict[Any, Any]):
    """Stands in for collections.OrderedDict, whose attributes a pickle could overwrite."""

    __slots__ = ()

    def __setstate__(self, state: object) -> None:
        """Drops the module versions that PyTorch hangs on a state dict; no number needs them."""


class _RebuildTensor:
    """Stands in for torch._utils._rebuild_tensor_v2; has no attributes that a pickle could set."""

    __slots__ = ()

    def __call__(
        self,
        storage: object,
        offset: object,
        shape: object,
        strides: object,
        requires_grad: object,
        backward_hooks: object,
        metadata: object = None,
    ) -> _View:
        if not isinstance(storage, _Storage):
            raise pickle.UnpicklingError(f"a tensor needs a storage, found {_type_name(storage)}")
        if not _is_size(offset) or not _are_sizes(shape) or not _are_sizes(strides):
            raise pickle.UnpicklingError(
                "a tensor needs an offset, a shape and strides of integers from 0 up, found others"
            )
        if len(shape) != len(strides):
            raise pickle.UnpicklingError(
                f"a tensor has {len(shape)} dimensions and {len(strides)} strides; expected as many"
            )
        return _View(storage, offset, shape, strides)


class _Unpickler(pickle.Unpickler):
    """Unpickles one pickle of a legacy file; names outside the three admitted kinds are refused.

    Attributes:
        storages: The storages that the pickle's tensors refer to, by key.
    """

    def __init__(self, data: bytes) -> None:
        super().__init__(io.BytesIO(data))
        self.storages: dict[str, _Storage] = {}

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("collections", "OrderedDict"):
            return _StateDict
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _RebuildTensor()
        if module == "torch" and name in STORAGE_DTYPES:
            return STORAGE_DTYPES[name]  # a string: it can neither be called nor altered
        raise pickle.UnpicklingError(
            f"it asks for {module}.{name}; expected only collections.OrderedDict, "
            "torch._utils._rebuild_tensor_v2 and torch storages of real numbers"
        )

    def persistent_load(self, pid: Any) -> _Storage:
        if not isinstance(pid, tuple) or len(pid) != 6 or pid[0] != "storage":
            raise pickle.UnpicklingError("it refers to something other than (storage, type, key, device, size, view)")
        _, dtype, key, _, num_elements, view = pid
        if dtype not in STORAGE_DTYPES.values() or not isinstance(key, str):
            raise pickle.UnpicklingError("a storage needs a torch storage type and a text key, found others")
        if not _is_size(num_elements):
            raise pickle.UnpicklingError(f"storage {key!r} has no number of elements from 0 up")
        if view is not None:
            raise pickle.UnpicklingError(f"storage {key!r} is a view of another; expected whole storages")
        storage = _Storage(key, dtype, num_elements)
        if self.storages.setdefault(key, storage) != storage:
            raise pickle.UnpicklingError(f"storage {key!r} has two types or sizes; expected one of each")
        return storage


def load_tensors(path: Path) -> dict[str, NDArray[Any]]:
    """Reads the state dict of a legacy (not zip) PyTorch weights file.

    Nothing in the file is executed or imported, and every size is compared with the bytes that are
    there before it is used.

    Args:
        path: The file, as PyTorch before 1.6 wrote it, or later ones with
            `torch.save(model.state_dict(), path, _use_new_zipfile_serialization=False)`.

    Returns:
        The tensors by name, in the file's order, with the shapes and dtypes they were saved with:
        read-only views of the file's bytes, not necessarily contiguous or aligned.

    Raises:
        InputError: The file cannot be read, is no legacy PyTorch file, is cut short or has bytes
            left over, holds anything but a flat dict of tensors, or asks for a name or an opcode
            that is not admitted.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"weights file {path} cannot be read: {error}; check the path") from error
    if data.startswith(b"PK"):
        raise InputError(
            f"weights file {path}: expected a legacy PyTorch state dict, found a zip archive "
            f"(PyTorch 1.6 or later); save it anew with {_SAVE}"
        )
    try:
        return _parse(data)
    except (  # what a malformed pickle may raise, says the pickle module, and numpy on sizes beyond 64 bits
        pickle.UnpicklingError,
        ArithmeticError,
        AttributeError,
        EOFError,
        LookupError,
        TypeError,
        ValueError,
    ) as error:
        raise InputError(
            f"weights file {path}: expected a legacy PyTorch state dict, but {error}; "
            f"download the file again, or save it anew with {_SAVE}"
        ) from error


def _parse(data: bytes) -> dict[str, NDArray[Any]]:
    """Reads the five pickles and places the tensors in the bytes that follow them."""
    magic, position, _ = _load_pickle(data, 0)
    if magic != MAGIC_NUMBER:
        raise pickle.UnpicklingError("it does not begin with PyTorch's magic number")
    protocol, position, _ = _load_pickle(data, position)
    if protocol != PROTOCOL_VERSION:
        raise pickle.UnpicklingError(f"its protocol version is not {PROTOCOL_VERSION}")
    system, position, _ = _load_pickle(data, position)
    if not isinstance(system, dict) or system.get("little_endian") is not True:
        raise pickle.UnpicklingError("it does not say that its numbers are little-endian")
    state, position, storages = _load_pickle(data, position)
    if not isinstance(state, dict):
        raise pickle.UnpicklingError(f"it holds a {_type_name(state)} in place of a dict of tensors")
    keys, position, _ = _load_pickle(data, position)
    starts = _storage_starts(data, position, keys, storages)

    tensors: dict[str, NDArray[Any]] = {}
    for name, view in state.items():
        if not isinstance(name, str) or not isinstance(view, _View):
            raise pickle.UnpicklingError(
                f"its entry {name if isinstance(name, str) else _type_name(name)!r} is a "
                f"{_type_name(view)} in place of a named tensor"
            )
        tensors[name] = _place(data, starts[view.storage.key], name, view)
    return tensors


def _load_pickle(data: bytes, start: int) -> tuple[Any, int, dict[str, _Storage]]:
    """Unpickles what begins at `start`; returns the object, its end and the storages it names."""
    end = _scan_pickle(data, start)
    unpickler = _Unpickler(data[start:end])
    return unpickler.load(), end, unpickler.storages


def _scan_pickle(data: bytes, start: int) -> int:
    """Returns where the pickle at `start` ends, having read every opcode of it without running one.

    Raises:
        pickle.UnpicklingError: An opcode is not admitted, a memo index is larger than an honest
            pickle's (the unpickler would allocate a table of that many entries), or there are more
            tuples than any state dict needs.
        ValueError: The pickle is cut short or is no pickle.
    """
    stream = io.BytesIO(data)
    stream.seek(start)
    num_tuples = 0
    for opcode, argument, position in pickletools.genops(stream):
        if opcode.name not in _OPCODES:
            raise pickle.UnpicklingError(
                f"it uses the pickle opcode {opcode.name} at byte {position}, which no state dict needs"
            )
        if opcode.name == "LONG_BINPUT" and int(str(argument)) > len(data):
            raise pickle.UnpicklingError(f"it memoizes at index {argument} at byte {position}")
        num_tuples += opcode.name.startswith("TUPLE")
        if num_tuples > _MAX_TUPLES:
            raise pickle.UnpicklingError(f"a pickle of it builds more than {_MAX_TUPLES} tuples")
    return stream.tell()


def _storage_starts(data: bytes, position: int, keys: Any, storages: dict[str, _Storage]) -> dict[str, int]:
    """Walks the binary part from `position`; returns where each storage's elements begin."""
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
        raise pickle.UnpicklingError("it has no list of storage keys after its state dict")
    if len(keys) != len(set(keys)) or set(keys) != set(storages):
        raise pickle.UnpicklingError(
            f"it lists {len(keys)} storages and its tensors refer to {len(storages)}, where the same were expected"
        )
    starts: dict[str, int] = {}
    for key in keys:
        if len(data) - position < 8:
            raise pickle.UnpicklingError(f"it ends at byte {len(data)}, before storage {key!r}")
        (num_elements,) = struct.unpack_from("<q", data, position)
        position += 8
        storage = storages[key]
        if num_elements != storage.num_elements:
            raise pickle.UnpicklingError(
                f"storage {key!r} has {num_elements} elements where its tensors expect {storage.num_elements}"
            )
        num_bytes = num_elements * np.dtype(storage.dtype).itemsize
        if num_bytes > len(data) - position:
            raise pickle.UnpicklingError(
                f"storage {key!r} needs {num_bytes} bytes from byte {position} on, found {len(data) - position}"
            )
        starts[key] = position
        position += num_bytes
    if position != len(data):
        raise pickle.UnpicklingError(f"{len(data) - position} bytes follow its last storage")
    return starts


def _place(data: bytes, start: int, name: str, view: _View) -> NDArray[Any]:
    """Returns the tensor `name` as a view of `data`, its storage beginning at byte `start`.

    Raises:
        pickle.UnpicklingError: The tensor reaches outside its storage, or repeats elements of it.
    """
    storage, offset, shape, strides = view
    num_elements = math.prod(shape)
    reach = sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))
    end = offset + reach + 1 if num_elements else offset
    # More elements than the storage has means repeats: a small file could then claim any shape.
    if end > storage.num_elements or num_elements > storage.num_elements:
        raise pickle.UnpicklingError(
            f"tensor {name!r} (offset {offset}, shape {shape}, strides {strides}) reaches outside "
            f"its storage of {storage.num_elements} elements"
        )
    dtype = np.dtype(storage.dtype)
    return np.ndarray(
        shape,
        dtype,
        buffer=data,
        offset=start + offset * dtype.itemsize,
        strides=tuple(stride * dtype.itemsize for stride in strides),
    )


def _is_size(value: object) -> TypeGuard[int]:
    """Whether `value` is an integer from 0 up (and no bool)."""
    return type(value) is int and value >= 0


def _are_sizes(values: object) -> TypeGuard[tuple[int, ...]]:
    """Whether `values` is a tuple of integers from 0 up."""
    return type(values) is tuple and all(_is_size(value) for value in values)


def _type_name(value: object) -> str:
    """The name of the type of `value`; its repr could be as long or as deep as the file likes."""
    return type(value).__name__
