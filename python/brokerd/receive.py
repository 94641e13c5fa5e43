"""The receiving half of a session: credits, tokens, and the events that a user gets."""

from __future__ import annotations

import collections
import dataclasses
import time
from typing import Callable, Deque, Dict, List, Optional, Tuple, Union

from . import messages
from .link import Link
from .messages import Done, InputPort, Item, Next, Reject
from .msgpack import Metadata
from .numbers import DropReason, ErrorCode, ProtocolError
from .shm import MemoryUnusable, RegionMapping

DONE_DELAY_SECONDS = 0.002  # the protocol allows 3 ms from the first freed token on
_TOKENS_MAX = 65_536


class Input:
    """A message that has come. Its payload is read-only and valid until release()."""

    def __init__(self, port: InputPort, item: Item, payload: memoryview, release: Callable[[int], None]) -> None:
        self.id = port.id
        self.source = port.source
        self.seq = item.seq
        self.time_ns = item.time_ns
        """Unix time in nanoseconds, by the sender's clock."""
        self.dropped = item.dropped
        """Messages that this input lost just before this one."""
        self.metadata: Metadata = item.metadata
        self.payload = payload
        self.shared = item.token != 0
        """Whether the payload is read where the sender wrote it."""
        self._token = item.token
        self._release = release

    def release(self) -> None:
        """Lets go of the payload, so that its sender can use the memory again. Needed exactly once for shared
        payloads; further calls do nothing. BufferError if an object such as an array still looks at it."""
        self.payload.release()
        token, self._token = self._token, 0
        if token:
            self._release(token)

    def __enter__(self) -> "Input":
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


@dataclasses.dataclass(frozen=True)
class InputClosed:
    """The sender of an input closed its output or left. If it comes back, so do messages."""

    id: str
    reason: str


@dataclasses.dataclass(frozen=True)
class Stopped:
    """The node is asked to finish its work and close."""

    reason: str


@dataclasses.dataclass(frozen=True)
class Reconnected:
    """A new connection took the place of a lost one; messages in between are lost."""

    cause: str


Event = Union[Input, InputClosed, Stopped, Reconnected]


class Receiver:
    """State of receiving in one session. The caller holds the node's lock, except for release()."""

    def __init__(self, link: Link, lock_for_release: Callable[[Callable[[], None]], None]) -> None:
        self._link = link
        self._with_lock = lock_for_release
        self.ports: Tuple[InputPort, ...] = ()
        self.events: Deque[Optional[Event]] = collections.deque()  # None: an item that was rejected
        self.ended = False
        self._mappings: Dict[int, RegionMapping] = {}
        self._consumed = 0  # items handed to the user
        self._delivered = 0
        self._said: Tuple[int, int] = (0, 0)  # limit and consumed of the last Next
        self._freed: List[int] = []
        self._freed_at = 0.0

    # From the connection.

    def on_region_open(self, message: messages.RegionOpen) -> None:
        probe = self._link.probe
        if probe is None:
            raise ProtocolError("RegionOpen for a node that is not local", ErrorCode.WRONG_STATE)
        try:
            self._mappings[message.region] = RegionMapping.open(
                probe, message.region, message.name, message.bytes, message.slot_bytes, message.slots, False
            )
        except MemoryUnusable:
            self._mappings.pop(message.region, None)  # its items will be rejected

    def on_region_close(self, message: messages.RegionClose) -> None:
        # What views are left keep the mapping; the last one that goes unmaps it.
        self._mappings.pop(message.region, None)

    def on_inputs(self, message: messages.Inputs) -> None:
        for item in message.items:
            port = self._port(item.input)
            self._delivered += 1
            if item.region == 0:
                payload = memoryview(item.payload if item.payload is not None else b"")
                self.events.append(Input(port, item, payload, self._release))
                continue
            try:
                payload = self._mapping(item.region).payload(item.offset, item.length)
            except MemoryUnusable:
                self._link.post(Reject(item.token, DropReason.BAD_DESCRIPTOR))
                self.events.append(None)
            else:
                self.events.append(Input(port, item, payload, self._release))

    def _mapping(self, region: int) -> RegionMapping:
        if region not in self._mappings:
            raise MemoryUnusable(f"region {region} is not mapped")
        return self._mappings[region]

    def on_input_closed(self, message: messages.InputClosed) -> None:
        self.events.append(InputClosed(self._port(message.input).id, message.reason))

    def _port(self, index: int) -> InputPort:
        if index >= len(self.ports):
            raise ProtocolError(f"input {index} is not in Ports")
        return self.ports[index]

    def on_end(self) -> None:
        """The session is over. What was not handed out is lost; what was stays readable."""
        self.ended = True
        self.events.clear()
        self._mappings.clear()

    # For the user.

    def take(self) -> Optional[Event]:
        """The next event, None if there is none. May post a Next, so that the line does not run dry."""
        while self.events:
            event = self.events.popleft()
            if event is None or isinstance(event, Input):
                self._consumed += 1
            if event is not None:
                # consumed = D would say that somebody waits; that is for ask() to say.
                taken = self._consumed - self._said[1]
                if self._consumed < self._delivered and taken >= max(1, self._room() // 2):
                    self._say(self._consumed + self._room())
                return event
        return None

    def _room(self) -> int:
        """Items that this node is ready to buffer: no more than can wait in its queues."""
        return sum(port.queue_size for port in self.ports if port.open)

    def ask(self) -> None:
        """Tells the broker that the user waits and has taken everything."""
        if self._should_ask():
            self._say(self._consumed + self._room())

    def _should_ask(self) -> bool:
        return bool(self.ports) and self._said != (self._consumed + self._room(), self._consumed)

    @property
    def has_work(self) -> bool:
        """Whether take() or ask() would do something; Ports that change may give ask() new work."""
        return bool(self.events) or self._should_ask()

    def give_up(self) -> None:
        """Tells the broker that the user does not wait any more."""
        if self.ports and self._said[0] > self._delivered:
            self._say(self._delivered)

    def finish(self) -> None:
        """Posts what the broker should know before a Bye: what was consumed, and freed."""
        if self.ports:
            self._say(0)

    def _say(self, limit: int) -> None:
        self._said = (limit, self._consumed)
        self._link.post(Next(limit, self._consumed, self._pop_freed()))

    def _release(self, token: int) -> None:
        self._with_lock(lambda: self._free(token))

    def _free(self, token: int) -> None:
        if self.ended:
            return  # a token is good for its session only
        if not self._freed:
            self._freed_at = time.monotonic()
            self._link.wake()
        self._freed.append(token)

    def _pop_freed(self) -> Tuple[int, ...]:
        tokens = tuple(self._freed[:_TOKENS_MAX])
        del self._freed[:_TOKENS_MAX]
        return tokens

    def done_due_seconds(self) -> Optional[float]:
        """Posts a Done if it is due. The time until the next one is, None if no token waits."""
        if not self._freed:
            return None
        left = self._freed_at + DONE_DELAY_SECONDS - time.monotonic()
        if left > 0:
            return left
        self._link.post(Done(self._pop_freed()))
        return 0.0 if self._freed else None
