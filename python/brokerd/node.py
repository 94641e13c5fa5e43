"""A node: what a program uses to take part in a dataflow."""

from __future__ import annotations

import os
import random
import threading
import time
from typing import Any, Callable, Dict, List, Optional, Tuple

from . import messages
from .link import FLAG_TAKEOVER, Link, hello
from .messages import InputPort
from .msgpack import Buffer, Metadata
from .numbers import (
    BrokerdError, Disconnected, DropReason, ErrorCode, NotSent, ProtocolError, Refused, Role,
)
from .receive import Event, Receiver, Reconnected, Stopped
from .send import Output, Sender
from .shm import SLOT_BYTES_MAX, Slot, slot_class, view_bytes

_BACKOFF_FIRST_SECONDS, _BACKOFF_LAST_SECONDS = 0.01, 2.0
_WORTH_ANOTHER_TRY = frozenset({
    ErrorCode.SHUTTING_DOWN, ErrorCode.SLOW_CONNECTION, ErrorCode.TOO_MANY_CONNECTIONS,
    ErrorCode.HANDSHAKE_TIMEOUT, ErrorCode.INTERNAL, ErrorCode.TIMEOUT,
})
_MAY_PASS_ON_RECONNECT = frozenset({
    ErrorCode.UNKNOWN_DATAFLOW, ErrorCode.UNKNOWN_NODE, ErrorCode.DUPLICATE_NODE,
})


class Closed(BrokerdError):
    """The node was closed by this program."""


class _Session:
    """One connection and what is valid only with it."""

    def __init__(self, link: Link, with_lock: Callable[[Callable[[], None]], None]) -> None:
        self.link = link
        self.receiver = Receiver(link, with_lock)
        self.sender = Sender(link)
        self.joined = False
        receiver, sender = self.receiver, self.sender
        self._handlers: Dict[type, Callable] = {
            messages.Ports: self._on_ports,
            messages.Inputs: receiver.on_inputs,
            messages.RegionOpen: receiver.on_region_open,
            messages.RegionClose: receiver.on_region_close,
            messages.InputClosed: receiver.on_input_closed,
            messages.Stop: lambda message: receiver.events.append(Stopped(message.reason)),
            messages.Flow: sender.on_flow,
            messages.Done: sender.on_done,
            messages.RegionGrant: sender.on_region_grant,
            messages.RegionDenied: sender.on_region_denied,
            messages.RegionRetire: sender.on_region_retire,
            messages.Pong: lambda message: None,
        }

    def _on_ports(self, message: messages.Ports) -> None:
        self.receiver.ports = message.inputs
        self.sender.on_ports(message)
        self.joined = True

    def handle(self, message: messages.Message) -> None:
        """Takes a message from the broker. Refused if it is an Error; ProtocolError if it has no place here."""
        if isinstance(message, messages.Error):
            raise Refused(message.code, message.text)
        handler = self._handlers.get(type(message))
        if handler is None:
            raise ProtocolError(f"{type(message).__name__} is not for nodes", ErrorCode.WRONG_STATE)
        handler(message)


class Loan:
    """Memory for a payload, to be filled in place and sent. Shared memory if that is possible."""

    def __init__(
        self, node: "Node", output: str, view: memoryview, session: Optional[_Session], slot: Optional[Slot]
    ) -> None:
        self.view = view
        """Where the payload is to be written. Not to be touched after send()."""
        self._node, self._output, self._session, self._slot = node, output, session, slot

    def send(self, metadata: Optional[Metadata] = None, timeout_seconds: Optional[float] = None) -> int:
        """Publishes the payload and returns its sequence number. Raises as Node.send does."""
        return self._node._send_loan(self, metadata or {}, timeout_seconds)

    def discard(self) -> None:
        """Gives the memory back without sending. Does nothing after send()."""
        self._node._discard(self)

    def __enter__(self) -> "Loan":
        return self

    def __exit__(self, *_: object) -> None:
        self.discard()


