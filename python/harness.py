"""What the tests share: a daemon of their own, other processes, and a limit on the time of each test."""

from __future__ import annotations

import atexit
import hashlib
import json
import os
import pathlib
import queue
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import unittest
from typing import Any, Callable, List, Optional

from brokerd import Input, InputClosed, Node

REPOSITORY = pathlib.Path(__file__).resolve().parent.parent
TEST_SECONDS_MAX = 20
_binary: Optional[str] = None


def binary() -> str:
    """The daemon: that of BROKERD_BIN, else one built from this repository."""
    global _binary
    if _binary is None:
        _binary = os.environ.get("BROKERD_BIN") or _build()
    return _binary


def _build() -> str:
    if shutil.which("go") is None:
        raise unittest.SkipTest("neither BROKERD_BIN nor the go command is there")
    directory = tempfile.mkdtemp(prefix="brokerd-python-")
    atexit.register(shutil.rmtree, directory, ignore_errors=True)
    subprocess.run(
        ["go", "build", "-o", directory, "./cmd/brokerd"], cwd=REPOSITORY, check=True, timeout=600
    )
    return os.path.join(directory, "brokerd")


class Broker:
    """A running daemon with one dataflow. Its log is kept as parsed lines."""

    def __init__(self, dataflow: str, *options: str, port: int = 0) -> None:
        self.prefix = f"py{os.getpid()}x{Broker._number()}"
        self.logs: List[dict] = []
        self._addresses: "queue.Queue[str]" = queue.Queue()
        with tempfile.NamedTemporaryFile("w", suffix=".yml", delete=False) as file:
            file.write(dataflow)
        self._file = file.name
        arguments = [
            binary(), "--listen", f"127.0.0.1:{port}", "--dataflow", file.name,
            "--log-format", "json", "--shm-prefix", self.prefix, *options,
        ]
        environment = {name: value for name, value in os.environ.items() if not name.startswith("BROKERD_")}
        self.process = subprocess.Popen(
            arguments, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=environment
        )
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()
        try:
            self.address = self._addresses.get(timeout=10)
        except queue.Empty:
            self.stop()
            raise AssertionError(f"brokerd does not listen; its log: {self.logs}") from None

    _count = 0

    @classmethod
    def _number(cls) -> int:
        cls._count += 1
        return cls._count

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            try:
                entry = json.loads(line)
            except ValueError:
                entry = {"msg": line.decode("utf-8", "replace")}
            self.logs.append(entry)
            if entry.get("msg") == "listening":
                self._addresses.put(entry["addr"])

    @property
    def port(self) -> int:
        return int(self.address.rpartition(":")[2])

    def objects(self) -> List[str]:
        """Names of this daemon's shared memory."""
        return [name for name in os.listdir("/dev/shm") if name.startswith(self.prefix)]

    def stop(self, number: int = signal.SIGTERM) -> None:
        if self.process.poll() is None:
            self.process.send_signal(number)
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait(10)
        self._thread.join(5)
        assert self.process.stdout is not None
        self.process.stdout.close()
        if os.path.exists(self._file):
            os.unlink(self._file)


class BrokerTest(unittest.TestCase):
    """A test with a limit on its time, daemons, nodes, and other processes that end with it."""

    def setUp(self) -> None:
        binary()  # a build is not part of the test's time

        def too_long(*_: object) -> None:
            raise TimeoutError(f"the test takes over {TEST_SECONDS_MAX} seconds")

        before = signal.signal(signal.SIGALRM, too_long)
        self.addCleanup(signal.signal, signal.SIGALRM, before)
        signal.alarm(TEST_SECONDS_MAX)
        self.addCleanup(signal.alarm, 0)

    def broker(self, dataflow: str, *options: str, port: int = 0) -> Broker:
        broker = Broker(dataflow, *options, port=port)
        self.addCleanup(self._stop, broker)
        return broker

    def _stop(self, broker: Broker) -> None:
        broker.stop()
        self.assertEqual(broker.objects(), [], "left in /dev/shm")

    def node(self, broker: Broker, name: str, **options: Any) -> Node:
        node = Node(broker.address, "t", name, **options)
        self.addCleanup(node.close, linger_seconds=0)
        return node

    def peer(self, role: str, broker: Broker, *arguments: object) -> "subprocess.Popen[str]":
        """Another Python process, that runs one of the functions at the end of this file."""
        process = subprocess.Popen(
            [sys.executable, os.path.abspath(__file__), role, broker.address, *map(str, arguments)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )
        self.addCleanup(self._end, process)
        return process

    @staticmethod
    def _end(process: "subprocess.Popen[str]") -> None:
        if process.poll() is None:
            process.kill()
        process.communicate()

    def line(self, process: "subprocess.Popen[str]") -> Any:
        """The next line that a peer prints, which is JSON."""
        assert process.stdout is not None
        line = process.stdout.readline()
        self.assertTrue(line, "the peer ended without a word")
        return json.loads(line)

    def message(self, node: Node, timeout_seconds: float = 5.0) -> Input:
        event = node.next(timeout_seconds)
        assert isinstance(event, Input), f"{event!r} in place of a message"
        return event

    def eventually(self, holds: Callable[[], bool], text: str, seconds: float = 5.0) -> None:
        """Asks until something outside of this process has come about."""
        pause = threading.Event()
        for _ in range(int(seconds / 0.01)):
            if holds():
                return
            pause.wait(0.01)
        self.fail(f"not within {seconds} s: {text}")


# Peers.


def say(value: object) -> None:
    print(json.dumps(value), flush=True)


def payload(number: int, length: int) -> bytes:
    """Bytes that differ from message to message."""
    block = hashlib.sha256(number.to_bytes(8, "big")).digest()
    return (block * (length // 32 + 1))[:length]


def peer_send(address: str, count: str, length: str, shared_memory: str) -> None:
    """Sends messages with a checksum in their metadata, once there is a line on standard input."""
    with Node(address, "t", "sender", shared_memory=shared_memory == "1") as node:
        say({"local": node.local})
        sys.stdin.readline()
        for number in range(int(count)):
            data = payload(number, int(length))
            node.send("data", data, {"number": number, "sha256": hashlib.sha256(data).hexdigest()})
    say({"sent": int(count)})


def peer_receive(address: str, shared_memory: str) -> None:
    """Checks each message until the sender leaves, and says what it saw."""
    seen = {"count": 0, "wrong": 0, "shared": 0, "dropped": 0, "out_of_order": 0}
    last = 0
    with Node(address, "t", "receiver", shared_memory=shared_memory == "1") as node:
        say({"local": node.local})
        while True:
            event = node.next(10)
            if isinstance(event, InputClosed) and event.id != "data":
                continue
            if not isinstance(event, Input):
                break
            with event:
                seen["count"] += 1
                seen["wrong"] += hashlib.sha256(event.payload).hexdigest() != event.metadata["sha256"]
                seen["shared"] += event.shared
                seen["dropped"] += event.dropped
                seen["out_of_order"] += event.seq != last + 1 + event.dropped
                last = event.seq
    say(seen)


def peer_hold(address: str, count: str) -> None:
    """Takes messages and lets go of none of them, until it is killed."""
    node = Node(address, "t", "receiver")
    say({"local": node.local})
    held = [node.next(10) for _ in range(int(count))]
    say({"held": len(held)})
    sys.stdin.readline()


if __name__ == "__main__":
    {"send": peer_send, "receive": peer_receive, "hold": peer_hold}[sys.argv[1]](*sys.argv[2:])
