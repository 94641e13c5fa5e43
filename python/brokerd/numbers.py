"""The numbers of the protocol, and the exceptions that carry them."""

from __future__ import annotations

import enum
from typing import Union

PROTOCOL_VERSION = 1
HANDSHAKE_FRAME_BYTES_MAX = 65_536
UNLIMITED = 2**64 - 1
"""A window of a Flow message that never fills."""


class ErrorCode(enum.IntEnum):
    """Codes of Error, Reply and RegionDenied. An open set: see :func:`error_code`."""

    OK = 0
    PROTOCOL = 1
    VERSION = 2
    AUTH = 3
    UNKNOWN_DATAFLOW = 4
    UNKNOWN_NODE = 5
    DUPLICATE_NODE = 6
    WRONG_STATE = 7
    FRAME_TOO_LONG = 8
    NO_MEMORY = 9
    QUOTA = 10
    TOO_LARGE = 11
    NOT_YOURS = 12
    SHUTTING_DOWN = 13
    TOO_MANY_CONNECTIONS = 14
    SLOW_CONNECTION = 15
    HANDSHAKE_TIMEOUT = 16
    BAD_DATAFLOW = 17
    NOT_FOUND = 18
    TAKEN_OVER = 19
    INTERNAL = 20
    TIMEOUT = 21


class DropReason(enum.IntEnum):
    """Why a message was lost. A closed set in version 1."""

    QUEUE_FULL = 1
    NO_MEMORY = 2
    HOLD_TIMEOUT = 3
    RECEIVER_GONE = 4
    SENDER_GONE = 5
    TOO_LARGE = 6
    CLOSED = 7
    BAD_DESCRIPTOR = 8
    SLOW_CONNECTION = 9
    SHUTDOWN = 10


class Policy(enum.IntEnum):
    """What happens to a message when the queue of an input is full. A closed set."""

    DROP_OLDEST = 0
    DROP_NEWEST = 1
    BLOCK = 2


class Role(enum.IntEnum):
    """What a connection is for. A closed set."""

    NODE = 0
    CONTROL = 1


def error_code(number: int) -> Union[ErrorCode, int]:
    """The name of a code where it has one; codes of later versions stay numbers."""
    try:
        return ErrorCode(number)
    except ValueError:
        return number


class BrokerdError(Exception):
    """Base of everything that this package raises on its own account."""


class ProtocolError(BrokerdError):
    """The other side, or the caller, broke a rule of the protocol. ``code`` is what to answer."""

    def __init__(self, text: str, code: ErrorCode = ErrorCode.PROTOCOL) -> None:
        super().__init__(text)
        self.code = code


class Refused(BrokerdError):
    """The broker said no: in an Error message, a Reply, or a RegionDenied."""

    def __init__(self, code: int, text: str) -> None:
        self.code = error_code(code)
        self.text = text
        name = self.code.name.lower() if isinstance(self.code, ErrorCode) else f"code {code}"
        super().__init__(f"{name}: {text}")


class Disconnected(BrokerdError):
    """The connection ended without an Error message."""


class NotSent(BrokerdError):
    """A message could not be published. The broker was told, and logs it as a drop."""

    def __init__(self, reason: DropReason, text: str) -> None:
        super().__init__(f"{reason.name.lower()}: {text}")
        self.reason = reason
