"""Each message is stored once, in the order of the calls, or its failure is told."""

import asyncio

import pytest
from invented import LEAVE, PUBLISH, Scene, refused

from global_channels import ChatError, Sent, Stored


def contents(scene: Scene) -> list[object]:
    """What the last socket was asked to store."""
    return [it["body"]["content"] for it in scene.socket.of(PUBLISH)]


async def failure(sent: Sent) -> str:
    """Why a message was not stored."""
    with pytest.raises(ChatError) as raised:
        await sent
    return raised.value.reason


async def test_a_message_has_its_key_at_once_and_is_done_when_it_is_stored(scene: Scene) -> None:
    chat = await scene.online()
    channel = await scene.joined(chat)
    sent = channel.send({"content": "hello"}, exclude_self=True)
    await scene.loop.settle()
    expected = {"channel": "room", "body": {"content": "hello"}, "excludeSelf": True, "key": sent.key}
    assert scene.socket.of(PUBLISH) == [expected]
    assert not sent.done()
    await scene.socket.answer(PUBLISH)
    assert await sent == Stored(sent.key)


async def test_one_message_of_a_channel_is_under_way_at_a_time(scene: Scene) -> None:
    chat = await scene.online()
    channel = await scene.joined(chat)
    sent = [channel.send({"content": number}) for number in range(3)]
    await scene.loop.settle()
    for number in range(3):
        assert contents(scene) == list(range(number + 1))
        await scene.socket.answer(PUBLISH)
    await asyncio.gather(*sent)
    assert len({it.key for it in sent}) == 3


async def test_different_channels_do_not_wait_for_each_other(scene: Scene) -> None:
    chat = await scene.online()
    one, two = await scene.joined(chat, "one"), await scene.joined(chat, "two")
    sent = [one.send({"content": 1}), two.send({"content": 2})]
    await scene.loop.settle()
    assert contents(scene) == [1, 2]
    for _ in sent:
        await scene.socket.answer(PUBLISH)
    await asyncio.gather(*sent)


async def test_a_message_without_an_answer_is_repeated_with_its_key_and_its_bytes(scene: Scene) -> None:
    chat = await scene.online()
    channel = await scene.joined(chat)
    body = {"content": 1}
    sent = [channel.send(body), channel.send({"content": 2})]
    body["content"] = 99
    await scene.loop.settle()
    first = scene.socket.of(PUBLISH)
    await scene.again()
    await scene.let_in()
    assert scene.socket.of(PUBLISH) == first
    await scene.socket.answer(PUBLISH)
    await scene.socket.answer(PUBLISH)
    await asyncio.gather(*sent)
    assert contents(scene) == [1, 2]


async def test_messages_wait_until_their_channel_is_joined_again(scene: Scene) -> None:
    chat = await scene.online()
    channel = await scene.joined(chat)
    await scene.again()
    sent = channel.send({"content": 1})
    await scene.loop.settle()
    assert contents(scene) == []
    await scene.let_in()
    await scene.socket.answer(PUBLISH)
    await sent


async def test_a_refusal_that_may_pass_holds_the_messages_behind_it(scene: Scene) -> None:
    chat = await scene.online()
    channel = await scene.joined(chat)
    sent = [channel.send({"content": number}) for number in (1, 2)]
    await scene.socket.answer(PUBLISH, refused("NOT_MEMBER", retry=True, retryAfterMs=500))
    await scene.loop.advance(0.7)
    assert contents(scene) == [1]
    await scene.loop.advance(0.1)
    assert contents(scene) == [1, 1]
    assert scene.socket.of(PUBLISH)[0] == scene.socket.of(PUBLISH)[1]
    await scene.socket.answer(PUBLISH)
    await scene.socket.answer(PUBLISH)
    await asyncio.gather(*sent)


async def test_a_pause_ends_with_the_chat(scene: Scene) -> None:
    chat = await scene.online()
    channel = await scene.joined(chat)
    sent = channel.send({"content": 1})
    await scene.socket.answer(PUBLISH, refused("UNAVAILABLE", retry=True, retryAfterMs=60_000))
    await chat.close()
    assert scene.loop.timers() == []
    assert sent.done()


async def test_pauses_grow_with_each_refusal_and_begin_anew_after_a_success(scene: Scene) -> None:
    chat = await scene.online()
    channel = await scene.joined(chat)
    sent = channel.send({"content": 1})
    for pause in (0.25, 0.5, 1.0):
        tries = len(contents(scene)) or 1
        await scene.socket.answer(PUBLISH, refused("UNAVAILABLE", retry=True))
        await scene.loop.advance(pause - 0.1)
        assert len(contents(scene)) == tries
        await scene.loop.advance(0.2)
        assert len(contents(scene)) == tries + 1
    await scene.socket.answer(PUBLISH)
    await sent
    sent = channel.send({"content": 2})
    await scene.socket.answer(PUBLISH, refused("UNAVAILABLE", retry=True))
    await scene.loop.advance(0.3)
    await scene.socket.answer(PUBLISH)
    await sent


