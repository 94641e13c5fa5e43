"""The client against a real daemon: see README.md for how to name one."""

from __future__ import annotations

import dataclasses
import fcntl
import os
import pathlib
import signal
import struct
import tempfile
import time
from typing import Any, List

from brokerd import (
    Closed, Control, Disconnected, DropReason, ErrorCode, Input, InputClosed, Node, NotSent, Policy, Reconnected,
    Refused, Stopped,
)
from brokerd import messages
from brokerd.link import FLAG_TAKEOVER, Link, hello
from brokerd.numbers import Role
from brokerd.shm import LOCK_OFFSET
from harness import Broker, BrokerTest, payload

MIB = 1 << 20


def dataflow(policy: str = "drop-oldest", queue_size: int = 10, hold_timeout: str = "10s") -> str:
    return f"""
name: t
nodes:
  - id: sender
    outputs: [data, spare]
  - id: receiver
    inputs:
      data: {{source: sender/data, policy: {policy}, queue_size: {queue_size}, hold_timeout: {hold_timeout}}}
      spare: sender/spare
"""


class TwoProcesses(BrokerTest):
    def exchange(
        self, broker: Broker, count: int, length: int, send_local: bool = True, receive_local: bool = True
    ) -> dict:
        receiver = self.peer("receive", broker, int(receive_local))
        self.assertEqual(self.line(receiver), {"local": receive_local})
        sender = self.peer("send", broker, count, length, int(send_local))
        self.assertEqual(self.line(sender), {"local": send_local})
        assert sender.stdin is not None
        print(file=sender.stdin, flush=True)
        self.assertEqual(self.line(sender), {"sent": count})
        seen = self.line(receiver)
        self.assertEqual(
            {key: seen[key] for key in ("count", "wrong", "dropped", "out_of_order")},
            {"count": count, "wrong": 0, "dropped": 0, "out_of_order": 0},
        )
        return seen

    def copied_bytes(self, broker: Broker) -> int:
        with Control(broker.address) as control:
            return control.status()["counters"]["payload_copy_bytes"]

    def test_inline(self) -> None:
        broker = self.broker(dataflow("block", 64))
        self.assertEqual(self.exchange(broker, 1000, 1000)["shared"], 0)

    def test_one_mebibyte_through_shared_memory(self) -> None:
        broker = self.broker(dataflow("block", 8))
        self.assertEqual(self.exchange(broker, 100, MIB)["shared"], 100)
        self.assertEqual(self.copied_bytes(broker), 0)

    def test_one_mebibyte_to_and_from_nodes_that_are_not_local(self) -> None:
        broker = self.broker(dataflow("block", 8))
        self.assertEqual(self.exchange(broker, 10, MIB, receive_local=False)["shared"], 0)
        self.assertEqual(self.copied_bytes(broker), 10 * MIB)
        self.exchange(broker, 10, MIB, send_local=False)

    def test_block_loses_none_of_5000(self) -> None:
        broker = self.broker(dataflow("block", 4))
        self.exchange(broker, 5000, 64)
        with Control(broker.address) as control:
            self.assertEqual(control.drops(), [])

    def test_killing_the_receiver_frees_the_slots_of_the_sender(self) -> None:
        broker = self.broker(dataflow(queue_size=8))
        sender = self.node(broker, "sender")
        receiver = self.peer("hold", broker, 3)
        self.assertEqual(self.line(receiver), {"local": True})
        for number in range(3):
            sender.send("data", payload(number, MIB))
        self.assertEqual(self.line(receiver), {"held": 3})
        self.assertEqual(len(sender._session.sender.outstanding), 3)
        receiver.kill()
        self.eventually(lambda: not sender._session.sender.outstanding, "the slots of a killed receiver come back")
        with Node(broker.address, "t", "receiver") as again:
            sender.send("data", payload(9, MIB), timeout_seconds=5)
            with self.message(again) as message:
                self.assertEqual(bytes(message.payload), payload(9, MIB))


