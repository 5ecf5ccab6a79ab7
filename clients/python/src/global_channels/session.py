"""Keeps one user logged in: connects, logs in, and does it again after each connection, until there is a reason to stop."""

import asyncio
import itertools
import secrets
from collections.abc import Coroutine, Mapping
from typing import Any, Protocol

from .addresses import web_socket_urls
from .backoff import Backoff
from .connection import Connection, to_json
from .errors import LOST, NO_ANSWER, ChatError, ConnectionEndedError
from .events import State
from .line import Line
from .listeners import report
from .options import Options
from .sockets import OpenSocket, Socket
from .storage import Memory
from .tokens import Tokens, seconds
from .verdicts import TOKEN_REFUSED, Again, Stop, of_end, of_refused_login

LOGIN = "connector.handler.login"

INVALID_PARAMETER = "INVALID_PARAMETER"

CLOSE_WITHIN = 2.0  # seconds, for a socket that is closed in the usual way


class Host(Protocol):
    """The chat that a session belongs to."""

    def _on_online(self) -> None:
        """The line has a connection, on which the user is logged in."""
        ...

    def _on_offline(self) -> None:
        """The line has no connection any more."""
        ...

    def _on_state(self, state: State) -> None:
        """The session connects, or waits before it does."""
        ...

    def _on_push(self, push: Mapping[str, Any]) -> None:
        """The server has sent something that is no answer."""
        ...

    def _on_stop(self, error: ChatError) -> None:
        """There is a reason to stop, so the host stops the session."""
        ...


