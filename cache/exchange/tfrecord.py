"""TFRecord files and the SequenceExamples in them, without TensorFlow.

A record is its length (uint64), a check sum of that, its bytes, and a check sum of these (both CRC-32C, masked); all
little-endian. https://www.tensorflow.org/tutorials/load_data/tfrecord describes it, and
``tensorflow/core/example/{feature,example}.proto`` the messages.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import IO, Any

import google_crc32c
import numpy as np
from numpy.typing import NDArray

TFRECORD_SUFFIXES = frozenset({".tfrecord", ".tfrecords"})
_HEAD = struct.Struct("<QI")
_SUM = struct.Struct("<I")
_MAX_BYTES = (1 << 31) - 1  # of a message of protocol buffers
_PACKED_FLOATS = b"\x0a"  # FloatList: field 1, with its length before it


class RecordError(ValueError):
    """A record is damaged.

    Attributes:
        last: Whether the file cannot be read beyond it.
    """

    def __init__(self, message: str, last: bool) -> None:
        super().__init__(message)
        self.last = last


def read_records(path: Path) -> Iterator[bytes | RecordError]:
    """The records of a file, one after the other, and an error in the place of each that is damaged.

    Raises:
        OSError: The file cannot be read.
    """
    size = path.stat().st_size
    with path.open("rb") as stream:
        while head := stream.read(_HEAD.size):
            if len(head) < _HEAD.size:
                yield RecordError("the file is cut off within a record", True)
                return
            length, length_sum = _HEAD.unpack(head)
            if masked_crc(head[:8]) != length_sum:
                yield RecordError("a record's length has a wrong check sum: damaged, compressed or no TFRecord", True)
                return
            if length > size - stream.tell() - _SUM.size:
                yield RecordError("the file is cut off within a record", True)
                return
            if length > _MAX_BYTES:
                yield RecordError(f"a record of {length} bytes; expected at most {_MAX_BYTES}", True)
                return
            content = stream.read(length)
            (content_sum,) = _SUM.unpack(stream.read(_SUM.size))
            intact = masked_crc(content) == content_sum
            yield content if intact else RecordError("the check sum of the record is wrong: it is damaged", False)


def write_record(stream: IO[bytes], content: bytes) -> None:
    """Appends a record."""
    length = struct.pack("<Q", len(content))
    stream.write(length + _SUM.pack(masked_crc(length)))
    stream.write(content)
    stream.write(_SUM.pack(masked_crc(content)))


def masked_crc(content: bytes) -> int:
    """CRC-32C, rotated and shifted as TFRecord has it, so that a sum of sums is not one too."""
    crc: int = google_crc32c.value(content)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


@lru_cache(maxsize=1)
def sequence_example_class() -> Any:
    """The message ``SequenceExample``, in a pool of its own: TensorFlow, if it is there, has its own of that name."""
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

    kinds = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(name="example.proto", package="tensorflow", syntax="proto3")

    def message(parent: Any, name: str, *fields: tuple[str, int, int, str], of_map: bool = False) -> Any:
        """Adds a message whose fields have a name, a label, a type and the name of that type's message."""
        made = parent.add(name=name)
        made.options.map_entry = of_map
        for number, (field, label, kind, type_name) in enumerate(fields, 1):
            made.field.add(name=field, number=number, label=label, type=kind, type_name=type_name or None)
        return made

    one, many = kinds.LABEL_OPTIONAL, kinds.LABEL_REPEATED
    for name, kind in (("Bytes", kinds.TYPE_BYTES), ("Float", kinds.TYPE_FLOAT), ("Int64", kinds.TYPE_INT64)):
        message(file.message_type, f"{name}List", ("value", many, kind, ""))
    nested = kinds.TYPE_MESSAGE
    lists = [(f"{kind}_list", one, nested, f".tensorflow.{kind.title()}List") for kind in ("bytes", "float", "int64")]
    feature = message(file.message_type, "Feature", *lists)
    feature.oneof_decl.add(name="kind")
    for field in feature.field:
        field.oneof_index = 0
    message(file.message_type, "FeatureList", ("feature", many, nested, ".tensorflow.Feature"))
    for holder, field, value in (("Features", "feature", "Feature"), ("FeatureLists", "feature_list", "FeatureList")):
        entry = f"{value}Entry"
        outer = message(file.message_type, holder, (field, many, nested, f".tensorflow.{holder}.{entry}"))
        key = ("key", one, kinds.TYPE_STRING, "")
        message(outer.nested_type, entry, key, ("value", one, nested, f".tensorflow.{value}"), of_map=True)
    message(
        file.message_type,
        "SequenceExample",
        ("context", one, nested, ".tensorflow.Features"),
        ("feature_lists", one, nested, ".tensorflow.FeatureLists"),
    )
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("tensorflow.SequenceExample"))


def set_floats(feature: Any, values: NDArray[np.float32]) -> None:
    """Fills a ``Feature`` with floats; as the bytes that they are on the wire, which is quicker than one by one."""
    content = values.astype("<f4", copy=False).tobytes()
    feature.float_list.MergeFromString(_PACKED_FLOATS + _varint(len(content)) + content)


def get_floats(feature: Any) -> NDArray[np.float32]:
    """The floats of a ``Feature``, ``(n,)``."""
    count = len(feature.float_list.value)
    content: bytes = feature.float_list.SerializeToString()
    return np.frombuffer(content[len(content) - 4 * count :], "<f4")


def _varint(value: int) -> bytes:
    groups = []
    while value >= 0x80:
        groups.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*groups, value])
