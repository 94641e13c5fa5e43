"""The sending half of a session: windows, epochs, and leased shared memory."""

from __future__ import annotations

import dataclasses
from typing import Dict, List, Optional

from . import messages
from .link import Link
from .messages import Publish, RegionRequest, RegionReturn, SendFailed
from .msgpack import Metadata
from .numbers import UNLIMITED, DropReason, ErrorCode, ProtocolError, Refused
from .shm import MemoryUnusable, RegionMapping, Slot, SlotAllocator

_SLOTS_FIRST = 4
_SLOTS_MORE_MAX = 64


@dataclasses.dataclass
class Output:
    """One output in one session."""

    index: int
    id: str
    open: bool
    flow: Optional[messages.Flow] = None
    published: int = 0

    @property
    def may_publish(self) -> bool:
        return self.flow is not None and (self.flow.window == UNLIMITED or self.published < self.flow.window)

    @property
    def blocks(self) -> bool:
        """Whether a receiver wants the sender to wait rather than to lose anything."""
        return self.flow is not None and self.flow.window != UNLIMITED


class Sender:
    """State of sending in one session. The caller holds the node's lock."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self.outputs: List[Output] = []
        self.slots = SlotAllocator()
        self.outstanding: Dict[int, Slot] = {}
        self.denied: Dict[int, Refused] = {}
        self.memory_changes = 0
        """Grows whenever a new try for a slot may end differently."""
        self._tokens = 0
        self._requests = 0
        self._asked: Dict[int, RegionRequest] = {}

    # From the connection.

    def on_ports(self, message: messages.Ports) -> None:
        for index, port in enumerate(message.outputs):
            if index == len(self.outputs):
                self.outputs.append(Output(index, port.id, port.open))
            self.outputs[index].open = port.open

    def on_flow(self, message: messages.Flow) -> None:
        if message.output >= len(self.outputs):
            raise ProtocolError(f"Flow for output {message.output}, which is not in Ports")
        self.outputs[message.output].flow = message

    def on_done(self, message: messages.Done) -> None:
        for token in message.tokens:
            slot = self.outstanding.pop(token, None)
            if slot is not None:
                self.slots.give_back(slot)
        self.denied.clear()  # there is room now, or may be
        self.memory_changes += 1
        self.return_regions()

    def on_region_grant(self, message: messages.RegionGrant) -> None:
        slot_bytes = self._answered(message.request).slot_bytes
        self.memory_changes += 1
        probe = self._link.probe
        try:
            if probe is None or message.slot_bytes != slot_bytes:
                raise MemoryUnusable(f"slots of {message.slot_bytes} bytes in answer to {slot_bytes}")
            mapping = RegionMapping.open(
                probe, message.region, message.name, message.bytes, message.slot_bytes, message.slots, True
            )
        except MemoryUnusable as error:
            self._link.post(RegionReturn(message.region))
            self.denied[slot_bytes] = Refused(ErrorCode.NO_MEMORY, str(error))
        else:
            self.slots.add(mapping)

    def on_region_denied(self, message: messages.RegionDenied) -> None:
        asked = self._answered(message.request)
        if asked.slots > 1:
            self._request(asked.slot_bytes, asked.slots // 2)
        else:
            self.denied[asked.slot_bytes] = Refused(message.code, message.text)
            self.memory_changes += 1

    def _answered(self, request: int) -> RegionRequest:
        if request not in self._asked:
            raise ProtocolError(f"an answer to request {request}, which was not made")
        return self._asked.pop(request)

    def on_region_retire(self, message: messages.RegionRetire) -> None:
        self.slots.retire(message.region)
        self.return_regions()

    def on_end(self) -> None:
        """The session is over: its regions are not written to any more, its tokens do not come back."""
        self.slots = SlotAllocator()
        self.outstanding.clear()

    # For the user.

    def find(self, output_id: str) -> Optional[Output]:
        return next((output for output in self.outputs if output.id == output_id), None)

    def take_slot(self, slot_bytes: int) -> Optional[Slot]:
        """A free slot, or None; then a request for more is under way, or denied has the answer."""
        slot = self.slots.take(slot_bytes)
        if slot is None and slot_bytes not in self.denied and not self._is_asked(slot_bytes):
            self._request(slot_bytes, min(self.slots.slots_of(slot_bytes) or _SLOTS_FIRST, _SLOTS_MORE_MAX))
        return slot

    def _is_asked(self, slot_bytes: int) -> bool:
        return any(request.slot_bytes == slot_bytes for request in self._asked.values())

    def _request(self, slot_bytes: int, slots: int) -> None:
        self._requests = (self._requests + 1) % 2**32
        request = self._asked[self._requests] = RegionRequest(self._requests, slot_bytes, slots)
        self._link.post(request)

    def give_back(self, slot: Slot) -> None:
        """Frees a slot that was not published."""
        self.slots.give_back(slot)
        self.memory_changes += 1
        self.return_regions()

    def return_regions(self, all_idle: bool = False) -> bool:
        """Posts the return of regions that are retired (or all) and not in use. Says whether there was one."""
        regions = self.slots.collect(all_idle)
        for region in regions:
            self._link.post(RegionReturn(region))
        return bool(regions)

    def publish_inline(self, output: Output, seq: int, time_ns: int, metadata: Metadata, payload: bytes) -> None:
        """Posts a message; ProtocolError, with nothing done, if it is over a limit."""
        assert output.flow is not None
        frame = messages.encode(
            Publish(output.index, output.flow.epoch, seq, time_ns, 0, 0, 0, len(payload), metadata, payload)
        )
        if len(frame) - 8 > self._link.welcome.frame_max:
            raise ProtocolError(f"{len(payload)} bytes are over the frame limit", ErrorCode.FRAME_TOO_LONG)
        self._link.post_frame(frame)
        output.published += 1

    def publish_slot(
        self, output: Output, seq: int, time_ns: int, metadata: Metadata, slot: Slot, length: int
    ) -> None:
        """Posts a message that lies in a slot; ProtocolError, with nothing done, if it is over a limit."""
        assert output.flow is not None
        region, token = slot.region.mapping.region, self._tokens + 1
        self._link.post(
            Publish(
                output.index, output.flow.epoch, seq, time_ns, token, region, slot.offset, length, metadata, None
            )
        )
        self._tokens = token
        self.outstanding[token] = slot
        output.published += 1

    def report_failed(self, output: Output, reason: DropReason, length: int, seq: int) -> None:
        self._link.post(SendFailed(output.index, reason, 1, length, seq, seq))
