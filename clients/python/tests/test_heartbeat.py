"""Noticing that a connection is dead, and that the machine has slept."""

from invented import PING, PUBLISH, Scene, message


async def test_a_ping_is_sent_after_ten_seconds_in_which_nothing_came(scene: Scene) -> None:
    await scene.online()
    await scene.loop.advance(9.9)
    assert scene.socket.of(PING) == []
    await scene.loop.advance(0.2)
    assert scene.socket.of(PING) == [{}]
    await scene.socket.answer(PING)
    await scene.loop.advance(9.8)
    assert len(scene.socket.of(PING)) == 1
    await scene.loop.advance(0.3)
    assert len(scene.socket.of(PING)) == 2


async def test_a_new_connection_is_pinged_even_if_much_comes_because_this_proves_it(scene: Scene) -> None:
    chat = await scene.online()
    await scene.joined(chat)
    for offset in range(5, 9):
        await scene.loop.advance(3)
        await scene.socket.push(message(offset))
    assert len(scene.socket.of(PING)) == 1


async def test_whatever_comes_puts_further_pings_off(scene: Scene) -> None:
    chat = await scene.online()
    await scene.joined(chat)
    await scene.loop.advance(10.1)
    await scene.socket.answer(PING)
    for offset in range(5, 9):
        await scene.loop.advance(6)
        await scene.socket.push(message(offset))
    assert len(scene.socket.of(PING)) == 1


async def test_five_seconds_of_silence_after_a_request_mean_that_the_connection_is_dead(scene: Scene) -> None:
    chat = await scene.online()
    channel = await scene.joined(chat)
    reasons: list[str | None] = []
    chat.on("state", lambda it: reasons.append(it.reason))
    sent = channel.send({"content": 1})
    await scene.loop.advance(4.9)
    assert chat.state == "online"
    await scene.loop.advance(0.2)
    assert reasons == ["NO_ANSWER"]
    # The socket is ended without waiting for a word of the server.
    assert (scene.socket.is_aborted, scene.socket.closed_with) == (True, None)
    await scene.loop.advance(1)
    await scene.log_in()
    await scene.let_in()
    await scene.socket.answer(PUBLISH)
    await sent


async def test_anything_that_comes_shows_that_the_connection_lives(scene: Scene) -> None:
    chat = await scene.online()
    channel = await scene.joined(chat)
    sent = channel.send({"content": 1})
    for offset in range(5, 9):
        await scene.loop.advance(4)
        await scene.socket.push(message(offset))
    assert chat.state == "online"
    await scene.socket.answer(PING)
    await scene.socket.answer(PUBLISH)
    await sent


async def test_whatever_comes_gives_unanswered_requests_five_more_seconds(scene: Scene) -> None:
    chat = await scene.online()
    channel = await scene.joined(chat)
    sent = channel.send({"content": 1})
    await scene.loop.advance(4)
    await scene.socket.push(message(5))
    await scene.loop.advance(4.9)
    assert chat.state == "online"
    await scene.loop.advance(0.2)
    assert chat.state == "away"
    await chat.close()
    assert sent.done()


async def test_without_a_request_silence_means_nothing_until_the_ping(scene: Scene) -> None:
    chat = await scene.online()
    await scene.loop.advance(14.9)
    assert chat.state == "online"
    await scene.loop.advance(0.2)
    assert chat.state == "away"


async def test_a_login_that_is_not_answered_is_given_up(scene: Scene) -> None:
    chat = await scene.connect()
    await scene.loop.advance(5.1)
    assert chat.state == "away"


async def test_what_a_dead_connection_still_brings_is_ignored(scene: Scene) -> None:
    chat = await scene.online()
    channel = await scene.joined(chat)
    seen: list[int] = []
    channel.on("message", lambda it: seen.append(it.offset))
    old = scene.socket
    await scene.loop.advance(15.1)
    await old.push(message(5))
    assert seen == []


async def test_a_machine_that_has_slept_asks_at_once(scene: Scene) -> None:
    await scene.online()
    scene.loop.asleep += 3600
    await scene.loop.advance(2.6)
    assert scene.socket.of(PING) == [{}]
    await scene.socket.answer(PING)


async def test_a_loop_that_is_always_late_still_finds_a_dead_connection(scene: Scene) -> None:
    await scene.online()
    first = scene.socket
    for _ in range(10):
        scene.loop.asleep += 10
        await scene.loop.advance(1)
    assert (first.is_aborted, len(first.of(PING))) == (True, 1)


async def test_silence_during_sleep_does_not_count(scene: Scene) -> None:
    chat = await scene.online()
    channel = await scene.joined(chat)
    sent = channel.send({"content": 1})
    await scene.loop.advance(4.9)
    scene.loop.asleep += 3600
    await scene.loop.advance(4.9)
    assert chat.state == "online"  # The server may have answered while we slept, and the answer is about to be read.
    assert len(scene.socket.of(PING)) == 1
    await scene.loop.advance(0.3)
    assert chat.state == "away"
    await chat.close()
    assert sent.done()
