"""The codec against the bytes that every client can be checked with: testdata/wire/vectors.json."""

from __future__ import annotations

import dataclasses
import json
import pathlib
import re
import unittest
from typing import Any, Tuple

from brokerd import messages
from brokerd.messages import FrameDecoder, Message, Record, decode, encode
from brokerd.numbers import ProtocolError
from brokerd.shm import slot_class

REPOSITORY = pathlib.Path(__file__).resolve().parent.parent
VECTORS = json.loads((REPOSITORY / "testdata/wire/vectors.json").read_text())


def plain(value: Any) -> Any:
    """A field of a decoded message as the vectors write it."""
    if isinstance(value, Record):
        return [plain(getattr(value, field.name)) for field in dataclasses.fields(value)]
    if isinstance(value, tuple):
        return [plain(element) for element in value]
    if isinstance(value, (bytes, memoryview)):
        return {"bin": bytes(value).hex()}
    if isinstance(value, dict):
        return {"map": {key: plain(element) for key, element in value.items()}} if value else None
    return value


def known(value: Any, like: Any) -> Any:
    """The fields of a vector without those of later versions, and none for empty metadata."""
    if isinstance(value, list) and isinstance(like, list):
        return [known(element, other) for element, other in zip(value, like)]
    return None if value == {"map": {}} else value


def body(frame: bytes) -> bytes:
    decoder = FrameDecoder()
    decoder.feed(frame)
    result = decoder.next_body()
    assert result is not None, "the frame is not whole"
    return result


def from_fields(cls: type, fields: list) -> Record:
    """A message made from the fields of a vector, without reading its bytes."""
    values = []
    for field, value in zip(dataclasses.fields(cls), fields):
        inner = {"outputs": messages.OutputPort, "inputs": messages.InputPort, "items": messages.Item}.get(field.name)
        if inner is not None:
            values.append(tuple(from_fields(inner, element) for element in value))
        else:
            values.append(_value(value))
    return cls(*values)


def _value(value: Any) -> Any:
    if isinstance(value, dict) and "bin" in value:
        return bytes.fromhex(value["bin"])
    if isinstance(value, dict):
        return {key: _value(element) for key, element in value["map"].items()}
    return tuple(value) if isinstance(value, list) else value


def _without_features(name: str) -> list:
    """The vectors of a list that concern a client with none of the optional features."""
    return [vector for vector in VECTORS[name] if not vector.get("features")]


