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
