"""The subset of msgpack that the protocol uses, read strictly.

Not a general msgpack library: a reader here asks for the type that the protocol names, and anything else is
a :class:`~brokerd.numbers.ProtocolError`. Nothing is allocated on the word of a length that has not been
compared with the bytes that are there.
"""

from __future__ import annotations

import struct
from typing import Dict, List, Mapping, NamedTuple, NoReturn, Optional, Union

from .numbers import ProtocolError

Buffer = Union[bytes, bytearray, memoryview]
MetadataValue = Union[None, bool, int, float, str, bytes]
Metadata = Dict[str, MetadataValue]

NESTING_MAX = 16
METADATA_BYTES_MAX = 16_384
METADATA_ENTRIES_MAX = 64
METADATA_KEY_BYTES_MAX = 128
INT64_MIN, INT64_MAX = -(2**63), 2**63 - 1


class _Head(NamedTuple):
    family: str
    number: Optional[struct.Struct]  # of the value or length that follows the first byte
    value: int  # if nothing follows


def _heads() -> List[_Head]:
    table = [_Head("integer", None, byte) for byte in range(0x80)]
    table += [_Head("map", None, byte & 15) for byte in range(0x80, 0x90)]
    table += [_Head("array", None, byte & 15) for byte in range(0x90, 0xA0)]
    table += [_Head("string", None, byte & 31) for byte in range(0xA0, 0xC0)]
    table += [_Head("nil", None, 0), _Head("unused byte", None, 0)]
    table += [_Head("boolean", None, 0), _Head("boolean", None, 1)]
    for family, formats in (
        ("bytes", "BHI"), ("extension", "BHI"), ("float", "fd"), ("integer", "BHIQ"), ("integer", "bhiq"),
    ):
        table += [_Head(family, struct.Struct(">" + letter), 0) for letter in formats]
    table += [_Head("extension", None, 1 << power) for power in range(5)]
    for family, formats in (("string", "BHI"), ("array", "HI"), ("map", "HI")):
        table += [_Head(family, struct.Struct(">" + letter), 0) for letter in formats]
    table += [_Head("integer", None, byte - 0x100) for byte in range(0xE0, 0x100)]
    assert len(table) == 256
    return table


_HEADS = _heads()