class Vectors(unittest.TestCase):
    def test_there_are_some_of_each_kind(self) -> None:
        self.assertEqual({vector["kind"] for vector in VECTORS["messages"]}, set(range(1, 40)) | {42})
        self.assertEqual({vector["kind"] for vector in _without_features("messages")}, set(range(1, 29)))
        self.assertGreaterEqual(len(_without_features("refused")), 100)

    def test_messages(self) -> None:
        for vector in _without_features("messages"):
            with self.subTest(vector["name"]):
                frame = bytes.fromhex(vector["frame"])
                message = decode(body(frame))
                assert message is not None
                self.assertEqual(message.kind, vector["kind"])
                self.assertEqual(plain(message), known(vector["fields"], plain(message)))
                self.assertEqual(len(plain(message)), len(vector["fields"]))
                self.assertEqual(encode(message), frame)
                made = from_fields(type(message), vector["fields"])
                assert isinstance(made, Message)
                self.assertEqual(plain(decode(body(encode(made)))), plain(message))

    def test_accepted(self) -> None:
        for vector in _without_features("accepted"):
            with self.subTest(vector["name"]):
                message = decode(body(bytes.fromhex(vector["frame"])))
                if vector.get("ignored"):
                    self.assertIsNone(message)
                    continue
                assert message is not None
                self.assertEqual(message.kind, vector["kind"])
                if vector["fields"] is not None:
                    self.assertEqual(plain(message), known(vector["fields"], plain(message)))
                self.assertEqual(plain(decode(body(encode(message)))), plain(message))

    def test_what_is_sent_only_to_peers_with_a_feature(self) -> None:
        for vector in (*VECTORS["messages"], *VECTORS["accepted"]):
            if not vector.get("features"):
                continue
            with self.subTest(vector["name"]):
                whole = body(bytes.fromhex(vector["frame"]))
                if vector["kind"] > 28:
                    with self.assertRaises(ProtocolError):
                        decode(whole)
                    continue
                message = decode(whole)
                assert message is not None
                self.assertEqual(message.kind, vector["kind"])
                self.assertEqual(plain(message), known(vector["fields"], plain(message)))

    def test_refused(self) -> None:
        for vector in _without_features("refused"):
            with self.subTest(vector["name"]):
                with self.assertRaises(ProtocolError) as caught:
                    decode(body(bytes.fromhex(vector["bytes"])))
                self.assertEqual(caught.exception.code, vector["code"])

    def test_frames_split_and_joined_anywhere(self) -> None:
        frames = [bytes.fromhex(vector["frame"]) for vector in VECTORS["messages"]]
        for size in (1, 7, 64, 1_000_000):
            decoder, stream, bodies = FrameDecoder(), b"".join(frames), []
            for start in range(0, len(stream), size):
                decoder.feed(stream[start : start + size])
                found = decoder.next_body()
                while found is not None:
                    bodies.append(found)
                    found = decoder.next_body()
            self.assertEqual(bodies, [frame[8:] for frame in frames])

    def test_a_body_that_is_cut_short_is_refused(self) -> None:
        for vector in VECTORS["messages"]:
            whole = bytes.fromhex(vector["frame"])[8:]
            for end in range(len(whole)):
                with self.subTest(vector["name"], end=end), self.assertRaises(ProtocolError):
                    decode(whole[:end])

    def test_limits_on_the_way_out(self) -> None:
        publish = messages.Publish(0, 0, 1, 0, 0, 0, 0, 0, {}, None)
        for wrong in (
            messages.Stop("x" * 1025),
            messages.Ping(2**64),
            messages.Error(65_536, ""),
            messages.Attach(bytes(1025)),
            messages.Done((0,) * 65_537),
            messages.Request(1, "v" * 129, b"{}"),
            dataclasses.replace(publish, length=1),
            dataclasses.replace(publish, token=1),
            dataclasses.replace(publish, metadata={"k": 2**63}),
            dataclasses.replace(publish, metadata={"k": [1]}),
            dataclasses.replace(publish, metadata={"k" * 129: 1}),
            dataclasses.replace(publish, metadata={str(number): number for number in range(65)}),
            dataclasses.replace(publish, metadata={"k": bytes(16_384)}),
        ):
            with self.subTest(repr(wrong)[:60]), self.assertRaises(ProtocolError):
                encode(wrong)


class Text(unittest.TestCase):
    """What the text of the protocol says by example."""

    def setUp(self) -> None:
        self.text = (REPOSITORY / "docs/protocol.md").read_text()

    def test_the_session_in_hex(self) -> None:
        block = re.search(r"```hex\n(.*?)```", self.text, re.S)
        assert block is not None
        stream = bytes.fromhex("".join(re.findall(r"^    (.*)$", block.group(1), re.M)))
        kinds, again, decoder = [], b"", FrameDecoder()
        decoder.feed(stream)
        found = decoder.next_body()
        while found is not None:
            message = decode(found)
            assert message is not None
            kinds.append(type(message).__name__)
            again += encode(message)
            found = decoder.next_body()
        self.assertEqual(
            kinds, "Hello Welcome Attach Ready Ports Flow Next Inputs Publish Next Bye".split()
        )
        self.assertEqual(again, stream)

    def test_slot_classes(self) -> None:
        rows = re.findall(r"^\| (n|slot_bytes) \|([ \d,|]+)\|$", self.text, re.M)
        numbers: Tuple[list, ...] = tuple(
            [int(cell.replace(",", "")) for cell in cells.split("|")] for _, cells in rows
        )
        self.assertEqual(len(numbers), 2)
        self.assertEqual([slot_class(length) for length in numbers[0]], numbers[1])
        for length in (0, 1, 2, 128, 129, 2048, 2049, 4096, 16_385, 20_481, 10**6, 2**30 - 1, 2**30):
            self.assertGreaterEqual(slot_class(length), length)
            self.assertEqual(slot_class(slot_class(length)), slot_class(length))


if __name__ == "__main__":
    unittest.main()
