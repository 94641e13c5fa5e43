"""Questions to the broker: status, drops, and loading dataflows."""

from __future__ import annotations

import json
import threading
from typing import Any, Dict, Iterator, List, Optional

from . import messages
from .link import Link, hello
from .messages import Reply, Request
from .numbers import BrokerdError, Disconnected, ErrorCode, ProtocolError, Refused, Role


class Control:
    """A control connection. It may be kept open: a thread of its own answers the broker's Pings."""

    def __init__(self, address: str, *, auth: bytes = b"", timeout_seconds: float = 10.0) -> None:
        """Connects. Refused, Disconnected, ProtocolError or OSError if that fails."""
        self._timeout = timeout_seconds
        self._changed = threading.Condition()
        self._replies: Dict[int, List[Reply]] = {}
        self._last_id = 0
        self._failure: Optional[Exception] = None
        self._link = Link(address, hello(Role.CONTROL, auth), False, timeout_seconds)
        self._thread = threading.Thread(target=self._run, name="brokerd control", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            while True:
                message = self._link.read(None)
                if message is not None:
                    self._take(message)
        except (BrokerdError, OSError) as error:
            if isinstance(error, ProtocolError):
                self._link.say_error(error)
            with self._changed:
                self._failure = error
                self._changed.notify_all()
        self._link.dispose()

    def _take(self, message: messages.Message) -> None:
        if isinstance(message, messages.Error):
            raise Refused(message.code, message.text)
        if isinstance(message, messages.Pong):
            return
        if not isinstance(message, Reply):
            raise ProtocolError(f"{type(message).__name__} is not for control", ErrorCode.WRONG_STATE)
        with self._changed:
            if message.id in self._replies:
                self._replies[message.id].append(message)
                self._changed.notify_all()

    def stream(self, verb: str, body: Any, timeout_seconds: Optional[float]) -> Iterator[Any]:
        """Asks, and yields the body of each Reply. The time limit is for each one; None is no limit.
        Refused if the broker says no, TimeoutError, or why the connection ended."""
        with self._changed:
            self._last_id += 1
            request = self._last_id
            self._replies[request] = []
            self._link.post(Request(request, verb, json.dumps(body).encode()))
        try:
            self._link.flush()
            more = True
            while more:
                reply = self._next_reply(request, timeout_seconds)
                if reply.code != ErrorCode.OK:
                    raise Refused(reply.code, reply.text)
                yield json.loads(bytes(reply.body))
                more = reply.more
        finally:
            with self._changed:
                del self._replies[request]

    def _next_reply(self, request: int, timeout_seconds: Optional[float]) -> Reply:
        with self._changed:
            replies = self._replies[request]
            if not self._changed.wait_for(lambda: replies or self._failure, timeout_seconds):
                raise TimeoutError("brokerd: no reply in time")
            if not replies:
                raise self._failure or Disconnected("closed")
            return replies.pop(0)

    def ask(self, verb: str, body: Any) -> Any:
        """Asks a question that has one answer. Raises as stream does."""
        (answer,) = self.stream(verb, body, self._timeout)
        return answer

    def status(self) -> Dict[str, Any]:
        """Nodes, edges, memory and counters."""
        return self.ask("status", {})

    def drops(self) -> List[Dict[str, Any]]:
        """The totals of each edge and reason that ever dropped."""
        return self.ask("drops", {"follow": False}) or []

    def follow_drops(self, timeout_seconds: Optional[float] = None) -> Iterator[Any]:
        """Drop records as they are logged; the first item is the list of the totals so far."""
        return self.stream("drops", {"follow": True}, timeout_seconds)

    def load(self, yaml: str, name: str = "", owner: bool = False) -> str:
        """Loads a dataflow and returns its name. With owner it is unloaded when this connection closes."""
        return self.ask("load", {"name": name, "yaml": yaml, "owner": owner})["name"]

    def unload(self, name: str) -> None:
        self.ask("unload", {"name": name})

    def stop(self, dataflow: str) -> None:
        """Asks all nodes of a dataflow to end."""
        self.ask("stop", {"dataflow": dataflow})

    def close(self) -> None:
        try:
            self._link.post_bye("done")
            self._link.flush()
        except OSError:
            pass  # it is closed already
        self._thread.join(2.0)
        if self._thread.is_alive():
            self._link.shutdown()
            self._thread.join(2.0)

    def __enter__(self) -> "Control":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