async def test_a_final_refusal_fails_its_message_and_the_next_one_goes_on(scene: Scene) -> None:
    chat = await scene.online()
    channel = await scene.joined(chat)
    sent = [channel.send({"content": number}) for number in (1, 2)]
    await scene.socket.answer(PUBLISH, refused("EPHEMERAL_ONLY"))
    await scene.socket.answer(PUBLISH)
    assert await failure(sent[0]) == "EPHEMERAL_ONLY"
    await sent[1]


async def test_a_message_whose_key_may_be_forgotten_is_not_repeated(scene: Scene) -> None:
    chat = await scene.online()
    channel = await scene.joined(chat)
    sent = [channel.send({"content": number}) for number in (1, 2)]
    await scene.loop.settle()
    await scene.socket.end()
    await scene.away(269)
    await scene.let_in()
    assert contents(scene) == [2]
    assert await failure(sent[0]) == "UNKNOWN"
    await scene.socket.answer(PUBLISH)
    await sent[1]


async def test_the_time_in_which_the_machine_sleeps_counts_for_the_key(scene: Scene) -> None:
    chat = await scene.online()
    channel = await scene.joined(chat)
    sent = channel.send({"content": 1})
    await scene.loop.settle()
    await scene.socket.end()
    scene.loop.asleep += 280
    await scene.loop.advance(1)
    await scene.log_in()
    await scene.let_in()
    assert await failure(sent) == "UNKNOWN"


async def test_a_refusal_that_has_done_nothing_does_not_begin_the_life_of_the_key(scene: Scene) -> None:
    chat = await scene.online(ping_ms=10_000_000)
    channel = await scene.joined(chat)
    sent = channel.send({"content": 1})
    for _ in range(2):
        await scene.socket.answer(PUBLISH, refused("UNAVAILABLE", retry=True, retryAfterMs=200_000))
        await scene.loop.advance(202)
    await scene.socket.answer(PUBLISH)
    await sent


async def test_a_refusal_that_may_have_done_something_does(scene: Scene) -> None:
    chat = await scene.online(ping_ms=10_000_000)
    channel = await scene.joined(chat)
    sent = channel.send({"content": 1})
    await scene.socket.answer(PUBLISH, refused("UNKNOWN_OUTCOME", retry=True, retryAfterMs=200_000))
    await scene.loop.advance(202)
    await scene.socket.answer(PUBLISH, refused("UNAVAILABLE", retry=True, retryAfterMs=200_000))
    await scene.loop.advance(202)
    assert await failure(sent) == "UNKNOWN"


async def test_a_final_refusal_after_a_try_without_an_answer_does_not_say_that_it_was_not_stored(scene: Scene) -> None:
    chat = await scene.online()
    channel = await scene.joined(chat)
    sent = channel.send({"content": 1})
    await scene.loop.settle()
    await scene.again()
    await scene.let_in()
    await scene.socket.answer(PUBLISH, refused("NOT_ALLOWED"))
    assert await failure(sent) == "UNKNOWN"


async def test_a_young_message_is_repeated(scene: Scene) -> None:
    chat = await scene.online(longest_pause_ms=2000)
    channel = await scene.joined(chat)
    sent = channel.send({"content": 1})
    await scene.loop.settle()
    await scene.socket.end()
    await scene.away(260)
    await scene.let_in()
    await scene.socket.answer(PUBLISH)
    await sent


async def test_a_message_that_was_never_sent_may_wait_for_ever(scene: Scene) -> None:
    chat = await scene.online()
    channel = await scene.joined(chat)
    await scene.socket.end()
    sent = channel.send({"content": 1})
    await scene.away(1000)
    await scene.let_in()
    await scene.socket.answer(PUBLISH)
    await sent


async def test_of_all_that_is_under_way_the_largest_was_too_big(scene: Scene) -> None:
    chat = await scene.online()
    one, two = await scene.joined(chat, "one"), await scene.joined(chat, "two")
    sent = [one.send({"content": "small"}), two.send({"content": "large" * 100})]
    await scene.loop.settle()
    await scene.socket.end(1009, "more than 100 bytes")
    assert await failure(sent[1]) == "TOO_BIG"
    await scene.loop.advance(1)
    await scene.log_in()
    await scene.let_in()
    await scene.let_in()
    await scene.socket.answer(PUBLISH)
    await sent[0]


async def test_an_ephemeral_message_that_was_too_big_does_not_cost_another_one(scene: Scene) -> None:
    chat = await scene.online()
    channel = await scene.joined(chat)
    sent = channel.send({"content": "small"})
    assert channel.ephemeral({"content": "large" * 100})
    await scene.loop.settle()
    await scene.socket.end(1009)
    await scene.loop.advance(1)
    await scene.log_in()
    await scene.let_in()
    await scene.socket.answer(PUBLISH)
    await sent


