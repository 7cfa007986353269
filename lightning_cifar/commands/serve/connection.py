"""uvicorn's connections, closed when a client is silent, reads no answer, sends forever or on after the answer."""

from asyncio import Transport
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

SILENCE = 10.0  # seconds without a byte of a request
SENDING = 120.0  # seconds for all of a request
READING = 60.0  # seconds without a byte of an answer being read
LINGER = 3.0  # seconds for the rest of a request that was answered early: a client that still sends reads nothing
WATCH = 1.0  # seconds between two looks at these limits


class Connection(H11Protocol):
    """A connection with time limits; uvicorn's only limit is on the time between two requests."""

    seen: Any = None  # the last request
    heard = since = 0.0  # when the client sent something, and when it became the client's turn
    early: float | None = None  # when a request was answered of which the rest still comes
    unsent, changed = 0, 0.0  # bytes of answers that wait for the client, and when their number changed

    def connection_made(self, transport: Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.heard = self.since = self.loop.time()
        self.watch()

    def data_received(self, data: bytes) -> None:
        self.heard = self.loop.time()
        super().data_received(data)

    def watch(self) -> None:
        """Close the connection if a limit is reached; called every `WATCH` seconds."""
        now, unsent = self.loop.time(), self.transport.get_write_buffer_size()
        if self.transport.is_closing() and not unsent:
            return
        if unsent != self.unsent:
            self.unsent, self.changed = unsent, now
        answered = self.cycle is not None and self.cycle.response_complete
        if self.cycle is not self.seen or not (self.cycle is None or answered or self.cycle.more_body):
            self.seen, self.heard, self.since = self.cycle, now, now
        is_early = answered and self.conn.their_state is h11.SEND_BODY
        self.early = (self.early or now) if is_early else None
        late = now - self.heard > SILENCE or now - self.since > SENDING or (self.early and now - self.early > LINGER)
        if now - self.changed > READING if unsent else late:
            self.transport.abort()
        else:
            self.loop.call_later(WATCH, self.watch)
