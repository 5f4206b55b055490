"""A file of HDF5 that may come from anybody, through libhdf5: each thing is looked at before it is read.

No link is followed, and nothing is read that lies outside of the file, is larger than it may be, or is of a kind that
libhdf5 would have to follow to somewhere else.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from framecache.cache.errors import ShardError
from framecache.cache.plain_hdf5 import Extent
from framecache.cache.spec import FORMAT_VERSION

if TYPE_CHECKING:
    import h5py

MAX_TABLE_BYTES = 1 << 30
ATTRIBUTE_BYTES = 64 << 10  # HDF5's own limit in the form that we write


@contextmanager
def reading(path: Path, datasets: Collection[str], attributes: Collection[str]) -> Iterator[h5py.File]:
    """Opens a file that may hold anything; whatever goes wrong within is a :class:`ShardError`.

    Args:
        path: The file.
        datasets: What it may hold.
        attributes: And what these may be described by.
    """
    import h5py  # here and below, since most shards are read without it

    try:
        if path.is_symlink() or not path.is_file():  # a link leads out of the cache; a FIFO would be waited for
            raise ShardError(f"{path}: not a whole, readable shard of format version {FORMAT_VERSION}: not a file")
        # No locking: a visible shard never changes, and network file systems often cannot lock.
        with h5py.File(path, "r", locking=False) as file:
            for name in file:
                if not isinstance(file.get(name, getlink=True), h5py.HardLink):
                    raise ShardError(f"{path}: {name!r} is a soft or external link; a shard holds only its own data")
                if name not in datasets:
                    raise ShardError(f"{path}: holds {name!r}, which no shard of format version {FORMAT_VERSION} does")
            odd = sorted(set(file.attrs) - set(attributes))
            if odd:
                raise ShardError(f"{path}: attribute {odd[0]!r}, which no shard of format version {FORMAT_VERSION} has")
            yield file
    except ShardError:
        raise
    except Exception as error:  # h5py raises every built-in kind there is on damaged files
        raise unreadable(path, error) from error


def unreadable(path: Path, error: Exception) -> ShardError:
    """What is said of a file of which nothing better is known."""
    return ShardError(
        f"{path}: not a whole, readable shard of format version {FORMAT_VERSION} ({error}); "
        "restore it, or run framecache verify --repair and extract again"
    )


def _dataset(file: h5py.File, name: str, path: Path) -> h5py.Dataset:
    import h5py

    dataset = file.get(name)
    if not isinstance(dataset, h5py.Dataset):
        raise ShardError(f"{path}: no dataset {name!r}; expected a framecache shard of format version {FORMAT_VERSION}")
    layout = dataset.id.get_create_plist()
    if layout.get_layout() != h5py.h5d.CONTIGUOUS or layout.get_external_count() or layout.get_nfilters():
        raise ShardError(f"{path}: dataset {name!r} is not plain contiguous data within the file")
    return dataset


def extent(file: h5py.File, name: str, path: Path) -> Extent:
    """Where a dataset's bytes lie, all of them within the file."""
    found = extent_of(_dataset(file, name, path))
    size = path.stat().st_size
    if found.offset < 0 or found.offset + found.num_bytes > size:
        raise ShardError(
            f"{path}: {name!r} declares {found.num_bytes} bytes at {found.offset}, the file has {size}; it is truncated"
        )
    return found


def extent_of(dataset: h5py.Dataset) -> Extent:
    """Where libhdf5 says that a dataset's bytes lie; at -1 where they have no one place."""
    offset = dataset.id.get_offset()
    return Extent(-1 if offset is None else offset, dataset.shape, dataset.dtype)


def table(file: h5py.File, name: str, expected: Mapping[str, str], path: Path) -> NDArray[np.void]:
    """All rows of a table with just these fields, by name and kind."""
    dataset = _dataset(file, name, path)
    row = dataset.dtype  # h5py makes it anew each time
    if not has_fields(row, expected) or dataset.ndim != 1:
        raise ShardError(f"{path}: dataset {name!r} has fields {_kinds(row)}, expected {', '.join(expected)}")
    if extent(file, name, path).num_bytes > MAX_TABLE_BYTES:
        raise ShardError(f"{path}: dataset {name!r} of shape {dataset.shape} is larger than any shard's")
    rows: NDArray[np.void] = dataset[()]
    return rows


def has_fields(row: np.dtype[Any], expected: Mapping[str, str]) -> bool:
    """Whether a table's row has just these fields, by name and kind."""
    return list(_kinds(row).items()) == list(expected.items())


def _kinds(row: np.dtype[Any]) -> dict[str, str]:
    fields = {field: row[field] for field in row.names or ()}
    return {field: "S" if dtype.kind == "S" else dtype.str[1:] for field, dtype in fields.items()}


def text_attribute(file: h5py.File, name: str, path: Path) -> bytes:
    """A fixed-length string; anything else is refused before it is read."""
    import h5py

    if not h5py.h5a.exists(file.id, name.encode()):
        raise ShardError(f"{path}: its {name} attribute is missing or not JSON")
    attribute = h5py.h5a.open(file.id, name.encode())
    kind = attribute.get_type()
    if not isinstance(kind, h5py.h5t.TypeStringID) or kind.is_variable_str() or attribute.shape != ():
        raise ShardError(f"{path}: its {name} attribute is missing or not JSON")
    if kind.get_size() > ATTRIBUTE_BYTES:
        raise ShardError(
            f"{path}: its {name} attribute has {kind.get_size()} bytes, expected {ATTRIBUTE_BYTES} at most"
        )
    return bytes(file.attrs[name])