class Receiving(BrokerTest):
    def test_drop_counts_agree(self) -> None:
        for policy, kept in (("drop-oldest", [99, 100]), ("drop-newest", [1, 2])):
            with self.subTest(policy):
                broker = self.broker(dataflow(policy, 2))
                sender, receiver = self.node(broker, "sender"), self.node(broker, "receiver")
                for number in range(100):
                    sender.send("data", b"x")
                with Control(broker.address) as control:
                    self.eventually(lambda: sum(drop["total"] for drop in control.drops()) == 98, "98 drops")
                    first, second = self.message(receiver), self.message(receiver)
                    self.assertEqual([first.seq, second.seq], kept)
                    sender.send("data", b"last")
                    last = self.message(receiver)
                    self.assertEqual(first.dropped + second.dropped + last.dropped, 98)
                    (drop,) = control.drops()
                    (edge,) = [edge for edge in control.status()["edges"] if edge["to"] == "receiver/data"]
                self.assertEqual((drop["reason"], drop["policy"], drop["to"]), ("queue_full", policy, "receiver/data"))
                self.assertEqual((edge["published"], edge["delivered"], edge["dropped"]), (101, 3, 98))

    def test_metadata_and_ports(self) -> None:
        broker = self.broker(dataflow())
        sender, receiver = self.node(broker, "sender"), self.node(broker, "receiver")
        self.assertEqual(sender.outputs, ["data", "spare"])
        (data, _) = receiver.inputs
        self.assertEqual((data.id, data.source, data.queue_size), ("data", "sender/data", 10))
        self.assertEqual((data.policy, data.hold_timeout_ms), (Policy.DROP_OLDEST, 10_000))
        metadata = {"int": -(2**63), "float": 1.5, "text": "größer", "raw": b"\0\xff", "yes": True, "none": None}
        before = time.time_ns()
        self.assertEqual(sender.send("data", b"", metadata), 1)
        message = self.message(receiver)
        self.assertEqual(message.metadata, metadata)
        self.assertEqual((message.id, message.seq, len(message.payload)), ("data", 1, 0))
        self.assertTrue(before <= message.time_ns <= time.time_ns())

    def test_a_payload_is_read_only_and_its_sender_waits_for_its_release(self) -> None:
        broker = self.broker(dataflow())
        sender, receiver = self.node(broker, "sender"), self.node(broker, "receiver")
        with sender.loan("data", MIB) as loan:
            loan.view[:4] = b"here"
            loan.send()
        message = self.message(receiver)
        self.assertTrue(message.shared)
        self.assertEqual(bytes(message.payload[:4]), b"here")
        with self.assertRaises(TypeError):
            message.payload[0] = 1
        self.assertEqual(len(sender._session.sender.outstanding), 1)
        message.release()
        message.release()
        self.eventually(lambda: not sender._session.sender.outstanding, "Done without any Next")
        with self.assertRaises(ValueError):
            message.payload[0]

    def test_an_item_that_cannot_be_read_is_rejected(self) -> None:
        broker = self.broker(dataflow())
        sender, receiver = self.node(broker, "sender"), self.node(broker, "receiver")
        sender.send("data", bytes(MIB))
        self.message(receiver).release()
        receiver._session.receiver._mappings.clear()  # as if mapping had failed
        sender.send("data", bytes(MIB))
        self.assertIsNone(receiver.next(0.2))
        self.eventually(lambda: not sender._session.sender.outstanding, "a rejected token is given back")
        with Control(broker.address) as control:
            self.assertEqual([drop["reason"] for drop in control.drops()], ["bad_descriptor"])
        sender.send("data", b"small")
        self.assertEqual(bytes(self.message(receiver).payload), b"small")

    def test_timers_and_closed_inputs(self) -> None:
        broker = self.broker(
            "name: t\nnodes:\n  - id: sender\n    outputs: [data]\n"
            "  - id: receiver\n    inputs: {tick: timer/hz/50, data: sender/data}\n"
        )
        receiver = self.node(broker, "receiver")
        ticks = [self.message(receiver) for _ in range(3)]
        self.assertEqual([(tick.id, len(tick.payload), tick.metadata) for tick in ticks], [("tick", 0, {})] * 3)
        self.node(broker, "sender").close("bored")
        events = iter(lambda: receiver.next(5), None)
        self.assertEqual(next(event for event in events if not isinstance(event, Input)), InputClosed("data", "bored"))

    def test_a_region_held_for_too_long_is_taken_out_of_use(self) -> None:
        broker = self.broker(dataflow(hold_timeout="200ms"))
        sender, receiver = self.node(broker, "sender"), self.node(broker, "receiver")
        sender.send("data", payload(1, MIB))
        message = self.message(receiver)
        regions = sender._session.sender.slots
        self.eventually(lambda: any(region.retired for region in regions._regions.values()), "RegionRetire")
        sender.send("data", payload(2, MIB))
        with self.message(receiver) as second:
            self.assertEqual(bytes(second.payload), payload(2, MIB))
        self.assertEqual(bytes(message.payload), payload(1, MIB), "what is mapped stays readable")
        self.assertEqual(len(regions._regions), 2)
        message.release()
        self.eventually(lambda: len(regions._regions) == 1, "the retired region is returned")
        with Control(broker.address) as control:
            self.eventually(lambda: control.status()["memory"]["retired_regions"] == 0, "and freed")


