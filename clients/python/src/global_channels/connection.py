"""One connection to a server: requests and answers, pushes, and noticing that it is dead."""

import asyncio
import json
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol

from .clock import Clock
from .errors import INVALID_BODY, LOST, NO_ANSWER, TOO_BIG, ChatError, ConnectionEndedError, refusal
from .listeners import report
from .sockets import Socket, SocketClosed

PING = "connector.handler.ping"

TOO_BIG_CODE = 1009  # WebSocket's close code for a message beyond the server's limit

OWN_CODES = 4000  # Close codes from here on are the server's own, and the reason beside them is a word to decide by.

CROWDED = 64 * 1024  # characters that the socket has not taken yet

CHECKS = 4  # in the time of a ping: how soon a machine notices that it has slept

YIELDS = 4  # turns of the loop: enough for tasks that wait through wait_for, gather or a TaskGroup


class Outcome(NamedTuple):
    """What became of a request. `body` is the answer, and None if the connection ended first."""

    body: Mapping[str, Any] | None
    is_too_big: bool = False

    @property
    def error(self) -> ChatError | None:
        """Why it has failed."""
        if self.is_too_big:
            return ChatError(TOO_BIG, "The message is larger than the server allows. It was not stored.")
        if self.body is None:
            return ConnectionEndedError()
        return None if self.body.get("code", 0) == 0 else refusal(self.body)


class End(NamedTuple):
    """Why a connection ended. `kick` is the body of onKick, if the server has sent one."""

    reason: str
    message: str
    code: int
    kick: Mapping[str, Any] | None = None


class Owner(Protocol):
    """Who is told about a connection. Nothing of this may raise."""

    def on_push(self, push: Mapping[str, Any]) -> None:
        """The server has sent something that is no answer."""
        ...

    def on_useful(self) -> None:
        """A ping was answered, so this is more than a connection that could be opened."""
        ...

    def on_end(self, connection: "Connection") -> None:
        """The connection has ended. The outcomes of its requests are told after this."""
        ...


class _Asked(NamedTuple):
    size: int
    answered: Callable[[Outcome], None]