class Session:
    """The loop of one chat. It runs as a task, which ends with the session."""

    def __init__(self, options: Options, line: Line, memory: Memory, host: Host) -> None:
        """Begins to connect."""
        self._options = options
        self._line = line
        self._memory = memory
        self._host = host
        longest = options.longest_pause_ms / 1000
        self._pauses = Backoff(longest, options.random)
        self._tokens = Tokens(options.token, longest, lambda: Backoff(longest, options.random), options.random)
        self._is_last_token = False  # If the server refuses this token, too, a further one is no use.
        self._was_in = False  # A session of ours may be what is still logged in.
        self._is_stored_secret = False  # The secret is what a storage held, and no login has proved it.
        self._is_stopped = False
        self._connection: Connection | None = None
        self._refreshing: asyncio.Task[None] | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._running = self.spawn(self._run())

    # What the chat does

    def spawn(self, doing: Coroutine[Any, Any, None]) -> "asyncio.Task[None]":
        """Begins a task that belongs to this session. An error in it is reported."""
        task = asyncio.get_running_loop().create_task(doing)
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: "asyncio.Task[None]") -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            report("a task of the library", error)

    def stop(self) -> None:
        """Ends the connection, and connects no more."""
        self._is_stopped = True
        if self._connection is not None:
            self._connection.drop()
        self._running.cancel()

    async def stopped(self, seconds: float) -> None:
        """Waits until everything is over that belongs to this session, but no longer than this."""
        loop = asyncio.get_running_loop()
        until = loop.time() + seconds
        while (tasks := self._tasks - {asyncio.current_task()}) and (left := until - loop.time()) > 0:
            await asyncio.wait(tasks, timeout=left)

    def token_expired(self) -> None:
        """The server has said so."""
        self._tokens.expired()

    # What connections do

    def on_push(self, push: Mapping[str, Any]) -> None:
        """The server has sent something that is no answer."""
        self._host._on_push(push)

    def on_useful(self) -> None:
        """A ping was answered or a message was stored. That a login has succeeded is not enough."""
        self._pauses.reset()

    def on_end(self, connection: Connection) -> None:
        """A connection has ended."""
        if self._refreshing is not None:
            self._refreshing.cancel()
            self._refreshing = None
        if self._line.connection is connection:
            self._line.connection = None
            self._host._on_offline()

    # The loop

    async def _run(self) -> None:
        await asyncio.sleep(0)  # With an eager task factory, this would run before the chat is complete.
        await self._memory.load()
        self._was_in = self._is_stored_secret = self._memory.secret is not None
        for url in itertools.cycle(web_socket_urls(self._options.url)):
            verdict = await self._connect(url)
            if isinstance(verdict, Stop):
                self._host._on_stop(verdict.error)
                return
            self._is_last_token = self._is_last_token or verdict.needs_token
            # The server may have spread the clients whose connections it closes. Then its pause is the right one.
            pause = max(verdict.pause, self._pauses.pause())
            self._host._on_state(State("away", verdict.reason, verdict.message, round(pause * 1000)))
            await asyncio.sleep(pause)
            self._host._on_state(State("connecting"))

    async def _connect(self, url: str) -> Again | Stop:
        """One connection, from its token to its end."""
        silence = self._options.silence_ms / 1000
        try:
            # Before the socket is opened: the server closes connections that do not log in.
            token = await self._tokens.get()
            # Opening a socket takes several round trips.
            socket = await _open(self._options.open_socket, url, 2 * silence)
        except ChatError as error:
            return Again(error.reason, error.message) if error.retry else Stop(error)
        except asyncio.TimeoutError:
            return Again(NO_ANSWER, f"{url} has not answered for {2 * silence:g} seconds.")
        except Exception as error:
            return Again(LOST, f"There is no connection to {url}: {error}")
        connection = self._connection = Connection(
            socket, self, ping=self._options.ping_ms / 1000, silence=silence, clock=self._options.clock
        )
        try:
            verdict = await self._log_in(connection, token)
            verdict = verdict or of_end(await connection.ended(), has_tokens=bool(self._tokens))
        except asyncio.CancelledError:
            # If it is not the chat that stops us, the loop is about to be closed, and would not wait for another task.
            if self._is_stopped:
                self._let_go(connection)
            else:
                connection.abort()
            raise
        self._let_go(connection)
        return verdict

    def _let_go(self, connection: Connection) -> None:
        """Closes the socket, but does not wait: on a dead network that is slow, and the next connection need not wait."""
        self._connection = None
        connection.drop()
        self.spawn(connection.close_socket(CLOSE_WITHIN))

    async def _log_in(self, connection: Connection, token: str | None) -> Again | Stop | None:
        """None: the user is logged in."""
        if self._memory.secret is None:
            self._make_secret()
        while True:
            try:
                answer = await connection.ask(LOGIN, to_json(self._credentials(token)))
            except ConnectionEndedError:
                return None  # The end of the connection says what to do.
            except ChatError as error:
                if error.reason == INVALID_PARAMETER and self._is_stored_secret:
                    # What the storage holds is no secret of this server. Without it, this is not repeated.
                    self._make_secret()
                    continue
                if error.reason not in TOKEN_REFUSED or not self._tokens or self._is_last_token:
                    return of_refused_login(error, was_in=self._was_in)
            else:
                self._logged_in(connection, answer)
                return None
            self._is_last_token = True
            try:
                token = await self._tokens.get()
            except ChatError as error:
                return Again(error.reason, error.message) if error.retry else Stop(error)

    def _make_secret(self) -> None:
        # A secret of our own is as good as one of the server's. It makes the first login safe to repeat: if only its answer
        # is lost, the next login takes the place over instead of being refused.
        self._memory.keep(secrets.token_urlsafe(16))
        self._was_in = self._is_stored_secret = False

    def _credentials(self, token: str | None) -> dict[str, Any]:
        # A token may make us a member before we can say where we were.
        positions = self._memory.to_show() if self._tokens else True
        body: dict[str, Any] = {"positions": positions, "resume": self._memory.secret}
        if self._options.user is not None:
            body["userId"] = self._options.user
        if token is not None:
            body["token"] = token
        return body

    def _logged_in(self, connection: Connection, answer: Mapping[str, Any]) -> None:
        self._is_last_token = self._is_stored_secret = False
        self._was_in = True
        resume = answer.get("resume")
        if isinstance(resume, str):
            self._memory.keep(resume)
        if connection.end is not None:
            return
        if self._tokens:
            self._refreshing = self.spawn(self._keep_fresh(connection, seconds(answer.get("ttl"))))
        self._line.connection = connection
        self._host._on_online()

    async def _keep_fresh(self, connection: Connection, life: float | None) -> None:
        try:
            await self._tokens.keep_fresh(connection, life)
        except ChatError as error:
            self._host._on_stop(error)


async def _open(open_socket: OpenSocket, url: str, seconds: float) -> Socket:
    """Opens a socket within this time. A socket that opens too late, or for nobody, is ended at once."""
    opening = asyncio.ensure_future(open_socket(url))
    try:
        done, _ = await asyncio.wait({opening}, timeout=seconds)
        if not done:
            raise asyncio.TimeoutError
    except BaseException:
        opening.cancel()
        opening.add_done_callback(_abort)
        raise
    return opening.result()


def _abort(opening: "asyncio.Future[Socket]") -> None:
    if not opening.cancelled() and opening.exception() is None:
        opening.result().abort()