class Sending(BrokerTest):
    def test_a_window_makes_the_sender_wait(self) -> None:
        broker = self.broker(dataflow("block", 4))
        sender, receiver = self.node(broker, "sender"), self.node(broker, "receiver")
        self.eventually(lambda: sender._session.sender.outputs[0].blocks, "a window")
        for number in range(4):
            sender.send("data", b"x", timeout_seconds=5)
        with self.assertRaises(TimeoutError):
            sender.send("data", b"x", timeout_seconds=0.1)
        self.assertEqual([self.message(receiver).seq for _ in range(4)], [1, 2, 3, 4])
        self.assertIsNone(receiver.next(0.05))
        self.assertEqual(sender.send("data", b"x", timeout_seconds=5), 5, "a message not sent takes no number")

    def test_no_memory(self) -> None:
        broker = self.broker(dataflow(queue_size=64), "--shm-node-limit", "6MiB")
        sender, receiver = self.node(broker, "sender"), self.node(broker, "receiver")
        held: List[Input] = []
        with self.assertRaises(NotSent) as caught:
            for number in range(10):
                sender.send("data", bytes(MIB), timeout_seconds=5)
                held.append(self.message(receiver))
        self.assertEqual(caught.exception.reason, DropReason.NO_MEMORY)
        with Control(broker.address) as control:
            self.eventually(lambda: bool(control.drops()), "the failure is logged as a drop")
            self.assertEqual([drop["reason"] for drop in control.drops()], ["no_memory"])
        for message in held:
            message.release()
        self.eventually(lambda: not sender._session.sender.outstanding, "the slots come back")
        sender.send("data", bytes(2 * MIB), timeout_seconds=5)  # the idle region of 1 MiB slots makes room
        last = self.message(receiver)
        self.assertEqual((last.seq, last.dropped), (len(held) + 2, 1))
        last.release()

    def test_no_memory_is_waited_for_if_the_receiver_blocks(self) -> None:
        broker = self.broker(dataflow("block", 64), "--shm-node-limit", "6MiB")
        receiver = self.peer("receive", broker, 1)
        self.assertEqual(self.line(receiver), {"local": True})
        sender = self.peer("send", broker, 200, MIB, 1)
        self.assertEqual(self.line(sender), {"local": True})
        assert sender.stdin is not None
        print(file=sender.stdin, flush=True)
        self.assertEqual(self.line(sender), {"sent": 200})
        seen = self.line(receiver)
        self.assertEqual((seen["count"], seen["wrong"], seen["dropped"]), (200, 0, 0))

    def test_too_large(self) -> None:
        broker = self.broker(dataflow(), "--frame-max", "1MiB")
        sender = self.node(broker, "sender", shared_memory=False)
        for length in (MIB - 8, 2 * MIB):
            with self.subTest(length), self.assertRaises(NotSent) as caught:
                sender.send("data", bytes(length))
            self.assertEqual(caught.exception.reason, DropReason.TOO_LARGE)
        with self.assertRaises(KeyError):
            sender.send("nowhere", b"")

    def test_a_loan_that_is_not_sent_is_used_again(self) -> None:
        broker = self.broker(dataflow())
        sender = self.node(broker, "sender")
        for _ in range(20):
            sender.loan("data", MIB).discard()
        with Control(broker.address) as control:
            self.assertEqual(control.status()["memory"]["regions"], 1)


