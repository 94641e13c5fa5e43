"""The messages of the protocol, and their frames.

Each class is one kind. The annotations are the schema: their order is that of the fields on the wire, and
they check limits on the way out as on the way in.
"""

from __future__ import annotations

import dataclasses
import struct
from typing import Annotated, Any, Callable, ClassVar, Dict, List, Optional, Tuple, Type, TypeVar, get_type_hints

from . import msgpack
from .msgpack import Buffer, Metadata, Reader
from .numbers import HANDSHAKE_FRAME_BYTES_MAX, DropReason, ErrorCode, Policy, ProtocolError, Role

_LENGTH = struct.Struct("<Q")


@dataclasses.dataclass(frozen=True)
class Codec:
    """How values of one field are read and written."""

    read: Callable[[Reader, str], Any]
    write: Callable[[bytearray, Any], None]


def _integer(low: int, high: int) -> Codec:
    def write(out: bytearray, value: int) -> None:
        if not low <= value <= high:
            raise ProtocolError(f"{value} is not in {low} to {high}")
        msgpack.put_integer(out, value)

    return Codec(lambda reader, what: reader.integer(low, high, what), write)


def _text(bytes_max: int) -> Codec:
    def write(out: bytearray, value: str) -> None:
        if len(value.encode("utf-8")) > bytes_max:
            raise ProtocolError(f"{value[:40]!r} is over {bytes_max} bytes")
        msgpack.put_text(out, value)

    return Codec(lambda reader, what: reader.text(bytes_max, what), write)


def _binary(bytes_max: int) -> Codec:
    def write(out: bytearray, value: Buffer) -> None:
        if len(value) > bytes_max:
            raise ProtocolError(f"{len(value)} bytes, the limit is {bytes_max}")
        msgpack.put_binary_head(out, len(value))
        out += value

    return Codec(lambda reader, what: reader.binary(bytes_max, what), write)


def _payload() -> Codec:
    def read(reader: Reader, what: str) -> Optional[memoryview]:
        return None if reader.nil() else reader.binary(2**32 - 1, what)

    def write(out: bytearray, value: Optional[Buffer]) -> None:
        if value is None:
            msgpack.put_nil(out)
        else:
            msgpack.put_binary_head(out, len(value))
            out += value

    return Codec(read, write)


def _enum(members: Any) -> Codec:
    def read(reader: Reader, what: str) -> Any:
        number = reader.integer(0, 255, what)
        try:
            return members(number)
        except ValueError:
            raise ProtocolError(f"{what}: {number} is not a {members.__name__}") from None

    return Codec(read, lambda out, value: msgpack.put_integer(out, members(value)))


def _array(element: Codec, count_max: int, head: Callable[[bytearray, int], None] = msgpack.put_array) -> Codec:
    def read(reader: Reader, what: str) -> Tuple[Any, ...]:
        count = reader.array(count_max, what)
        reader.depth += 1
        result = tuple([element.read(reader, what) for _ in range(count)])
        reader.depth -= 1
        return result

    def write(out: bytearray, values: Any) -> None:
        if len(values) > count_max:
            raise ProtocolError(f"{len(values)} elements, the limit is {count_max}")
        head(out, len(values))
        for value in values:
            element.write(out, value)

    return Codec(read, write)


U8 = Annotated[int, _integer(0, 2**8 - 1)]
U16 = Annotated[int, _integer(0, 2**16 - 1)]
U32 = Annotated[int, _integer(0, 2**32 - 1)]
U63 = Annotated[int, _integer(0, 2**63 - 1)]
U64 = Annotated[int, _integer(0, 2**64 - 1)]
I64 = Annotated[int, _integer(msgpack.INT64_MIN, msgpack.INT64_MAX)]
Bool = Annotated[bool, Codec(lambda reader, what: reader.boolean(what), msgpack.put_boolean)]
Id = Annotated[str, _text(128)]
Text = Annotated[str, _text(1024)]
Secret = Annotated[Buffer, _binary(1024)]
Json = Annotated[Buffer, _binary(2**32 - 1)]
Meta = Annotated[Metadata, Codec(lambda reader, what: reader.metadata(what), msgpack.put_metadata)]
Payload = Annotated[Optional[Buffer], _payload()]
Tokens = Annotated[Tuple[int, ...], _array(_integer(0, 2**64 - 1), 65_536)]


class Record:
    """An array with one element for each field. Elements behind the known ones are skipped."""

    _codecs: ClassVar[Tuple[Tuple[str, Codec], ...]] = ()

    @classmethod
    def read_fields(cls, reader: Reader, count: int, what: str) -> "Record":
        if count < len(cls._codecs):
            raise ProtocolError(f"{what}: {count} elements, at least {len(cls._codecs)} are needed")
        values = [codec.read(reader, name) for name, codec in cls._codecs]
        for _ in range(count - len(values)):
            reader.skip(what)
        record = cls(*values)
        record.check()
        return record

    def write_fields(self, out: bytearray) -> None:
        self.check()
        for name, codec in self._codecs:
            codec.write(out, getattr(self, name))

    def check(self) -> None:
        """Checks what concerns more than one field; ProtocolError."""


