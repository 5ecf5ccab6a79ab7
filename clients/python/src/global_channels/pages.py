"""Members and history of a channel, page by page."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

from .backoff import Backoff
from .connection import Connection, to_json
from .errors import ChatError, ConnectionEndedError
from .events import LogEvent, lost, publication
from .positions import Position

MEMBERS = "chat.handler.members"
HISTORY = "chat.handler.history"

MEMBERS_OF_A_PAGE = 1_000

CONTIGUOUS = "contiguous"


@dataclass(frozen=True, slots=True)
class Member:
    """A user who is in a channel, with how many connections, and what everybody is told about the user."""

    user_id: str
    sessions: int
    info: Any


class Reader:
    """Reads what the server knows about a channel. A read changes nothing, so it is repeated until it is answered."""

    def __init__(self, member: Callable[[], Awaitable[Connection]], backoff: Callable[[], Backoff]) -> None:
        """`member` waits until the channel is joined."""
        self._member = member
        self._backoff = backoff

    async def read(self, route: str, body: Mapping[str, Any]) -> Mapping[str, Any]:
        """Waits while the chat is away or the server is busy. Raises ChatError if the read is refused for good."""
        backoff = self._backoff()
        while True:
            connection = await self._member()
            try:
                return await connection.ask(route, to_json(body))
            except ConnectionEndedError:
                continue
            except ChatError as refused:
                if not refused.retry:
                    raise
                await asyncio.sleep(refused.retry_after + backoff.pause())


async def members(reader: Reader, channel: str) -> list[Member]:
    """All pages."""
    found: dict[str, Member] = {}
    token = ""
    while True:
        page = await reader.read(MEMBERS, {"channel": channel, "pageSize": MEMBERS_OF_A_PAGE, "pageToken": token})
        for listed in page.get("members") or ():
            # A user may be on two pages if it leaves and joins in between.
            found[listed["userId"]] = Member(listed["userId"], listed["sessions"], listed.get("info"))
        token = page.get("nextPageToken") or ""
        if not token:
            return list(found.values())


async def history(
    reader: Reader, channel: str, *, newest_first: bool, from_: Position | None, page_size: int
) -> AsyncIterator[LogEvent]:
    """What the log holds, from page to page. No hole is silent."""
    asked: dict[str, Any] = {"channel": channel, "newestFirst": newest_first, "pageSize": page_size}
    while True:
        if from_ is not None:
            asked["from"] = from_.to_json()
        page = await reader.read(HISTORY, asked)
        reason = page.get("continuity", CONTIGUOUS)
        if from_ is not None and reason != CONTIGUOUS:
            yield lost(reason, from_, Position.read(page.get("position")))
        for read in page.get("publications") or ():
            from_ = Position(read["epoch"], read["offset"])
            event = publication(read["route"], read.get("body") or {}, from_.offset, from_.epoch, read["time"])
            if event is not None:
                yield event
        if not page.get("more") or not page.get("publications"):
            return