class Endings(BrokerTest):
    def test_stop(self) -> None:
        broker = self.broker(dataflow())
        node = self.node(broker, "receiver")
        with Control(broker.address) as control:
            control.stop("t")
        self.assertIsInstance(node.next(5), Stopped)
        node.close()
        with self.assertRaises(Closed):
            node.next(1)

    def test_the_lock_outlives_the_session_while_a_payload_is_held(self) -> None:
        broker = self.broker(dataflow())
        sender, receiver = self.node(broker, "sender"), self.node(broker, "receiver")
        welcome = receiver._session.link.welcome
        (name,) = [name for name in broker.objects() if name.endswith("probe")]

        def locked() -> bool:
            with open(f"/dev/shm/{name}", "r+b") as file:
                question = struct.pack("hhqqi4x", fcntl.F_WRLCK, 0, LOCK_OFFSET + welcome.session, 1, 0)
                answer = fcntl.fcntl(file, 36, question)  # F_OFD_GETLK
                return struct.unpack("hhqqi4x", answer)[0] != fcntl.F_UNLCK

        sender.send("data", payload(1, MIB))
        message = self.message(receiver)
        receiver.close()
        self.assertTrue(locked())
        self.assertEqual(bytes(message.payload), payload(1, MIB))
        message.release()
        self.assertFalse(locked())

    def test_reconnect(self) -> None:
        first = Broker(dataflow())
        self.addCleanup(first.stop)
        sender, receiver = self.node(first, "sender"), self.node(first, "receiver")
        sender.send("data", payload(1, MIB))
        held = self.message(receiver)
        loan = sender.loan("data", MIB)
        first.stop(signal.SIGKILL)  # the broker cannot say goodbye, nor clean up
        self.addCleanup(self._sweep, first)
        self.broker(dataflow(), port=first.port)
        events: list = []
        self.eventually(
            lambda: events.append(receiver.next(0.1)) or isinstance(events[-1], Reconnected), "a new connection"
        )
        loan.view[:] = payload(2, MIB)
        self.eventually(lambda: sender._session is not None and sender._session.joined, "the sender is back, too")
        self.eventually(lambda: sender._session.sender.outputs[0].flow.receivers == 1, "the receiver is seen")
        self.assertEqual(loan.send(timeout_seconds=5), 2, "numbers go on")
        with self.message(receiver) as message:
            self.assertEqual((message.seq, bytes(message.payload)), (2, payload(2, MIB)))
        self.assertEqual(bytes(held.payload), payload(1, MIB), "held memory stays readable")
        held.release()

    def _sweep(self, broker: Broker) -> None:
        for name in broker.objects():
            os.unlink(f"/dev/shm/{name}")