class Reader:
    """Reads one body from front to back. ``depth`` is the number of containers that are open."""

    __slots__ = ("_body", "_view", "_position", "_end", "depth")

    def __init__(self, body: bytes) -> None:
        self._body = body
        self._view = memoryview(body).toreadonly()
        self._position = 0
        self._end = len(body)
        self.depth = 0

    @property
    def left(self) -> int:
        """Bytes that have not been read."""
        return self._end - self._position

    def _head(self, what: str) -> tuple:
        if self._position >= self._end:
            raise ProtocolError(f"{what}: the body ends before it")
        family, number, value = _HEADS[self._body[self._position]]
        self._position += 1
        if number is not None:
            if self.left < number.size:
                raise ProtocolError(f"{what}: the body ends inside it")
            (value,) = number.unpack_from(self._body, self._position)
            self._position += number.size
        return family, value

    def _wrong(self, what: str, family: str, wanted: str) -> NoReturn:
        raise ProtocolError(f"{what}: is {family}, not {wanted}")

    def _take(self, length: int, what: str) -> memoryview:
        if length > self.left:
            raise ProtocolError(f"{what}: {length} bytes announced, {self.left} left")
        start = self._position
        self._position += length
        return self._view[start : self._position]

    def integer(self, low: int, high: int, what: str) -> int:
        family, value = self._head(what)
        if family != "integer":
            self._wrong(what, family, "an integer")
        if not low <= value <= high:
            raise ProtocolError(f"{what}: {value} is not in {low} to {high}")
        return value

    def boolean(self, what: str) -> bool:
        family, value = self._head(what)
        if family != "boolean":
            self._wrong(what, family, "a boolean")
        return bool(value)

    def text(self, bytes_max: int, what: str) -> str:
        family, length = self._head(what)
        if family != "string":
            self._wrong(what, family, "a string")
        return self._text_of(length, bytes_max, what)

    def _text_of(self, length: int, bytes_max: int, what: str) -> str:
        raw = self._take(length, what)
        if length > bytes_max:
            raise ProtocolError(f"{what}: {length} bytes, the limit is {bytes_max}")
        try:
            return str(raw, "utf-8")
        except UnicodeDecodeError:
            raise ProtocolError(f"{what}: is not valid UTF-8") from None

    def binary(self, bytes_max: int, what: str) -> memoryview:
        family, length = self._head(what)
        if family != "bytes":
            self._wrong(what, family, "bytes")
        raw = self._take(length, what)
        if length > bytes_max:
            raise ProtocolError(f"{what}: {length} bytes, the limit is {bytes_max}")
        return raw

    def nil(self) -> bool:
        """Reads a nil if one is next, and says whether."""
        if self._position < self._end and self._body[self._position] == 0xC0:
            self._position += 1
            return True
        return False

    def array(self, count_max: int, what: str) -> int:
        """Reads the head of an array: its number of elements, each of which takes a byte at least."""
        family, count = self._head(what)
        if family != "array":
            self._wrong(what, family, "an array")
        if count > self.left:
            raise ProtocolError(f"{what}: {count} elements announced, {self.left} bytes left")
        if count > count_max:
            raise ProtocolError(f"{what}: {count} elements, the limit is {count_max}")
        return count

    def skip(self, what: str) -> None:
        """Reads a value of any type and forgets it."""
        family, value = self._head(what)
        if family == "unused byte":
            self._wrong(what, family, "a value")
        if family in ("string", "bytes"):
            self._take(value, what)
        elif family == "extension":
            self._take(value + 1, what)  # its type is a byte
        elif family in ("array", "map"):
            count = value if family == "array" else 2 * value
            if count > self.left:
                raise ProtocolError(f"{what}: {count} elements announced, {self.left} bytes left")
            if self.depth == NESTING_MAX:
                raise ProtocolError(f"{what}: nested deeper than {NESTING_MAX}")
            self.depth += 1
            for _ in range(count):
                self.skip(what)
            self.depth -= 1

    def metadata(self, what: str) -> Metadata:
        """Reads nil or a map. The first of equal keys counts."""
        if self.nil():
            return {}
        start = self._position
        family, count = self._head(what)
        if family != "map":
            self._wrong(what, family, "a map")
        if count > METADATA_ENTRIES_MAX:
            raise ProtocolError(f"{what}: {count} entries, the limit is {METADATA_ENTRIES_MAX}")
        result: Metadata = {}
        for number in range(count):
            key = self.text(METADATA_KEY_BYTES_MAX, f"{what}: key {number}")
            value = self._metadata_value(f"{what}: value of {key!r}")
            result.setdefault(key, value)
        if self._position - start > METADATA_BYTES_MAX:
            raise ProtocolError(f"{what}: {self._position - start} bytes, the limit is {METADATA_BYTES_MAX}")
        return result

    def _metadata_value(self, what: str) -> MetadataValue:
        family, value = self._head(what)
        if family == "nil":
            return None
        if family == "boolean":
            return bool(value)
        if family == "integer":
            if value > INT64_MAX:
                raise ProtocolError(f"{what}: {value} is over {INT64_MAX}")
            return value
        if family == "float":
            return value
        if family == "string":
            return self._text_of(value, METADATA_BYTES_MAX, what)
        if family == "bytes":
            return bytes(self._take(value, what))
        self._wrong(what, family, "a value that metadata can hold")


_FORMS = {letter: struct.Struct(">B" + letter) for letter in "BHIQbhiqd"}


