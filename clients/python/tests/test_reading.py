"""Members and history, page by page."""

from collections.abc import AsyncIterator

import pytest
from invented import HISTORY, MEMBERS, Json, Scene, at, refused

from global_channels import Channel, ChatError, Join, LogEvent, Lost, Member, Message, Position


def page(offsets: list[int], *, more: bool, **rest: object) -> Json:
    """A page of history."""
    publications = [
        {"route": "onMessage", "epoch": "e1", "offset": it, "time": it * 10, "body": {"userId": "lin"}} for it in offsets
    ]
    return {"code": 0, "publications": publications, "more": more, "continuity": "contiguous", **rest}


async def read(channel: Channel, **how: object) -> list[object]:
    """The offsets of all publications, and the losses."""
    history = channel.history(**how)  # type: ignore[arg-type]
    return [it if isinstance(it, Lost) else it.offset async for it in history]


async def test_members_are_read_page_by_page(scene: Scene) -> None:
    chat = await scene.online()
    channel = await scene.joined(chat)
    reading = scene.begin(channel.members())
    lin = {"userId": "lin", "sessions": 2, "info": {"n": 1}}
    await scene.socket.answer(MEMBERS, {"code": 0, "members": [lin], "nextPageToken": "p2"})
    last = [{"userId": "ann", "sessions": 1}, lin]
    await scene.socket.answer(MEMBERS, {"code": 0, "members": last, "nextPageToken": ""})
    assert await reading == [Member("lin", 2, {"n": 1}), Member("ann", 1, None)]
    assert [it["pageToken"] for it in scene.socket.of(MEMBERS)] == ["", "p2"]


async def test_history_goes_on_from_the_last_publication_of_a_page(scene: Scene) -> None:
    chat = await scene.online()
    channel = await scene.joined(chat)
    reading = scene.begin(read(channel, page_size=2))
    await scene.socket.answer(HISTORY, page([9, 8], more=True))
    await scene.socket.answer(HISTORY, page([7], more=False))
    assert await reading == [9, 8, 7]
    how = {"channel": "room", "newestFirst": True, "pageSize": 2}
    assert scene.socket.of(HISTORY) == [how, {**how, "from": at(8)}]


async def test_history_gives_messages_joins_and_leaves_with_all_that_is_known(scene: Scene) -> None:
    chat = await scene.online()
    channel = await scene.joined(chat)
    reading = scene.begin(_all(channel.history(newest_first=False, from_=at(3))))
    read_page = page([4], more=False)
    join = {"route": "onJoin", "epoch": "e1", "offset": 5, "time": 50, "body": {"userId": 5, "info": 1}}
    deleted = {"route": "onDeleted", "epoch": "e1", "offset": 6, "time": 60, "body": {}}
    read_page["publications"] += [join, deleted]
    await scene.socket.answer(HISTORY, read_page)
    assert await reading == [
        Message("onMessage", {"userId": "lin"}, "lin", 4, "e1", 40),
        Join(5, 1, 5, "e1", 50),
    ]
    assert scene.socket.of(HISTORY)[0]["from"] == at(3)


async def _all(history: AsyncIterator[LogEvent]) -> list[LogEvent]:
    return [it async for it in history]


@pytest.mark.parametrize("continuity", ["trimmed", "diverged", "unknown"])
async def test_a_page_that_does_not_continue_the_last_one_begins_with_what_is_lost(scene: Scene, continuity: str) -> None:
    chat = await scene.online()
    channel = await scene.joined(chat)
    reading = scene.begin(read(channel))
    await scene.socket.answer(HISTORY, page([9], more=True))
    await scene.socket.answer(HISTORY, page([3], more=False, continuity=continuity, position=at(4)))
    assert await reading == [9, Lost(continuity, Position("e1", 9), Position("e1", 4)), 3]  # type: ignore[arg-type]


async def test_a_read_goes_on_after_a_reconnect_and_after_a_busy_server(scene: Scene) -> None:
    chat = await scene.online()
    channel = await scene.joined(chat)
    reading = scene.begin(read(channel))
    await scene.socket.answer(HISTORY, page([9], more=True))
    await scene.again()
    assert scene.socket.of(HISTORY) == []
    await scene.let_in()
    await scene.socket.answer(HISTORY, refused("RATE_LIMITED", retry=True, retryAfterMs=1000))
    await scene.loop.advance(1.1)
    assert len(scene.socket.of(HISTORY)) == 1
    await scene.loop.advance(0.2)
    await scene.socket.answer(HISTORY, page([8], more=False))
    assert await reading == [9, 8]


async def test_a_read_that_is_refused_for_good_fails(scene: Scene) -> None:
    chat = await scene.online()
    channel = await scene.joined(chat)
    reading = scene.begin(channel.members())
    await scene.socket.answer(MEMBERS, refused("NOT_ALLOWED"))
    with pytest.raises(ChatError, match="NOT_ALLOWED"):
        await reading


async def test_a_channel_that_is_not_joined_cannot_be_read(scene: Scene) -> None:
    chat = await scene.online()
    with pytest.raises(ChatError, match="NOT_JOINED"):
        await chat.channel("room").members()
    with pytest.raises(ValueError, match="no position"):
        chat.channel("room").history(from_={"offset": 1})