class Errors(BrokerTest):
    """Each rule that a client can break, with the code that section 4 of the protocol gives it."""

    def link(self, broker: Broker, role: Role = Role.NODE, shared_memory: bool = True, **changes: Any) -> Link:
        greeting = hello(role, b"", *(("t", "sender") if role == Role.NODE else ("", "")))
        link = Link(broker.address, dataclasses.replace(greeting, **changes), shared_memory, 5)
        self.addCleanup(link.dispose)
        return link

    def refusal(self, link: Link) -> int:
        """The code of the Error that ends a connection."""
        link._socket.settimeout(5)
        while True:
            message = link.read(5)
            if isinstance(message, messages.Error):
                with self.assertRaises(Disconnected):
                    while True:
                        link.read(5)
                return message.code

    def ports(self, link: Link) -> messages.Flow:
        """Reads up to the first Flow, which comes behind Ports."""
        while True:
            message = link.read(5)
            if isinstance(message, messages.Flow):
                return message

    def check(self, broker: Broker, code: ErrorCode, *wrong: messages.Message, **options: Any) -> None:
        with self.subTest(code=code.name, wrong=repr(wrong)[:80]):
            link = self.link(broker, **options)
            if options.get("role", Role.NODE) == Role.NODE:
                self.ports(link)
            for message in wrong:
                link.post(message)
            link.flush()
            try:
                self.assertEqual(self.refusal(link), code)
            finally:
                link.dispose()

    def test_in_the_handshake(self) -> None:
        broker = self.broker(dataflow(), "--handshake-timeout", "300ms")
        for code, changes in (
            (ErrorCode.VERSION, {"version_min": 2, "version_max": 3}),
            (ErrorCode.UNKNOWN_DATAFLOW, {"dataflow": "nowhere"}),
            (ErrorCode.UNKNOWN_NODE, {"node": "nobody"}),
        ):
            with self.subTest(code.name), self.assertRaises(Refused) as caught:
                self.link(broker, **changes)
            self.assertEqual(caught.exception.code, code)
        node = self.node(broker, "receiver")
        with self.assertRaises(Refused) as caught:
            Node(broker.address, "t", "receiver")
        self.assertEqual(caught.exception.code, ErrorCode.DUPLICATE_NODE)
        self.node(broker, "receiver", takeover=True)
        with self.assertRaises(Refused) as caught:
            node.next(5)
        self.assertEqual(caught.exception.code, ErrorCode.TAKEN_OVER)
        link = object.__new__(_SlowLink)
        with self.assertRaises(Refused) as caught:
            Link.__init__(link, broker.address, hello(Role.CONTROL), False, 5)
        self.assertEqual(caught.exception.code, ErrorCode.HANDSHAKE_TIMEOUT)

    def test_authentication(self) -> None:
        with tempfile.TemporaryDirectory() as directory:
            file = pathlib.Path(directory, "token")
            file.write_text("secret\n")
            file.chmod(0o600)
            broker = self.broker(dataflow(), "--auth-token-file", str(file))
            self.node(broker, "receiver", auth=b"secret")
            for auth in (b"wrong", b""):
                with self.subTest(auth), self.assertRaises(Refused) as caught:
                    Node(broker.address, "t", "sender", auth=auth)
                self.assertEqual(caught.exception.code, ErrorCode.AUTH)

    def test_after_the_handshake(self) -> None:
        broker = self.broker(dataflow())
        good = messages.Publish(0, 0, 1, 0, 0, 0, 0, 1, {}, b"x")

        def publish(**changes: Any) -> messages.Publish:
            return dataclasses.replace(good, **changes)

        shared = {"token": 1, "region": 77, "offset": 4096, "payload": None}
        protocol, state, yours = ErrorCode.PROTOCOL, ErrorCode.WRONG_STATE, ErrorCode.NOT_YOURS
        self.check(broker, yours, publish(output=9))
        self.check(broker, yours, publish(**shared))
        self.check(broker, yours, messages.RegionReturn(77))
        self.check(broker, protocol, publish(epoch=9))
        self.check(broker, protocol, messages.Next(0, 1, ()))
        self.check(broker, state, messages.Request(1, "status", b""))
        self.check(broker, state, messages.Flow(0, 0, 0, 0))
        self.check(broker, state, messages.Attach(b""))
        self.check(broker, state, messages.OutputClose(0), good)
        self.check(broker, state, messages.RegionRequest(1, 4096, 1), shared_memory=False)
        self.check(broker, state, messages.Next(0, 0, ()), role=Role.CONTROL)
        for code, raw in ((protocol, "0100000000000000c0"), (protocol, "0200000000000000913f"),
                          (ErrorCode.FRAME_TOO_LONG, "ffffffffffffff7f")):
            with self.subTest(raw):
                link = self.link(broker, flags=FLAG_TAKEOVER)
                link.post_frame(bytes.fromhex(raw))
                link.flush()
                self.assertEqual(self.refusal(link), code)
        tolerated = self.link(broker, flags=FLAG_TAKEOVER)
        self.ports(tolerated)
        tolerated.post_frame(bytes.fromhex("0200000000000000917f"))
        tolerated.post(messages.Done((12345,)))
        tolerated.post(messages.Ping(5))
        tolerated.flush()
        message = tolerated.read(5)
        while not isinstance(message, messages.Pong):
            self.assertNotIsInstance(message, messages.Error)
            message = tolerated.read(5)
        self.assertEqual(message.nonce, 5)

    def test_of_shared_memory(self) -> None:
        broker = self.broker(dataflow())

        def granted() -> tuple:
            link = self.link(broker)
            self.ports(link)
            link.post(messages.RegionRequest(1, 8192, 2))
            link.flush()
            while True:
                message = link.read(5)
                if isinstance(message, messages.RegionGrant):
                    return link, message

        for offset, length in ((4095, 1), (4096, 8193), (4096 + 8191, 2), (4096 + 2 * 8192, 1)):
            with self.subTest(offset=offset, length=length):
                link, grant = granted()
                link.post(messages.Publish(0, 0, 1, 0, 1, grant.region, offset, length, {}, None))
                link.flush()
                self.assertEqual(self.refusal(link), ErrorCode.PROTOCOL)

    def test_past_the_window(self) -> None:
        broker = self.broker(dataflow("block", 2))
        self.node(broker, "receiver")
        link = self.link(broker)
        flow = self.ports(link)
        self.assertEqual(flow.window, 2)
        for seq in (1, 2, 3):
            link.post(messages.Publish(0, flow.epoch, seq, 0, 0, 0, 0, 0, {}, None))
        link.flush()
        self.assertEqual(self.refusal(link), ErrorCode.WRONG_STATE)


