"""Listeners, plain and async."""

import asyncio

import pytest
from invented import PUBLISH, Scene, message

from global_channels import Lost, Message, Sent


async def test_a_listener_that_fails_is_reported_and_the_others_still_run(scene: Scene) -> None:
    chat = await scene.online()
    channel = await scene.joined(chat)
    seen: list[int] = []

    def fail(_: Message) -> None:
        raise ZeroDivisionError

    channel.on("message", fail)
    channel.on("message", lambda it: seen.append(it.offset))
    await scene.socket.push(message(5), message(6))
    assert seen == [5, 6]
    assert len(scene.reported) == 2


async def test_a_listener_can_be_removed_and_the_same_one_added_twice(scene: Scene) -> None:
    chat = await scene.online()
    channel = await scene.joined(chat)
    seen: list[Message] = []
    off, _ = channel.on("message", seen.append), channel.on("message", seen.append)
    await scene.socket.push(message(5))
    assert len(seen) == 2
    off()
    off()
    await scene.socket.push(message(6))
    assert len(seen) == 3


async def test_async_listeners_are_awaited_one_after_the_other_in_order(scene: Scene) -> None:
    chat = await scene.online()
    channel = await scene.joined(chat)
    seen: list[str] = []

    async def slow(event: Message) -> None:
        seen.append(f"begin {event.offset}")
        await asyncio.sleep(1)
        seen.append(f"end {event.offset}")

    channel.on("message", slow)
    await scene.socket.push(message(5), message(6))
    await scene.loop.advance(2.2)
    assert seen == ["begin 5", "end 5", "begin 6", "end 6"]


async def test_an_async_listener_that_fails_or_is_cancelled_ends_only_its_own_call(scene: Scene) -> None:
    chat = await scene.online()
    channel = await scene.joined(chat)
    seen: list[int] = []

    async def fail(event: Message) -> None:
        if event.offset == 5:
            raise ZeroDivisionError
        if event.offset == 6:
            raise asyncio.CancelledError
        seen.append(event.offset)

    channel.on("message", fail)
    await scene.socket.push(message(5), message(6), message(7))
    assert seen == [7]
    assert len(scene.reported) == 1


async def test_what_a_listener_returns_is_awaited_so_that_an_echo_is_one_line(scene: Scene) -> None:
    chat = await scene.online()
    channel = await scene.joined(chat)
    sent: list[Sent] = []

    def echo(event: Message) -> Sent:
        sent.append(channel.send({"content": event.offset}))
        return sent[-1]

    channel.on("message", echo)
    await scene.socket.push(message(5))
    await scene.socket.answer(PUBLISH)
    assert sent[0].done()


async def test_a_slow_async_listener_costs_a_bounded_amount_and_is_told_what_it_lost(scene: Scene) -> None:
    chat = await scene.online()
    channel = await scene.joined(chat)
    seen: list[object] = []
    gate = asyncio.Event()

    async def slow(event: Message) -> None:
        await gate.wait()
        seen.append(event.offset)

    channel.on("message", slow)
    channel.on("lost", lambda it: seen.append(it.reason))
    await scene.socket.push(message(5))
    for offset in range(6, 10_011):
        scene.socket.put(message(offset))
    await scene.socket.push()
    while channel.position is None or channel.position.offset < 10_010:
        await scene.loop.settle()
    gate.set()
    for _ in range(2000):
        await scene.loop.settle()
    assert seen[:3] == [5, "overflow", 11]
    assert seen[-1] == 10_010
    assert seen.count("overflow") == 1
    assert Lost("overflow", None, None).from_ is None


async def test_async_listeners_get_all_that_was_told_before_the_chat_was_closed(scene: Scene) -> None:
    chat = await scene.online()
    seen: list[str] = []

    async def note(event: object) -> None:
        await asyncio.sleep(0)
        seen.append(str(event))

    chat.on("state", note)
    await chat.close()
    assert len(seen) == 1


async def test_an_async_listener_that_never_ends_does_not_keep_close_from_returning(scene: Scene) -> None:
    chat = await scene.online()

    async def hang(_: object) -> None:
        await asyncio.get_running_loop().create_future()

    chat.on("state", hang)
    closing = scene.begin(chat.close())
    await scene.loop.advance(1.1)
    assert closing.done()


async def test_an_event_that_does_not_exist_is_refused_in_words(scene: Scene) -> None:
    chat = await scene.online()
    with pytest.raises(ValueError, match="state, push"):
        chat.on("mesage", print)  # type: ignore[call-overload]
    with pytest.raises(ValueError, match="message, join"):
        chat.channel("room").on("mesage", print)  # type: ignore[call-overload]