async def test_what_waits_is_bounded_in_bytes_and_room_comes_back(scene: Scene) -> None:
    chat = await scene.online(queue_bytes=300)
    channel = await scene.joined(chat)
    sent = channel.send({"content": "x" * 150})
    # For those with 300 characters there is never room, so it is useless to try again.
    for length, may_fit_later in ((150, True), (300, False)):
        content = {"content": "x" * length}
        with pytest.raises(ChatError, match="QUEUE_FULL") as raised:
            await channel.send(content)
        assert raised.value.retry == may_fit_later
        with pytest.raises(ChatError, match="QUEUE_FULL") as raised:
            await chat.request("r", content)
        assert raised.value.retry == may_fit_later
    assert not channel.ephemeral({"content": "x" * 150})
    await scene.socket.answer(PUBLISH)
    await sent
    assert channel.ephemeral({"content": "x" * 150})
    await scene.socket.answer(PUBLISH)
    asking = scene.begin(chat.request("r", {"content": "x" * 200}))
    await scene.socket.answer("r")
    await asking
    sent = channel.send({"content": "x" * 150})
    await scene.socket.answer(PUBLISH)
    await sent


async def test_who_is_not_in_a_channel_cannot_send_there(scene: Scene) -> None:
    chat = await scene.online()
    assert await failure(chat.channel("room").send({})) == "NOT_JOINED"


@pytest.mark.parametrize("body", [None, [1], "text", {"x": object()}, {"x": float("nan")}])
async def test_what_json_cannot_hold_is_refused_at_once(scene: Scene, body: object) -> None:
    chat = await scene.online()
    channel = await scene.joined(chat)
    assert await failure(channel.send(body)) == "INVALID_BODY"  # type: ignore[arg-type]
    with pytest.raises(ChatError, match="INVALID_BODY"):
        channel.ephemeral(body)  # type: ignore[arg-type]
    assert contents(scene) == []


async def test_half_of_a_surrogate_pair_is_sent_in_ascii(scene: Scene) -> None:
    chat = await scene.online()
    channel = await scene.joined(chat)
    sent = channel.send({"content": "\ud83d and 你好"})
    await scene.socket.answer(PUBLISH)
    await sent
    assert contents(scene) == ["\ud83d and 你好"]


async def test_who_is_cancelled_while_waiting_does_not_cancel_the_message(scene: Scene) -> None:
    chat = await scene.online()
    channel = await scene.joined(chat)
    sent = channel.send({"content": 1})

    async def wait() -> None:
        await sent

    waiting = scene.begin(wait())
    await scene.loop.settle()
    waiting.cancel()
    await scene.socket.answer(PUBLISH)
    assert await sent == Stored(sent.key)


async def test_leaving_fails_what_was_not_sent_and_waits_for_what_was(scene: Scene) -> None:
    chat = await scene.online()
    channel = await scene.joined(chat)
    sent = [channel.send({"content": number}) for number in (1, 2)]
    await scene.loop.settle()
    leaving = scene.begin(channel.leave())
    await scene.loop.settle()
    assert await failure(sent[1]) == "NOT_JOINED"
    await scene.socket.answer(PUBLISH)
    await scene.socket.answer(LEAVE)
    await leaving
    await sent[0]


async def test_a_message_under_way_in_a_channel_that_was_left_is_not_repeated(scene: Scene) -> None:
    chat = await scene.online()
    channel = await scene.joined(chat)
    sent = channel.send({"content": 1})
    await scene.loop.settle()
    leaving = scene.begin(channel.leave())
    await scene.again()
    await leaving
    assert await failure(sent) == "UNKNOWN"


async def test_an_ephemeral_message_is_sent_only_by_a_member_who_is_online(scene: Scene) -> None:
    chat = await scene.online()
    assert not chat.channel("room").ephemeral({"x": 1})
    channel = await scene.joined(chat)
    assert channel.ephemeral({"x": 1})
    await scene.loop.settle()
    assert scene.socket.of(PUBLISH) == [{"channel": "room", "body": {"x": 1}, "ephemeral": True}]
    await scene.socket.end()
    assert not channel.ephemeral({"x": 2})
    await scene.loop.advance(1)
    await scene.log_in()
    await scene.let_in()
    assert scene.socket.of(PUBLISH) == []


async def test_an_ephemeral_message_is_not_queued_behind_a_network_that_is_stuck(scene: Scene) -> None:
    chat = await scene.online()
    channel = await scene.joined(chat)
    scene.socket.is_stuck = True
    assert channel.ephemeral({"x": "x" * 70_000})
    await scene.loop.settle()
    assert not channel.ephemeral({"x": 1})
    scene.socket.is_stuck = False
