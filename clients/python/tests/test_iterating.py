"""Iterating over a channel."""

import asyncio

import pytest
from invented import LEAVE, Scene, message, position

from global_channels import Channel, LogEvent, Lost, Message, Position, Stream


def reader(scene: Scene, channel: Channel, seen: list[LogEvent]) -> "asyncio.Task[None]":
    """A task that iterates until the iteration ends."""

    async def read() -> None:
        async for event in channel:
            seen.append(event)

    return scene.begin(read())


async def offset(stream: Stream) -> int:
    """Where the next event stands in the log."""
    event = await anext(stream)
    assert not isinstance(event, Lost)
    return event.offset


async def test_an_iterator_gives_messages_joins_leaves_and_losses_in_order(scene: Scene) -> None:
    chat = await scene.online()
    channel = await scene.joined(chat)
    seen: list[LogEvent] = []
    reading = reader(scene, channel, seen)
    await scene.loop.settle()
    join = {"route": "onJoin", "channel": "room", "offset": 6, "time": 1, "body": {"userId": 5}}
    leave = {"route": "onLeave", "channel": "room", "offset": 7, "time": 1, "body": {"userId": 5}}
    await scene.socket.push(message(5), join, leave, position(9, "e2", "trimmed"), message(10))
    assert [it.type for it in seen] == ["message", "join", "leave", "lost", "message"]
    await chat.close()
    await reading


async def test_an_iteration_ends_when_the_channel_is_left(scene: Scene) -> None:
    chat = await scene.online()
    channel = await scene.joined(chat)
    seen: list[LogEvent] = []
    reading = reader(scene, channel, seen)
    await scene.loop.settle()
    scene.socket.put(message(5))
    leaving = scene.begin(channel.leave())
    await scene.socket.answer(LEAVE)
    await asyncio.gather(leaving, reading)


async def test_an_iteration_of_a_closed_chat_ends_at_once(scene: Scene) -> None:
    chat = await scene.online()
    channel = await scene.joined(chat)
    await chat.close()
    assert [it async for it in channel] == []


async def test_the_first_iteration_begins_where_the_channel_was_joined(scene: Scene) -> None:
    chat = await scene.online()
    channel = await scene.joined(chat)
    await scene.socket.push(message(5), message(6))
    first, second = aiter(channel), aiter(channel)
    await scene.socket.push(message(7))
    assert [await offset(first) for _ in range(3)] == [5, 6, 7]
    assert await offset(second) == 7


async def test_who_listens_or_iterates_already_is_given_nothing_twice(scene: Scene) -> None:
    chat = await scene.online()
    listening = chat.channel("room")
    listening.on("message", lambda _: None)
    await scene.joined(chat)
    iterating = chat.channel("other")
    early = aiter(iterating)
    await scene.joined(chat, "other")
    await scene.socket.push(message(5), message(5, channel="other"))
    late = [aiter(listening), aiter(iterating)]
    await scene.socket.push(message(6), message(6, channel="other"))
    assert [await offset(it) for it in late] == [6, 6]
    assert await offset(early) == 5


async def test_after_a_reconnect_nothing_is_held_for_another_iteration(scene: Scene) -> None:
    chat = await scene.online()
    channel = await scene.joined(chat)
    first = aiter(channel)
    del first
    await scene.again()
    await scene.let_in(recovered=True, replayed=1)
    await scene.socket.push(message(5))
    later = aiter(channel)
    await scene.socket.push(message(6))
    assert await offset(later) == 6


async def test_before_the_first_iteration_a_thousand_events_wait(scene: Scene) -> None:
    chat = await scene.online()
    channel = await scene.joined(chat)
    await scene.socket.push(*(message(offset) for offset in range(5, 1_007)))
    stream = aiter(channel)
    lost = await anext(stream)
    assert lost == Lost("overflow", Position("e1", 4), Position("e1", 6))
    # From now on it may be as slow as any other.
    await scene.socket.push(*(message(offset) for offset in range(1_007, 9_007)))
    assert await offset(stream) == 7


async def test_what_nobody_has_read_is_not_there_after_a_leave(scene: Scene) -> None:
    chat = await scene.online()
    channel = await scene.joined(chat)
    await scene.socket.push(message(5))
    leaving = scene.begin(channel.leave())
    await scene.socket.answer(LEAVE)
    await leaving
    early = aiter(channel)
    await scene.joined(chat, offset=20)
    await scene.socket.push(message(21))
    assert await offset(early) == 21


async def test_what_nobody_has_read_is_there_after_a_leave_and_a_join(scene: Scene) -> None:
    chat = await scene.online()
    channel = await scene.joined(chat)
    leaving = scene.begin(channel.leave())
    await scene.socket.answer(LEAVE)
    await leaving
    await scene.joined(chat, offset=20)
    await scene.socket.push(message(21))
    assert await offset(aiter(channel)) == 21


async def test_what_nobody_has_read_is_there_after_the_end_of_the_chat(scene: Scene) -> None:
    chat = await scene.online()
    channel = await scene.joined(chat)
    await scene.socket.push(message(5))
    await chat.close()
    stream = aiter(channel)
    assert await offset(stream) == 5
    assert [it async for it in stream] == []
    assert [it async for it in channel] == []


async def test_each_iteration_gets_all_events(scene: Scene) -> None:
    chat = await scene.online()
    channel = await scene.joined(chat)
    one: list[LogEvent] = []
    two: list[LogEvent] = []
    reading = [reader(scene, channel, one), reader(scene, channel, two)]
    await scene.loop.settle()
    await scene.socket.push(message(5), message(6))
    assert one == two
    assert len(one) == 2
    await chat.close()
    await asyncio.gather(*reading)


async def test_a_slow_reader_is_told_once_what_it_has_lost_and_goes_on_with_the_newest(scene: Scene) -> None:
    stream = Stream(None)
    for offset in range(1, 10_004):
        stream._put(Message("onMessage", {}, "lin", offset, "e1", 0))
    stream._end()
    first, *rest = [it async for it in stream]
    assert first == Lost("overflow", Position("e1", 0), Position("e1", 3))
    assert [it.offset for it in rest if isinstance(it, Message)] == list(range(4, 10_004))


async def test_a_cancelled_reader_loses_nothing_that_another_one_reads_later(scene: Scene) -> None:
    chat = await scene.online()
    channel = await scene.joined(chat)
    stream = aiter(channel)
    reading = scene.begin(_next(stream))
    await scene.loop.settle()
    scene.socket.put(message(5))
    reading.cancel()
    await scene.loop.settle()
    event = await anext(stream)
    assert event.type == "message"


async def test_two_tasks_cannot_share_one_stream(scene: Scene) -> None:
    chat = await scene.online()
    stream = aiter(await scene.joined(chat))
    waiting = scene.begin(_next(stream))
    await scene.loop.settle()
    with pytest.raises(RuntimeError, match="Two tasks"):
        await anext(stream)
    waiting.cancel()


async def test_an_iteration_that_is_given_up_costs_nothing_more(scene: Scene) -> None:
    chat = await scene.online()
    channel = await scene.joined(chat)
    stream = aiter(channel)
    assert len(channel._streams._streams) == 1
    del stream
    assert len(channel._streams._streams) == 0


async def _next(stream: Stream) -> LogEvent:
    return await anext(stream)