class _SlowLink(Link):
    """Says nothing after its Hello."""

    def _shake_hands(self, greeting: messages.Hello, shared_memory: bool, deadline: float) -> None:
        self.post(greeting)
        self.flush()
        self._expect(messages.Welcome, deadline)
        self._expect(messages.Ready, deadline)


class ControlConnections(BrokerTest):
    def test_load_status_unload(self) -> None:
        broker = self.broker(dataflow())
        with Control(broker.address) as control:
            self.assertEqual(control.load(dataflow().replace("name: t", "name: other")), "other")
            names = {dataflow["name"] for dataflow in control.status()["dataflows"]}
            self.assertEqual(names, {"t", "other"})
            control.unload("other")
            for code, ask in (
                (ErrorCode.NOT_FOUND, lambda: control.unload("other")),
                (ErrorCode.NOT_FOUND, lambda: control.ask("juggle", {})),
                (ErrorCode.BAD_DATAFLOW, lambda: control.load("nodes: 5")),
                (ErrorCode.PROTOCOL, lambda: control.ask("unload", [])),
            ):
                with self.subTest(code.name), self.assertRaises(Refused) as caught:
                    ask()
                self.assertEqual(caught.exception.code, code)
            self.assertEqual(control.status()["counters"]["protocol_errors"], 0)

    def test_following_drops(self) -> None:
        broker = self.broker(dataflow(queue_size=1))
        with Control(broker.address) as control:
            drops = control.follow_drops(5)
            self.assertEqual(next(drops) or [], [])
            sender, _ = self.node(broker, "sender"), self.node(broker, "receiver")
            for _ in range(3):
                sender.send("data", b"x")
            lost, last = 0, None
            while lost < 2:
                last = next(drops)
                lost += last["count"]
            self.assertEqual((last["total"], last["reason"], last["from"]), (2, "queue_full", "sender/data"))


if __name__ == "__main__":
    import unittest

    unittest.main()