def put_integer(out: bytearray, value: int) -> None:
    """Appends the shortest form."""
    if 0 <= value < 0x80 or -0x20 <= value < 0:
        out.append(value & 0xFF)
    elif 0 <= value < 2**8:
        out += _FORMS["B"].pack(0xCC, value)
    elif 0 <= value < 2**16:
        out += _FORMS["H"].pack(0xCD, value)
    elif 0 <= value < 2**32:
        out += _FORMS["I"].pack(0xCE, value)
    elif 0 <= value < 2**64:
        out += _FORMS["Q"].pack(0xCF, value)
    elif -(2**7) <= value < 0:
        out += _FORMS["b"].pack(0xD0, value)
    elif -(2**15) <= value < 0:
        out += _FORMS["h"].pack(0xD1, value)
    elif -(2**31) <= value < 0:
        out += _FORMS["i"].pack(0xD2, value)
    else:
        out += _FORMS["q"].pack(0xD3, value)


def put_boolean(out: bytearray, value: bool) -> None:
    out.append(0xC3 if value else 0xC2)


def put_nil(out: bytearray) -> None:
    out.append(0xC0)


def _put_length(out: bytearray, length: int, fixed: int, fixed_max: int, codes: tuple) -> None:
    """Appends the shortest head: one byte up to fixed_max, else those of codes that exist."""
    if length <= fixed_max:
        out.append(fixed | length)
    elif length < 2**8 and codes[0]:
        out += _FORMS["B"].pack(codes[0], length)
    elif length < 2**16:
        out += _FORMS["H"].pack(codes[1], length)
    else:
        out += _FORMS["I"].pack(codes[2], length)


def put_text(out: bytearray, value: str) -> None:
    raw = value.encode("utf-8")
    _put_length(out, len(raw), 0xA0, 31, (0xD9, 0xDA, 0xDB))
    out += raw


def put_binary_head(out: bytearray, length: int) -> None:
    _put_length(out, length, 0, -1, (0xC4, 0xC5, 0xC6))


def put_array(out: bytearray, count: int) -> None:
    _put_length(out, count, 0x90, 15, (0, 0xDC, 0xDD))


def put_array32(out: bytearray, count: int) -> None:
    """Appends the longest head, as brokerd itself does for the items of Inputs."""
    out += _FORMS["I"].pack(0xDD, count)


def put_metadata(out: bytearray, metadata: Optional[Mapping[str, MetadataValue]]) -> None:
    """Appends metadata, nil if there is none; ProtocolError if it is over a limit or of a wrong type."""
    if not metadata:
        put_nil(out)
        return
    if len(metadata) > METADATA_ENTRIES_MAX:
        raise ProtocolError(f"metadata: {len(metadata)} entries, the limit is {METADATA_ENTRIES_MAX}")
    start = len(out)
    _put_length(out, len(metadata), 0x80, 15, (0, 0xDE, 0xDF))
    for key, value in metadata.items():
        if not isinstance(key, str) or len(key.encode("utf-8")) > METADATA_KEY_BYTES_MAX:
            raise ProtocolError(f"metadata: {key!r} is not a str of at most {METADATA_KEY_BYTES_MAX} bytes")
        put_text(out, key)
        _put_metadata_value(out, key, value)
    if len(out) - start > METADATA_BYTES_MAX:
        raise ProtocolError(f"metadata: {len(out) - start} bytes, the limit is {METADATA_BYTES_MAX}")


def _put_metadata_value(out: bytearray, key: str, value: MetadataValue) -> None:
    if value is None:
        put_nil(out)
    elif isinstance(value, bool):
        put_boolean(out, value)
    elif isinstance(value, int):
        if not INT64_MIN <= value <= INT64_MAX:
            raise ProtocolError(f"metadata: {key!r}: {value} does not fit 64 bits with a sign")
        put_integer(out, value)
    elif isinstance(value, float):
        out += _FORMS["d"].pack(0xCB, value)
    elif isinstance(value, str):
        put_text(out, value)
    elif isinstance(value, (bytes, bytearray, memoryview)):
        raw = bytes(value)
        put_binary_head(out, len(raw))
        out += raw
    else:
        raise ProtocolError(f"metadata: {key!r}: {type(value).__name__} is not a type that metadata can hold")