class Message(Record):
    """A body: its kind, then its fields."""

    kind: ClassVar[int]


_R = TypeVar("_R", bound=Record)
_M = TypeVar("_M", bound=Message)
_KINDS: Dict[int, Type[Message]] = {}


def _record(cls: Type[_R]) -> Type[_R]:
    made = dataclasses.dataclass(frozen=True)(cls)
    hints = get_type_hints(made, include_extras=True)
    names = [field.name for field in dataclasses.fields(made)]
    made._codecs = tuple((name, hints[name].__metadata__[0]) for name in names)
    return made


def _message(kind: int) -> Callable[[Type[_M]], Type[_M]]:
    def register(cls: Type[_M]) -> Type[_M]:
        made = _record(cls)
        made.kind = kind
        _KINDS[kind] = made
        return made

    return register


def _records(cls: Type[_R], count_max: int, head: Callable[[bytearray, int], None] = msgpack.put_array) -> Codec:
    def read(reader: Reader, what: str) -> Record:
        count = reader.array(2**32, what)
        reader.depth += 1
        record = cls.read_fields(reader, count, what)
        reader.depth -= 1
        return record

    def write(out: bytearray, value: Record) -> None:
        msgpack.put_array(out, len(cls._codecs))
        value.write_fields(out)

    return _array(Codec(read, write), count_max, head)


@_message(1)
class Hello(Message):
    magic: Id
    version_min: U16
    version_max: U16
    features: U64
    role: Annotated[Role, _enum(Role)]
    auth: Secret
    dataflow: Id
    node: Id
    client: Text
    flags: U32

    def check(self) -> None:
        if self.magic != "brokerd":
            raise ProtocolError(f"magic: {self.magic!r}, not 'brokerd'")
        if self.version_min > self.version_max:
            raise ProtocolError(f"version_min: {self.version_min} is over version_max, {self.version_max}")


@_message(2)
class Welcome(Message):
    version: U16
    features: U64
    instance: Id
    session: U64
    frame_max: U64
    inline_max: U32
    heartbeat_ms: U32
    probe_name: Text
    probe_offset: U63
    probe_length: U32

    def check(self) -> None:
        if self.probe_length > 1024:
            raise ProtocolError(f"probe_length: {self.probe_length} is over 1024")


@_message(3)
class Attach(Message):
    nonce: Secret


@_message(4)
class Ready(Message):
    local: Bool
    reason: Text


@_record
class OutputPort(Record):
    id: Id
    open: Bool


@_record
class InputPort(Record):
    id: Id
    source: Text
    queue_size: U32
    policy: Annotated[Policy, _enum(Policy)]
    hold_timeout_ms: U32
    open: Bool

    def check(self) -> None:
        if not 1 <= self.queue_size <= 65_536:
            raise ProtocolError(f"queue_size: {self.queue_size} is not in 1 to 65536")


@_message(5)
class Ports(Message):
    outputs: Annotated[Tuple[OutputPort, ...], _records(OutputPort, 4096)]
    inputs: Annotated[Tuple[InputPort, ...], _records(InputPort, 4096)]


class _Carrier(Record):
    """What Publish and an item have in common: a payload, inline or in shared memory."""

    token: int
    region: int
    offset: int
    length: int
    payload: Optional[Buffer]

    def check(self) -> None:
        if self.region == 0:
            if self.token or self.offset:
                raise ProtocolError("token or offset without a region")
            size = 0 if self.payload is None else len(self.payload)
            if self.length != size:
                raise ProtocolError(f"length: {self.length}, but {size} bytes of payload")
        elif self.token == 0:
            raise ProtocolError("token: 0 with a region")
        elif self.payload is not None:
            raise ProtocolError("payload: present besides a region")
        elif self.offset + self.length >= 2**63:
            raise ProtocolError(f"length: {self.length} bytes from {self.offset} on pass the end of any region")


@_message(6)
class Publish(_Carrier, Message):
    output: U32
    epoch: U32
    seq: U64
    time_ns: I64
    token: U64
    region: U64
    offset: U64
    length: U64
    metadata: Meta
    payload: Payload


@_record
class Item(_Carrier):
    input: U32
    dropped: U64
    seq: U64
    time_ns: I64
    token: U64
    region: U64
    offset: U64
    length: U64
    metadata: Meta
    payload: Payload


@_message(7)
class Inputs(Message):
    items: Annotated[Tuple[Item, ...], _records(Item, 65_536, msgpack.put_array32)]


@_message(8)
class Next(Message):
    limit: U64
    consumed: U64
    done: Tokens


@_message(9)
class Done(Message):
    tokens: Tokens