class Connection:
    """One socket, from when it is open. Everything is told in the order in which the server has sent it.

    All that comes is judged by the task that reads the socket, before the next message is read. So an answer is known
    before the pushes that follow it. After an answer, the reader lets those run who wait for it: what they do next, such
    as iterating over a channel, comes before further pushes.
    """

    def __init__(self, socket: Socket, owner: Owner, *, ping: float, silence: float, clock: Clock) -> None:
        """`ping` and `silence` are seconds. `clock` goes on while the machine sleeps."""
        self._loop = asyncio.get_running_loop()
        self._socket = socket
        self._owner = owner
        self._ping_after = ping
        self._silence = silence
        self._clock = clock
        self._last_id = 0
        self._asked: dict[int, _Asked] = {}
        self._unsent: asyncio.Queue[str] = asyncio.Queue()
        self._unsent_size = 0
        self._kick: Mapping[str, Any] | None = None
        self.end: End | None = None
        self._ended = asyncio.Event()
        self._heard = self._loop.time()
        self._is_proven = False  # A ping was answered, so it is more than a connection that could be opened.
        self._ping_at = self._heard + ping
        self._silent_since: float | None = None  # when something was asked for, and nothing has come since
        self._had_a_chance = False  # since anything came
        self._check: asyncio.TimerHandle | None = None
        self._check_due = 0.0
        self._plan_check()
        self._tasks = [self._loop.create_task(self._read()), self._loop.create_task(self._write())]

    # Requests

    def request(self, route: str, body: str, answered: Callable[[Outcome], None], key: str | None = None) -> None:
        """Sends a request. `body` is JSON. `answered` is called once, and never from within this call.

        The owner bounds how much it asks for before it gets answers.
        """
        self._last_id += 1
        key_part = "" if key is None else f',"key":{json.dumps(key)}'
        text = f'{{"id":{self._last_id},"route":{json.dumps(route)},"body":{body}{key_part}}}'
        if self.end is not None:
            self._loop.call_soon(answered, Outcome(None))
            return
        self._asked[self._last_id] = _Asked(len(text.encode()), answered)
        self._unsent.put_nowait(text)
        self._unsent_size += len(text)
        if self._silent_since is None:
            self._silent_since = self._loop.time()
            self._plan_check()

    async def call(self, route: str, body: str, key: str | None = None) -> Outcome:
        """Sends a request and waits for its outcome. `body` is JSON."""
        done: asyncio.Future[Outcome] = self._loop.create_future()

        def answered(outcome: Outcome) -> None:
            if not done.done():  # Otherwise the caller was cancelled.
                done.set_result(outcome)

        self.request(route, body, answered, key)
        return await done

    async def ask(self, route: str, body: str) -> Mapping[str, Any]:
        """Sends a request and returns the body of the answer. Raises ChatError if it is refused, or not answered."""
        outcome = await self.call(route, body)
        if outcome.error is not None:
            raise outcome.error
        return outcome.body or {}

    def is_crowded(self) -> bool:
        """True if the socket does not take what it is given."""
        return self._unsent_size > CROWDED

    # The tasks

    async def _read(self) -> None:
        await asyncio.sleep(0)  # With an eager task factory, this would run before the connection is complete.
        try:
            while self.end is None:
                text = await self._socket.receive()
                if self.end is None and self._receive(text):
                    for _ in range(YIELDS):
                        await asyncio.sleep(0)
        except SocketClosed as closed:
            says_why = closed.code >= OWN_CODES and closed.reason != ""
            message = closed.reason or f"The connection was lost ({closed.code})."
            self._finish(closed.reason if says_why else LOST, message, closed.code)
        except (OSError, ValueError, RecursionError) as error:
            # Of the latter two: what came is no JSON that one can read. Then it is not our server that speaks.
            self._finish(LOST, f"The connection was lost: {error}", 1006)

    async def _write(self) -> None:
        try:
            while True:
                text = await self._unsent.get()
                await self._socket.send(text)
                self._unsent_size -= len(text)
        except SocketClosed:
            pass  # The reader is told, too, and after everything that came before.
        except OSError as error:
            self._finish(LOST, f"The connection was lost: {error}", 1006)

    def _receive(self, text: str | bytes) -> bool:
        """True if this was an answer."""
        self._heard = self._loop.time()
        self._had_a_chance = False
        if self._is_proven:
            # Before, a ping is sent even if much comes, because its answer is what proves it.
            self._ping_at = self._heard + self._ping_after
        message = json.loads(text)
        if not isinstance(message, dict):
            return False
        answered = message.get("id")
        asked = self._asked.pop(answered, None) if isinstance(answered, int) else None
        self._silent_since = self._heard if self._asked else None
        if asked is not None:
            body = message.get("body")
            asked.answered(Outcome(body if isinstance(body, dict) else {}))
        elif message.get("route") == "onKick":
            # Nothing follows it but the close frame, which a broken network may swallow.
            body = message.get("body")
            self._kick = body if isinstance(body, dict) else {}
            reason = str(self._kick.get("reason") or LOST)
            self._finish(reason, f"The server has closed the connection: {reason}", 1000)
        elif answered is None:
            self._owner.on_push(message)
        return asked is not None

    # Noticing that it is dead

    def _plan_check(self) -> None:
        """Plans to look when a ping is due, when the silence is too long, and now and then whether we have slept."""
        now = self._loop.time()
        dead_at = now + self._silence if self._silent_since is None else self._silent_since + self._silence
        due = max(now, min(dead_at, self._ping_at, now + self._ping_after / CHECKS))
        if self._check is not None:
            self._check.cancel()
        self._check_due = self._clock() + due - now
        self._check = self._loop.call_at(due, self._look)

    def _look(self) -> None:
        self._check = None
        now = self._loop.time()
        # The machine slept, or something has blocked the loop. Answers may lie unread in the socket, so this silence says
        # nothing, and the connection gets one more chance.
        was_late = self._clock() - self._check_due > self._silence / 2
        if was_late and not self._had_a_chance:
            self._had_a_chance = True
            self._silent_since = None
            self._ping()
        elif self._silent_since is not None and now - self._silent_since >= self._silence:
            self._finish(NO_ANSWER, f"The server has not answered for {self._silence:g} seconds.", 1006)
            return
        elif now >= self._ping_at:
            self._ping()
        self._plan_check()

    def _ping(self) -> None:
        self._ping_at = self._loop.time() + self._ping_after
        self.request(PING, "{}", self._pinged)

    def _pinged(self, outcome: Outcome) -> None:
        if outcome.body is not None:
            self._is_proven = True
            self._ping_at = self._loop.time() + self._ping_after
            self._owner.on_useful()

    # The end

    def _finish(self, reason: str, message: str, code: int) -> None:
        if self.end is not None:
            return
        self.end = End(reason, message, code, self._kick)
        if self._check is not None:
            self._check.cancel()
        self._tasks[1].cancel()
        asked = list(self._asked.values())
        self._asked.clear()
        self._owner.on_end(self)
        self._ended.set()
        # Of all that was unanswered, the largest must be what the server could not take.
        largest = max(asked, key=lambda it: it.size) if asked and code == TOO_BIG_CODE else None
        for it in asked:
            it.answered(Outcome(None, is_too_big=it is largest))

    async def ended(self) -> End:
        """Waits until the connection has ended, and says why."""
        await self._ended.wait()
        assert self.end is not None
        return self.end

    def drop(self) -> None:
        """Ends the connection from our side. The caller closes the socket."""
        self._finish(LOST, "The connection was given up.", 1006)
        self._tasks[0].cancel()

    def abort(self) -> None:
        """Ends the connection and its socket at once."""
        self.drop()
        self._socket.abort()

    async def close_socket(self, seconds: float) -> None:
        """Closes the socket: in the usual way if that works within this time, and otherwise at once."""
        reader = self._tasks[0]
        try:
            if self.end is not None and self.end.reason != NO_ANSWER:
                await asyncio.wait_for(self._socket.close(1000), seconds)
        except (OSError, SocketClosed, asyncio.TimeoutError):
            pass
        except Exception as error:
            report("closing a socket", error)
        finally:
            self._socket.abort()
            reader.cancel()


def to_json(value: object) -> str:
    """Writes JSON in the shortest way that is UTF-8. Raises ValueError or TypeError if it cannot be written."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    try:
        text.encode()
    except UnicodeEncodeError:
        # Half of a surrogate pair, as in a text that was cut in the middle of an emoji. The server mends it.
        return json.dumps(value, allow_nan=False, separators=(",", ":"))
    return text


def object_to_json(body: object) -> str:
    """Writes the body of a message. Raises ChatError with the reason INVALID_BODY."""
    try:
        if isinstance(body, Mapping):
            return to_json(dict(body))
        problem = f"it is of type {type(body).__name__}"
    except (TypeError, ValueError, RecursionError) as error:
        problem = str(error)
    raise ChatError(INVALID_BODY, f"The body must be a dict that JSON can hold, but {problem}.")
