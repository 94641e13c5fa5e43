"""One connection to the broker: frames, handshake, Ping and Pong, and sending in order."""

from __future__ import annotations

import collections
import selectors
import socket
import threading
import time
from typing import Deque, Optional, Tuple

from . import messages
from .messages import Attach, Bye, Error, Hello, Message, Ping, Pong, Ready, Welcome
from .numbers import PROTOCOL_VERSION, BrokerdError, Disconnected, ErrorCode, ProtocolError, Refused, Role
from .shm import MemoryUnusable, Probe

CLIENT = "brokerd-python/0.1"
FLAG_TAKEOVER = 1
_READ_BYTES = 256 * 1024
_PINGS_UNANSWERED_MAX = 3


def hello(role: Role, auth: bytes = b"", dataflow: str = "", node: str = "", flags: int = 0) -> Hello:
    """The first message of this client."""
    return Hello("brokerd", PROTOCOL_VERSION, PROTOCOL_VERSION, 0, role, auth, dataflow, node, CLIENT, flags)


def parse_address(address: str) -> Tuple[str, int]:
    """Splits HOST:PORT; an IPv6 host may be in brackets."""
    host, colon, port = address.rpartition(":")
    if not colon or not port.isdigit():
        raise ValueError(f"{address!r} is not HOST:PORT")
    return host.strip("[]") or "127.0.0.1", int(port)


