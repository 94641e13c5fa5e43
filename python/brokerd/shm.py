"""Shared memory: the probe and its lock, mappings of regions, and the slots of a sender. Linux only.

Nothing here counts users of a mapping. A memoryview keeps its :class:`RegionMapping` alive, and the mapping
keeps its :class:`Probe` alive; so the lock that tells the broker "this process may still look" is dropped with
the last view of the session's memory, however late that is.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import stat
import struct
import sys
from typing import Dict, List, NamedTuple, Optional

from .msgpack import Buffer
from .numbers import BrokerdError

DIRECTORY = "/dev/shm"
PAGE_BYTES = 4096
SMALL_SLOT_BYTES_MIN, SMALL_SLOT_BYTES_MAX = 128, 2048
HEADER_BYTES = 4096
SLOTS_MAX = 448
SLOT_BYTES_MAX = 2**30
LOCK_OFFSET = 2**40

_HEADER = struct.Struct("<8sIIQQ")
_FLOCK = struct.Struct("hhqqi")  # l_type, l_whence, l_start, l_len, l_pid
_F_OFD_SETLK = getattr(fcntl, "F_OFD_SETLK", 37)
_NAME_CHARACTERS = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_.-")


class MemoryUnusable(BrokerdError):
    """A shared memory object is not there, or is not what the broker said."""


def slot_class(length: int) -> int:
    """The bytes of the slots for payloads of length bytes."""
    if not 0 <= length <= SLOT_BYTES_MAX:
        raise ValueError(f"{length} bytes: a slot holds 0 to {SLOT_BYTES_MAX}")
    if length <= SMALL_SLOT_BYTES_MAX:
        return max(SMALL_SLOT_BYTES_MIN, 1 << max(0, length - 1).bit_length())
    pages = -(-length // PAGE_BYTES)
    if pages > 4:
        step = 1 << ((pages - 1).bit_length() - 3)
        pages = -(-pages // step) * step
    return pages * PAGE_BYTES


def _open(name: str, flags: int) -> int:
    """Opens an object by a name that came over the wire. It is never a link, and a regular file."""
    if not 1 <= len(name) <= 255 or name[0] in ".-" or not _NAME_CHARACTERS.issuperset(name):
        raise MemoryUnusable(f"{name!r} is not a name of shared memory")
    path = f"{DIRECTORY}/{name}"
    try:
        fd = os.open(path, flags | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise MemoryUnusable(f"open {path}: {error.strerror}") from error
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise MemoryUnusable(f"{path} is not a regular file")
    return fd


class Probe:
    """The open probe file, with the lock that says that this session's memory may be in use."""

    def __init__(self, name: str, offset: int, length: int, session: int) -> None:
        self._fd = -1
        if not sys.platform.startswith("linux"):
            raise MemoryUnusable(f"shared memory is for Linux, this is {sys.platform}")
        self._fd = _open(name, os.O_RDONLY)
        self.nonce = os.pread(self._fd, length, offset)
        if len(self.nonce) != length:
            raise MemoryUnusable(f"{name}: {len(self.nonce)} bytes of nonce, not {length}")
        lock = _FLOCK.pack(fcntl.F_RDLCK, os.SEEK_SET, LOCK_OFFSET + session, 1, 0)
        padding = bytes(-len(lock) % 8)
        try:
            fcntl.fcntl(self._fd, _F_OFD_SETLK, lock + padding)
        except OSError as error:
            raise MemoryUnusable(f"lock {name}: {error.strerror}") from error

    def __del__(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


class RegionMapping(mmap.mmap):
    """A mapped region that has been checked against what the broker said about it."""

    region: int
    slot_bytes: int
    slots: int
    probe: Probe

    @classmethod
    def open(
        cls, probe: Probe, region: int, name: str, size: int, slot_bytes: int, slots: int, writable: bool
    ) -> "RegionMapping":
        """Maps an object; MemoryUnusable if anything about it is not as announced."""
        if not 1 <= slots <= SLOTS_MAX or not 1 <= slot_bytes <= SLOT_BYTES_MAX:
            raise MemoryUnusable(f"region {region}: {slots} slots of {slot_bytes} bytes")
        if slot_class(slot_bytes) != slot_bytes or size != HEADER_BYTES + slots * slot_bytes:
            raise MemoryUnusable(f"region {region}: {size} bytes, {slots} slots of {slot_bytes} bytes")
        fd = _open(name, os.O_RDWR if writable else os.O_RDONLY)
        try:
            if os.fstat(fd).st_size < size:
                raise MemoryUnusable(f"{name}: shorter than {size} bytes")
            protection = mmap.PROT_READ | (mmap.PROT_WRITE if writable else 0)
            options = {"trackfd": False} if sys.version_info >= (3, 13) else {}
            mapping = cls(fd, size, flags=mmap.MAP_SHARED, prot=protection, **options)
        except (OSError, ValueError) as error:
            raise MemoryUnusable(f"map {name}: {error}") from error
        finally:
            os.close(fd)
        mapping.region, mapping.slot_bytes, mapping.slots, mapping.probe = region, slot_bytes, slots, probe
        magic, layout, header_slots, header_slot_bytes, header_region = _HEADER.unpack_from(mapping)
        if (magic, layout, header_slots, header_slot_bytes, header_region) != (
            b"BROKERDR", 1, slots, slot_bytes, region,
        ):
            raise MemoryUnusable(f"{name}: the header is not that of region {region}")
        return mapping

    def payload(self, offset: int, length: int) -> memoryview:
        """A view of [offset, offset+length), which must lie in one slot; MemoryUnusable if it does not."""
        slot, start = divmod(offset - HEADER_BYTES, self.slot_bytes)
        if not 0 <= slot < self.slots or start + length > self.slot_bytes:
            raise MemoryUnusable(f"region {self.region}: {length} bytes at {offset} are not in one slot")
        return memoryview(self)[offset : offset + length]

    def unmap(self) -> bool:
        """Unmaps unless something still has a view of it."""
        try:
            self.close()
        except BufferError:
            return False
        return True


class Slot(NamedTuple):
    """A place for one payload in a region that is leased to this node."""

    region: "LeasedRegion"
    index: int

    @property
    def offset(self) -> int:
        return HEADER_BYTES + self.index * self.region.mapping.slot_bytes


class LeasedRegion:
    """A region that this node writes to, with the list of its free slots."""

    def __init__(self, mapping: RegionMapping) -> None:
        self.mapping = mapping
        self.free: List[int] = list(range(mapping.slots - 1, -1, -1))
        self.retired = False

    @property
    def idle(self) -> bool:
        return len(self.free) == self.mapping.slots


class SlotAllocator:
    """The regions that are leased to this node. The caller holds the node's lock."""

    def __init__(self) -> None:
        self._regions: Dict[int, LeasedRegion] = {}

    def add(self, mapping: RegionMapping) -> None:
        self._regions[mapping.region] = LeasedRegion(mapping)

    def take(self, slot_bytes: int) -> Optional[Slot]:
        """A free slot of the class, None if there is none."""
        for region in self._regions.values():
            if region.mapping.slot_bytes == slot_bytes and region.free and not region.retired:
                return Slot(region, region.free.pop())
        return None

    def give_back(self, slot: Slot) -> None:
        slot.region.free.append(slot.index)

    def slots_of(self, slot_bytes: int) -> int:
        """Slots of the class, free or not."""
        mappings = (region.mapping for region in self._regions.values() if not region.retired)
        return sum(mapping.slots for mapping in mappings if mapping.slot_bytes == slot_bytes)

    def retire(self, region: int) -> None:
        if region in self._regions:
            self._regions[region].retired = True

    def collect(self, all_idle: bool = False) -> List[int]:
        """Unmaps the retired regions (or all) that have no slot in use; the ids are to be returned to the broker."""
        gone = [
            number
            for number, region in self._regions.items()
            if region.idle and (region.retired or all_idle) and region.mapping.unmap()
        ]
        for number in gone:
            del self._regions[number]
        return gone


def view_bytes(payload: Buffer) -> memoryview:
    """The payload as one run of bytes; BufferError or TypeError if it is none."""
    view = memoryview(payload)
    return view if view.format == "B" and view.ndim == 1 else view.cast("B")