class Node:
    """A connection to a broker under the id of a node, which lives on over reconnects.

    Any thread may call any method; next() is for one thread at a time.
    """

    def __init__(
        self,
        address: str,
        dataflow: str,
        node: str,
        *,
        auth: bytes = b"",
        takeover: bool = False,
        shared_memory: bool = True,
        timeout_seconds: float = 10.0,
        reconnect_seconds: float = 30.0,
    ) -> None:
        """Joins a dataflow. Refused, Disconnected, ProtocolError or OSError if that fails.

        reconnect_seconds is how long a lost connection is tried again; 0 is not at all.
        """
        self._address, self._shared_memory, self._timeout = address, shared_memory, timeout_seconds
        self._reconnect_seconds = reconnect_seconds
        self._hello = hello(Role.NODE, auth, dataflow, node, FLAG_TAKEOVER if takeover else 0)
        self._changed = threading.Condition()
        self._closing = threading.Event()
        self._failure: Optional[Exception] = None
        self._sequences: Dict[str, int] = {}
        self._session: Optional[_Session] = None
        self._begin(self._connect(), None)
        self._thread = threading.Thread(target=self._run, name=f"brokerd {node}", daemon=True)
        self._thread.start()
        try:
            with self._changed:
                self._wait(lambda: self._session is not None and self._session.joined, self._deadline(timeout_seconds))
        except BaseException:
            self.close()
            raise

    @classmethod
    def from_environment(cls, **options: Any) -> "Node":
        """Joins as the node that ``brokerctl run`` started this process as; options are those of Node."""
        try:
            address, dataflow, node = (os.environ["BROKERD_" + name] for name in ("ADDR", "DATAFLOW", "NODE"))
        except KeyError as error:
            raise BrokerdError(f"{error.args[0]} is not set: not started by brokerctl run") from None
        token_file = os.environ.get("BROKERD_AUTH_TOKEN_FILE")
        if token_file and "auth" not in options:
            with open(token_file, "rb") as file:
                options["auth"] = file.read().strip()
        return cls(address, dataflow, node, **options)

    # The connection.

    def _connect(self) -> Link:
        return Link(self._address, self._hello, self._shared_memory, self._timeout)

    def _begin(self, link: Link, cause: Optional[Exception]) -> None:
        session = _Session(link, self._with_lock)
        if cause is not None:
            session.receiver.events.append(Reconnected(str(cause)))
        with self._changed:
            self._session = session
            self._changed.notify_all()

    def _with_lock(self, action: Callable[[], None]) -> None:
        with self._changed:
            action()

    def _run(self) -> None:
        while True:
            session = self._session
            assert session is not None
            cause = self._serve(session)
            with self._changed:
                self._session = None
                session.receiver.on_end()
                session.sender.on_end()
                self._changed.notify_all()
            session.link.dispose()
            link = None
            try:
                link = self._reconnect(cause)
            except (BrokerdError, OSError) as error:
                cause = error
            if link is None:
                with self._changed:
                    self._failure = cause
                    self._changed.notify_all()
                return
            self._begin(link, cause)

    def _serve(self, session: _Session) -> Exception:
        """Reads until the connection ends, and returns why."""
        due: Optional[float] = None
        try:
            while True:
                message = session.link.read(due)
                with self._changed:
                    while message is not None:
                        session.handle(message)
                        message = session.link.read_buffered()
                    due = session.receiver.done_due_seconds()
                    self._changed.notify_all()
                session.link.flush(wait=False)
        except ProtocolError as error:
            session.link.say_error(error)
            return error
        except (BrokerdError, OSError) as error:
            return error

    def _reconnect(self, cause: Exception) -> Optional[Link]:
        """A new connection; None if there is to be none, or raises the reason for that."""
        delay, deadline = _BACKOFF_FIRST_SECONDS, time.monotonic() + self._reconnect_seconds
        while self._should_retry(cause) and time.monotonic() < deadline:
            if self._closing.wait(delay * random.uniform(0.5, 1.0)):
                return None
            delay = min(2 * delay, _BACKOFF_LAST_SECONDS)
            try:
                return self._connect()
            except (BrokerdError, OSError) as error:
                if isinstance(error, Refused) and error.code in _MAY_PASS_ON_RECONNECT:
                    continue
                cause = error
        raise cause

    def _should_retry(self, cause: Exception) -> bool:
        if self._closing.is_set():
            return False
        if isinstance(cause, Refused):
            return cause.code in _WORTH_ANOTHER_TRY
        return isinstance(cause, (Disconnected, OSError))

    def _deadline(self, timeout_seconds: Optional[float]) -> Optional[float]:
        return None if timeout_seconds is None else time.monotonic() + timeout_seconds

    def _wait(self, ready: Callable[[], bool], deadline: Optional[float]) -> None:
        """Waits, with the lock held, until ready. TimeoutError, Closed, or why the node is cut off."""
        def over() -> bool:
            return self._closing.is_set() or self._failure is not None or ready()

        left = None if deadline is None else max(0.0, deadline - time.monotonic())
        if not self._changed.wait_for(over, left):
            raise TimeoutError("brokerd: the time limit passed")
        if self._closing.is_set():
            raise Closed("the node was closed")
        if self._failure is not None:
            raise self._failure

    @staticmethod
    def _flush(session: Optional[_Session]) -> None:
        try:
            if session is not None:
                session.link.flush()
        except OSError:
            pass  # the thread that reads sees the end of the connection, and tells why

    @property
    def local(self) -> bool:
        """Whether payloads go through shared memory."""
        with self._changed:
            return self._session is not None and self._session.link.ready.local

    @property
    def local_reason(self) -> str:
        """Why payloads do not go through shared memory."""
        with self._changed:
            return self._session.link.ready.reason if self._session else "not connected"

    @property
    def inputs(self) -> Tuple[InputPort, ...]:
        """The open inputs, as the broker described them last."""
        with self._changed:
            ports = self._session.receiver.ports if self._session else ()
            return tuple(port for port in ports if port.open)

    @property
    def outputs(self) -> List[str]:
        """The ids of the open outputs."""
        with self._changed:
            return [output.id for output in self._session.sender.outputs if output.open] if self._session else []

    # Receiving.

    def next(self, timeout_seconds: Optional[float] = None) -> Optional[Event]:
        """The next event; None if the time limit passes. Raises what ended the connection, if nothing mends it."""
        deadline = self._deadline(timeout_seconds)
        while True:
            with self._changed:
                self._wait(lambda: True, None)
                session = self._session
                event = session.receiver.take() if session else None
                if session and event is None:
                    session.receiver.ask()
            self._flush(session)
            if event is not None:
                return event
            with self._changed:
                try:
                    self._wait(
                        lambda: self._session is not session or (session is not None and session.receiver.has_work),
                        deadline,
                    )
                    continue
                except TimeoutError:
                    if session is not None and session is self._session:
                        session.receiver.give_up()
            self._flush(session)
            return None

    # Sending.

    def send(
        self,
        output: str,
        payload: Buffer,
        metadata: Optional[Metadata] = None,
        *,
        timeout_seconds: Optional[float] = None,
    ) -> int:
        """Publishes a copy of payload and returns its sequence number.

        Waits while a receiver with the policy ``block`` has no room, and while the connection is being mended.
        TimeoutError if that takes too long: nothing was sent. NotSent if the message cannot be sent at all.
        """
        view = view_bytes(payload)
        with self.loan(output, len(view), timeout_seconds=timeout_seconds) as loan:
            loan.view[:] = view
            return loan.send(metadata, timeout_seconds)

    def loan(self, output: str, length: int, *, timeout_seconds: Optional[float] = None) -> Loan:
        """Memory for a payload of length bytes. Raises as send does."""
        deadline = self._deadline(timeout_seconds)
        while True:
            with self._changed:
                port = self._output(output, deadline)
                session = self._session
                assert session is not None
                welcome = session.link.welcome
                if not session.link.ready.local or length <= welcome.inline_max:
                    if length > welcome.frame_max:
                        self._fail(session, port, DropReason.TOO_LARGE, length, "over the frame limit")
                    return Loan(self, output, memoryview(bytearray(length)), None, None)
                if length > SLOT_BYTES_MAX:
                    self._fail(session, port, DropReason.TOO_LARGE, length, "over the largest slot")
                slot_bytes = slot_class(length)
                slot = session.sender.take_slot(slot_bytes)
                if slot is not None:
                    view = memoryview(slot.region.mapping)[slot.offset : slot.offset + length]
                    return Loan(self, output, view, session, slot)
                self._cope_with_denial(session, port, slot_bytes, length)
                sender = session.sender
                changes = sender.memory_changes
            self._flush(session)
            with self._changed:
                self._wait(lambda: self._session is not session or sender.memory_changes != changes, deadline)

    def _cope_with_denial(self, session: _Session, port: Output, slot_bytes: int, length: int) -> None:
        """After a RegionDenied: makes room by returning idle regions, or leaves waiting for Done to the caller
        if the output is one that waits, or raises NotSent."""
        sender = session.sender
        denial = sender.denied.get(slot_bytes)
        if denial is None:
            return
        if sender.return_regions(all_idle=True):
            del sender.denied[slot_bytes]
            sender.take_slot(slot_bytes)
        elif not (port.blocks and sender.outstanding):
            del sender.denied[slot_bytes]
            self._fail(session, port, DropReason.NO_MEMORY, length, str(denial))

    def _output(self, output: str, deadline: Optional[float]) -> Output:
        """The output, once its first Flow is there. KeyError if there is none, NotSent if it is closed."""
        while True:
            self._wait(lambda: self._session is not None and self._session.joined, deadline)
            session = self._session
            assert session is not None
            port = session.sender.find(output)
            if port is None:
                raise KeyError(f"the node has no output {output!r}")
            if not port.open:
                raise NotSent(DropReason.CLOSED, f"output {output} is closed")
            self._wait(lambda: self._session is not session or port.flow is not None, deadline)
            if self._session is session:
                return port

    def _room_on(self, output: str, deadline: Optional[float]) -> Output:
        """The output, once its window allows another message."""
        while True:
            port = self._output(output, deadline)
            session = self._session
            self._wait(lambda: self._session is not session or port.may_publish or not port.open, deadline)
            if self._session is session and port.open:
                return port

    def _send_loan(self, loan: Loan, metadata: Metadata, timeout_seconds: Optional[float]) -> int:
        deadline = self._deadline(timeout_seconds)
        with self._changed:
            port = self._room_on(loan._output, deadline)
            session = self._session
            assert session is not None
            stale = loan._slot is not None and loan._session is not session
            large = loan._slot is None and session.link.ready.local and len(loan.view) > session.link.welcome.inline_max
            if not stale and not large:
                seq = self._publish(session, port, loan, metadata)
        if stale or large:  # the connection changed since; copy into memory of the new one
            copy = bytes(loan.view)
            loan.discard()
            return self.send(loan._output, copy, metadata, timeout_seconds=timeout_seconds)
        self._flush(session)
        return seq

    def _publish(self, session: _Session, port: Output, loan: Loan, metadata: Metadata) -> int:
        seq, now, length = self._sequences.get(port.id, 0) + 1, time.time_ns(), len(loan.view)
        try:
            if loan._slot is None:
                session.sender.publish_inline(port, seq, now, metadata, bytes(loan.view))
            else:
                session.sender.publish_slot(port, seq, now, metadata, loan._slot, length)
        except ProtocolError as error:
            if error.code != ErrorCode.FRAME_TOO_LONG:
                raise
            self._fail(session, port, DropReason.TOO_LARGE, length, str(error))
        self._sequences[port.id] = seq
        loan.view.release()
        loan._slot = None
        return seq

    def _fail(self, session: _Session, port: Output, reason: DropReason, length: int, text: str) -> None:
        """Uses up a sequence number for a message that cannot be sent, and raises NotSent."""
        seq = self._sequences[port.id] = self._sequences.get(port.id, 0) + 1
        session.sender.report_failed(port, reason, length, seq)
        session.link.wake()  # the reading thread flushes
        raise NotSent(reason, text)

    def _discard(self, loan: Loan) -> None:
        loan.view.release()
        with self._changed:
            slot, loan._slot = loan._slot, None
            session = loan._session
            if slot is None or session is None or session is not self._session:
                return
            session.sender.give_back(slot)
            self._changed.notify_all()
        self._flush(session)

    def close_output(self, output: str) -> None:
        """Says that nothing more will be sent on an output in this session."""
        with self._changed:
            port = self._output(output, self._deadline(self._timeout))
            session = self._session
            assert session is not None
            port.open = False
            session.link.post(messages.OutputClose(port.index))
        self._flush(session)

    # The end.

    def close(self, reason: str = "done", linger_seconds: float = 5.0) -> None:
        """Leaves the dataflow. Waits up to linger_seconds for payloads in shared memory that are being read.

        Inputs that are still held stay readable."""
        with self._changed:
            if self._closing.is_set():
                return
            self._changed.wait_for(
                lambda: self._session is None or not self._session.sender.outstanding, linger_seconds
            )
            self._closing.set()
            session = self._session
            if session is not None:
                session.receiver.finish()
                session.link.post_bye(reason)
            self._changed.notify_all()
        self._flush(session)
        self._thread.join(2.0)  # until the broker has closed, too
        if self._thread.is_alive() and session is not None:
            session.link.shutdown()
            self._thread.join(2.0)

    def __enter__(self) -> "Node":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
