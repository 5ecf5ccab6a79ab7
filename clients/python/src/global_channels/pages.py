"""Members and history of a channel, page by page."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

from .backoff import Backoff
from .connection import Connection, to_json
from .errors import ChatError, ConnectionEndedError
from .events import Body, UserId
from .positions import Position

MEMBERS = "chat.handler.members"
HISTORY = "chat.handler.history"

MEMBERS_OF_A_PAGE = 1_000


@dataclass(frozen=True, slots=True)
class Member:
    """A user who is in a channel, with how many connections, and what everybody is told about the user."""

    user_id: str
    sessions: int
    info: Any


@dataclass(frozen=True, slots=True)
class Publication:
    """What stands at one place in the log of a channel: a message, a join, a leave, or what a back end has published."""

    route: str
    body: Body
    user_id: UserId | None
    offset: int
    epoch: str
    time: int


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
) -> AsyncIterator[Publication]:
    """The publications of the log, from page to page without a hole."""
    asked: dict[str, Any] = {"channel": channel, "newestFirst": newest_first, "pageSize": page_size}
    while True:
        if from_ is not None:
            asked["from"] = from_.to_json()
        page = await reader.read(HISTORY, asked)
        continuity = page.get("continuity", "contiguous")
        if from_ is not None and continuity != "contiguous":
            hole = "The log does not continue where the last page ended. Begin again without the position."
            raise ChatError(str(continuity), hole)
        for read in page.get("publications") or ():
            body = read.get("body") or {}
            from_ = Position(read["epoch"], read["offset"])
            yield Publication(read["route"], body, body.get("userId"), from_.offset, from_.epoch, read["time"])
        if not page.get("more"):
            return
        if not page.get("publications"):
            raise ChatError("gap", "The server has more, but has given nothing.")
