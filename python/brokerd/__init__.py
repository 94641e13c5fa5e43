"""A client of brokerd in pure Python, written from docs/protocol.md alone."""

from .control import Control
from .node import Closed, Loan, Node
from .numbers import (
    BrokerdError, Disconnected, DropReason, ErrorCode, NotSent, Policy, ProtocolError, Refused,
)
from .receive import Event, Input, InputClosed, Reconnected, Stopped

__all__ = [
    "BrokerdError", "Closed", "Control", "Disconnected", "DropReason", "ErrorCode", "Event", "Input", "InputClosed",
    "Loan", "Node", "NotSent", "Policy", "ProtocolError", "Reconnected", "Refused", "Stopped",
]