@_message(10)
class Flow(Message):
    output: U32
    epoch: U32
    receivers: U32
    window: U64


@_message(11)
class RegionRequest(Message):
    request: U32
    slot_bytes: U64
    slots: U32


@_message(12)
class RegionGrant(Message):
    request: U32
    region: U64
    name: Text
    bytes: U64
    slot_bytes: U64
    slots: U32


@_message(13)
class RegionDenied(Message):
    request: U32
    code: U16
    text: Text


@_message(14)
class RegionReturn(Message):
    region: U64


@_message(15)
class RegionRetire(Message):
    region: U64


@_message(16)
class RegionOpen(Message):
    region: U64
    name: Text
    bytes: U64
    slot_bytes: U64
    slots: U32


@_message(17)
class RegionClose(Message):
    region: U64


@_message(18)
class SendFailed(Message):
    output: U32
    reason: Annotated[DropReason, _enum(DropReason)]
    count: U64
    bytes: U64
    seq_first: U64
    seq_last: U64

    def check(self) -> None:
        if self.count < 1 or self.seq_last < self.seq_first:
            raise ProtocolError(f"count {self.count}, seq {self.seq_first} to {self.seq_last}")


@_message(19)
class OutputClose(Message):
    output: U32


@_message(20)
class InputClosed(Message):
    input: U32
    reason: Text


@_message(21)
class Stop(Message):
    reason: Text


@_message(22)
class Bye(Message):
    reason: Text


@_message(23)
class Ping(Message):
    nonce: U64


@_message(24)
class Pong(Message):
    nonce: U64


@_message(25)
class Error(Message):
    code: U16
    text: Text


@_message(26)
class Request(Message):
    id: U32
    verb: Id
    body: Json


@_message(27)
class Reply(Message):
    id: U32
    code: U16
    text: Text
    more: Bool
    body: Json


@_message(28)
class Reject(Message):
    token: U64
    reason: Annotated[DropReason, _enum(DropReason)]


def encode(message: Message) -> bytes:
    """The whole frame of a message; ProtocolError if a field is over its limit."""
    out = bytearray(8)
    msgpack.put_array(out, 1 + len(message._codecs))
    msgpack.put_integer(out, message.kind)
    message.write_fields(out)
    _LENGTH.pack_into(out, 0, len(out) - 8)
    return bytes(out)


def decode(body: bytes) -> Optional[Message]:
    """The message of a body; None for an optional kind of a later version; ProtocolError."""
    reader = Reader(body)
    count = reader.array(2**32, "body")
    if count == 0:
        raise ProtocolError("body: no elements, at least 1 is needed")
    reader.depth = 1
    kind = reader.integer(0, 2**64 - 1, "kind")
    message: Optional[Message] = None
    if 64 <= kind <= 127:
        for _ in range(count - 1):
            reader.skip(f"kind {kind}")
    elif kind in _KINDS:
        cls = _KINDS[kind]
        message = cls.read_fields(reader, count - 1, cls.__name__)  # type: ignore[assignment]
    else:
        raise ProtocolError(f"kind: {kind} is not known")
    if reader.left:
        raise ProtocolError(f"body: {reader.left} bytes behind the message")
    return message


class FrameDecoder:
    """Cuts a stream of bytes into bodies. ``limit`` may be changed between two bodies.

    Bytes are kept as they come and joined only when a frame is whole, so a length makes room for nothing.
    """

    def __init__(self, limit: int = HANDSHAKE_FRAME_BYTES_MAX) -> None:
        self.limit = limit
        self._chunks: List[bytes] = []
        self._start = 0  # of what is not read yet, in the first chunk
        self._have = 0  # bytes that are not read yet

    def feed(self, data: bytes) -> None:
        if data:
            self._chunks.append(data)
            self._have += len(data)

    def next_body(self) -> Optional[bytes]:
        """The next whole body, None if there is none yet; ProtocolError for a length that is refused."""
        if self._have < 8:
            return None
        self._join(8)
        (length,) = _LENGTH.unpack_from(self._chunks[0], self._start)
        if length == 0:
            raise ProtocolError("frame: length 0")
        if length > self.limit:
            raise ProtocolError(f"frame: length {length}, the limit is {self.limit}", ErrorCode.FRAME_TOO_LONG)
        if self._have < 8 + length:
            return None
        self._join(8 + length)
        first, end = self._chunks[0], self._start + 8 + length
        body = first[self._start + 8 : end]
        self._have -= 8 + length
        self._start = end
        if end == len(first):
            del self._chunks[0]
            self._start = 0
        return body

    def _join(self, length: int) -> None:
        """Brings the next length bytes, which are there, into the first chunk."""
        if len(self._chunks[0]) - self._start < length:
            self._chunks[0] = self._chunks[0][self._start :]
            self._chunks = [b"".join(self._chunks)]
            self._start = 0