class Link:
    """A connection after its handshake. One thread reads; any thread posts and flushes."""

    welcome: Welcome
    ready: Ready
    probe: Optional[Probe] = None

    def __init__(self, address: str, greeting: Hello, shared_memory: bool, timeout_seconds: float) -> None:
        """Connects and shakes hands. Refused, Disconnected, ProtocolError, or OSError if that fails."""
        self._outbox: Deque[bytes] = collections.deque()
        self._said_bye = False
        self._post_lock = threading.Lock()  # of the outbox together with said_bye
        self._send_lock = threading.Lock()
        self._decoder = messages.FrameDecoder()
        self._socket = socket.create_connection(parse_address(address), timeout_seconds)
        self._wake_reader, self._wake_writer = socket.socketpair()
        self._selector = selectors.DefaultSelector()
        try:
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._wake_writer.setblocking(False)
            self._selector.register(self._socket, selectors.EVENT_READ)
            self._selector.register(self._wake_reader, selectors.EVENT_READ)
            self._shake_hands(greeting, shared_memory, time.monotonic() + timeout_seconds)
            self._socket.settimeout(None)
        except BaseException:
            self.dispose()
            raise
        self._heartbeat_seconds = 0 if self.ready.local else self.welcome.heartbeat_ms / 1000
        self._heard_at = time.monotonic()
        self._pings_unanswered = 0

    def _shake_hands(self, greeting: Hello, shared_memory: bool, deadline: float) -> None:
        self.post(greeting)
        self.flush()
        welcome = self._expect(Welcome, deadline)
        if welcome.version != PROTOCOL_VERSION:
            raise ProtocolError(f"version {welcome.version}, not {PROTOCOL_VERSION}", ErrorCode.VERSION)
        self.welcome = welcome
        if shared_memory and welcome.probe_name:
            try:
                self.probe = Probe(
                    welcome.probe_name, welcome.probe_offset, welcome.probe_length, welcome.session
                )
            except MemoryUnusable:
                self.probe = None
        self.post(Attach(self.probe.nonce if self.probe else b""))
        self.flush()
        self.ready = self._expect(Ready, deadline)
        self._decoder.limit = welcome.frame_max
        if not self.ready.local:
            self.probe = None

    def _expect(self, wanted: type, deadline: float) -> Message:
        while True:
            message = self._next_message()
            if message is None:
                self._fill(deadline)
            elif isinstance(message, wanted):
                return message
            elif isinstance(message, Error):
                raise Refused(message.code, message.text)
            elif not isinstance(message, Pong):
                raise ProtocolError(f"{type(message).__name__} before {wanted.__name__}", ErrorCode.WRONG_STATE)

    def _fill(self, deadline: float) -> None:
        self._socket.settimeout(max(0.001, deadline - time.monotonic()))
        data = self._socket.recv(_READ_BYTES)
        if not data:
            raise Disconnected("the broker closed the connection during the handshake")
        self._decoder.feed(data)

    def _next_message(self) -> Optional[Message]:
        """The next message that has come; Pings are answered, kinds to be ignored are skipped."""
        while True:
            body = self._decoder.next_body()
            if body is None:
                return None
            message = messages.decode(body)
            if isinstance(message, Ping):
                self.post(Pong(message.nonce))
                self.flush(wait=False)
            elif message is not None:
                return message

    def read(self, timeout_seconds: Optional[float]) -> Optional[Message]:
        """The next message; None after the time limit or a wake(). Disconnected at the end of the stream."""
        message = self._next_message()
        if message is not None:
            return message
        now = time.monotonic()
        wait = timeout_seconds
        if self._heartbeat_seconds:
            until_ping = max(0.0, self._heard_at + self._heartbeat_seconds - now)
            wait = until_ping if wait is None else min(wait, until_ping)
        ready = [key.fileobj for key, _ in self._selector.select(wait)]
        if self._wake_reader in ready:
            self._wake_reader.recv(4096)
        if self._socket in ready:
            data = self._socket.recv(_READ_BYTES)
            if not data:
                raise Disconnected("the broker closed the connection")
            self._heard_at, self._pings_unanswered = time.monotonic(), 0
            self._decoder.feed(data)
            return self._next_message()
        self._ask_for_life()
        return None

    def _ask_for_life(self) -> None:
        """A Ping after each heartbeat of silence, and the end after several without an answer."""
        now = time.monotonic()
        if not self._heartbeat_seconds or now < self._heard_at + self._heartbeat_seconds:
            return
        if self._pings_unanswered == _PINGS_UNANSWERED_MAX:
            raise Disconnected(f"{_PINGS_UNANSWERED_MAX} Pings without an answer")
        self._pings_unanswered += 1
        self._heard_at = now
        self.post(Ping(self._pings_unanswered))
        self.flush(wait=False)

    def read_buffered(self) -> Optional[Message]:
        """The next message that has come already; None if there is none."""
        return self._next_message()

    def wake(self) -> None:
        """Makes read() return."""
        try:
            self._wake_writer.send(b"w")
        except (BlockingIOError, OSError):
            pass  # it is awake, or gone

    def post(self, message: Message) -> None:
        """Puts a message behind those that wait to be sent. ProtocolError if it cannot be encoded."""
        self.post_frame(messages.encode(message))

    def post_frame(self, frame: bytes) -> None:
        with self._post_lock:
            if not self._said_bye:
                self._outbox.append(frame)

    def post_bye(self, reason: str) -> None:
        """Posts a Bye; nothing follows it, and when it is sent this side of the connection is closed."""
        frame = messages.encode(Bye(reason))
        with self._post_lock:
            self._outbox.append(frame)
            self._said_bye = True

    def flush(self, wait: bool = True) -> None:
        """Sends what was posted. With wait=False another thread that is sending already may do it."""
        while self._outbox:
            if not self._send_lock.acquire(blocking=wait):
                return
            try:
                while self._outbox:
                    self._socket.sendall(self._outbox.popleft())
                with self._post_lock:
                    last = self._said_bye and not self._outbox
                if last:
                    self._socket.shutdown(socket.SHUT_WR)  # and reading goes on until the broker closes
            except BaseException:
                self.shutdown()  # half a frame may be out; nothing can be sent behind it
                raise
            finally:
                self._send_lock.release()

    def say_error(self, error: ProtocolError) -> None:
        """Tells the broker what it did wrong, as far as that is still possible."""
        try:
            self.post(Error(int(error.code), str(error)[:200]))
            self.flush(wait=False)
        except (OSError, BrokerdError):
            pass

    def shutdown(self) -> None:
        """Ends the connection; a read() under way returns."""
        try:
            self._socket.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass  # not connected any more

    def dispose(self) -> None:
        """Closes the descriptors. Nothing else may use the link."""
        self.shutdown()
        for closable in (self._selector, self._socket, self._wake_reader, self._wake_writer):
            closable.close()
        self.probe = None
