"""The messages of one channel that were not stored yet."""

import asyncio
import json
import secrets
from collections import deque
from collections.abc import Callable, Generator
from dataclasses import dataclass
from functools import partial
from typing import Any

from .backoff import Backoff
from .clock import Clock
from .connection import Outcome, object_to_json
from .errors import UNKNOWN, ChatError
from .line import Line

PUBLISH = "chat.handler.publish"

UNKNOWN_OUTCOME = "UNKNOWN_OUTCOME"

SAFE_PART = 0.9  # of the time in which the server knows a key: a repeated message needs time to arrive, too


@dataclass(frozen=True, slots=True)
class Stored:
    """A message is in the log of its channel. `key` is the name under which the server knows it for five minutes."""

    key: str


class Sent:
    """A message that was given to the library. Await it to know that it is stored.

    It goes on whether you await it or not, also if you are cancelled while you do. If it fails, it raises ChatError:
    the server's reason for a refusal, or `TOO_BIG`, `QUEUE_FULL`, `INVALID_BODY`, `NOT_JOINED`, `CLOSED`, or `UNKNOWN`,
    which means that it may have been stored. A failure that nobody awaits is logged by asyncio.
    """

    def __init__(self, key: str) -> None:
        """Is made by the channel."""
        self.key = key
        self._future: asyncio.Future[Stored] = asyncio.get_running_loop().create_future()

    def __await__(self) -> Generator[Any, None, Stored]:
        """Waits until the message is stored."""
        # Without the shield, a cancelled reader would cancel the message for all others who await it.
        return asyncio.shield(self._future).__await__()

    def done(self) -> bool:
        """True if the message is stored or has failed."""
        return self._future.done()

    @classmethod
    def _failed(cls, error: ChatError) -> "Sent":
        """A message that was not taken."""
        sent = cls(secrets.token_urlsafe(16))
        sent._settle(error)
        return sent

    def _settle(self, error: ChatError | None, *, is_expected: bool = False) -> None:
        """Ends the waiting. `is_expected`: the application has caused the failure, and need not be told of it."""
        if error is None:
            self._future.set_result(Stored(self.key))
            return
        self._future.set_exception(error)
        if is_expected:
            self._future.exception()  # asyncio logs no failure that somebody has looked at.


class _Message:
    """A message on its way. It is written once, because the same key must come with the same bytes."""

    def __init__(self, params: str, sent: Sent) -> None:
        self.params = params
        self.sent = sent
        self.size = len(params.encode())
        self.doubtful_since: float | None = None  # when the first try was sent that may have been carried out
        self.was_doubtful = False  # A try before this one may have been carried out.
        self.is_last_try = False


class Outbox:
    """Sends the messages of one channel in the order of the calls, each until its outcome is known.

    One message at a time is unanswered. So a message that is refused for now is repeated before those behind it are sent.
    """

    def __init__(
        self,
        channel: str,
        line: Line,
        *,
        backoff: Backoff,
        clock: Clock,
        key_life: float,
        on_stored: Callable[[], None],
    ) -> None:
        """`key_life` is how many seconds the server knows a key. `on_stored` is called for each message."""
        self._channel = json.dumps(channel)
        self._line = line
        self._backoff = backoff
        self._clock = clock
        self._safe = key_life * SAFE_PART
        self._on_stored = on_stored
        self._messages: deque[_Message] = deque()
        self._in_flight: _Message | None = None
        self._pause: asyncio.TimerHandle | None = None
        self._is_open = False

    def __bool__(self) -> bool:
        """True if any message has no outcome yet."""
        return bool(self._messages)

    def add(self, body: object, *, exclude_self: bool) -> Sent:
        """Takes a message. It may have failed already when this returns."""
        sent = Sent(secrets.token_urlsafe(16))
        try:
            text = object_to_json(body)
        except ChatError as error:
            sent._settle(error)
            return sent
        excluding = ',"excludeSelf":true' if exclude_self else ""
        params = f'{{"channel":{self._channel},"body":{text}{excluding},"key":"{sent.key}"}}'
        message = _Message(params, sent)
        if not self._line.take(message.size):
            sent._settle(self._line.full(message.size))
            return sent
        self._messages.append(message)
        self._flow()
        return sent

    def open(self) -> None:
        """The channel is joined on the current connection."""
        self._is_open = True
        self._flow()

    def shut(self) -> None:
        """The channel is not joined, or the connection has ended. Messages wait."""
        self._is_open = False
        if self._pause is not None:
            self._pause.cancel()
            self._pause = None

    def fail(self, error: ChatError) -> None:
        """The channel was left, so nothing is sent or repeated any more. A message under way may still be answered."""
        for message in tuple(self._messages):
            if message is self._in_flight:
                message.is_last_try = True
            else:
                self._settle(message, error.again() if message.doubtful_since is None else _may_be_stored())

    def close(self, error: ChatError) -> None:
        """The application has closed the chat. All messages fail."""
        for message in tuple(self._messages):
            self._settle(message, error.again(), is_expected=True)

    def _flow(self) -> None:
        while self._is_open and self._messages and self._in_flight is None and self._pause is None:
            connection = self._line.connection
            if connection is None:
                return
            message = self._messages[0]
            now = self._clock()
            message.was_doubtful = message.doubtful_since is not None
            if message.doubtful_since is None:
                message.doubtful_since = now
            elif now - message.doubtful_since >= self._safe:
                # The server may have forgotten the key, and would store the message a second time.
                self._settle(message, _may_be_stored())
                continue
            self._in_flight = message
            connection.request(PUBLISH, message.params, partial(self._answered, message))

    def _answered(self, message: _Message, outcome: Outcome) -> None:
        self._in_flight = None
        error = outcome.error
        if message.sent.done():
            return  # The chat was closed.
        if error is None:
            self._backoff.reset()
            self._on_stored()
            self._settle(message, None)
        elif outcome.body is None:
            # The connection has ended. Unless it was too big, the message may be stored, and is repeated on the next one.
            if outcome.is_too_big or message.is_last_try:
                self._settle(message, error)
        elif error.retry and not message.is_last_try:
            if not message.was_doubtful and error.reason != UNKNOWN_OUTCOME:
                message.doubtful_since = None  # Nothing was done, so the life of its key has not begun.
            pause = error.retry_after + self._backoff.pause()
            self._pause = asyncio.get_running_loop().call_later(pause, self._go_on)
        else:
            self._settle(message, _may_be_stored() if message.was_doubtful else error)
        self._flow()

    def _go_on(self) -> None:
        self._pause = None
        self._flow()

    def _settle(self, message: _Message, error: ChatError | None, *, is_expected: bool = False) -> None:
        self._messages.remove(message)
        self._line.give(message.size)
        message.sent._settle(error, is_expected=is_expected)


def _may_be_stored() -> ChatError:
    return ChatError(UNKNOWN, "The message may have been stored. It was sent, and no answer came while it could be repeated.")
