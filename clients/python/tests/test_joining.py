"""Being in a channel."""

import asyncio
import gc

import pytest
from invented import JOIN, LEAVE, LOGIN, PUBLISH, Scene, at, message, refused

from global_channels import Added, ChatError, Joined, Lost, Message, Parted, Position


async def test_one_channel_has_one_object_whether_its_name_is_a_number_or_a_text(scene: Scene) -> None:
    chat = await scene.online()
    assert chat.channel(4) is chat.channel("4")
    with pytest.raises(ValueError, match="has a name"):
        chat.channel("")


async def test_a_join_tells_where_the_channel_begins(scene: Scene) -> None:
    chat = await scene.online()
    channel = chat.channel("room")
    events: list[Joined] = []
    channel.on("joined", events.append)
    joining = scene.begin(channel.join())
    await scene.loop.settle()
    assert scene.socket.of(JOIN) == [{"channel": "room", "positions": True}]
    await scene.let_in(4)
    result = await joining
    assert (result.position, result.recovered, result.replayed) == (Position("e1", 4), False, 0)
    assert events == [Joined(Position("e1", 4), recovered=False)]
    assert channel.joined


async def test_a_join_with_a_position_asks_for_what_followed_it(scene: Scene) -> None:
    chat = await scene.online()
    joining = scene.begin(chat.channel("room").join(since=at(17)))
    await scene.loop.settle()
    assert scene.socket.of(JOIN) == [{"channel": "room", "since": at(17)}]
    await scene.let_in(19, recovered=True, replayed=2)
    result = await joining
    assert (result.recovered, result.replayed) == (True, 2)
    assert chat.channel("room").position == Position("e1", 17)  # The two pushes are still to come.


async def test_a_join_waits_while_the_chat_is_away(scene: Scene) -> None:
    chat = await scene.connect()
    joining = scene.begin(chat.channel("room").join())
    await scene.log_in()
    await scene.let_in()
    await joining


async def test_after_a_reconnect_all_channels_are_joined_in_one_go_with_their_positions(scene: Scene) -> None:
    chat = await scene.online()
    await scene.joined(chat, "one", offset=1)
    await scene.joined(chat, "two", offset=2)
    await scene.socket.push(message(3, channel="two"))
    await scene.again()
    expected = [{"channel": "one", "since": at(1)}, {"channel": "two", "since": at(3)}]
    assert sorted(scene.socket.of(JOIN), key=lambda it: str(it["channel"])) == expected


async def test_a_refusal_that_may_pass_is_repeated_after_its_pause_with_jitter_on_top(scene: Scene) -> None:
    chat = await scene.online()
    joining = scene.begin(chat.channel("room").join())
    await scene.socket.answer(JOIN, refused("RATE_LIMITED", retry=True, retryAfterMs=3000))
    await scene.loop.advance(3.2)
    assert len(scene.socket.of(JOIN)) == 1
    await scene.loop.advance(0.1)
    assert len(scene.socket.of(JOIN)) == 2
    await scene.let_in()
    await joining


async def test_a_final_refusal_fails_the_join_and_the_channel_is_not_joined(scene: Scene) -> None:
    chat = await scene.online()
    channel = chat.channel("room")
    parted: list[Parted] = []
    channel.on("parted", parted.append)
    joining = scene.begin(channel.join())
    await scene.loop.settle()
    sent = channel.send({})
    await scene.socket.answer(JOIN, refused("NOT_ALLOWED", code=403))
    with pytest.raises(ChatError) as raised:
        await joining
    assert (raised.value.reason, raised.value.code, raised.value.retry) == ("NOT_ALLOWED", 403, False)
    with pytest.raises(ChatError, match="NOT_ALLOWED"):
        await sent
    assert parted == []
    await scene.again()
    assert scene.socket.of(JOIN) == []


async def test_a_rejoin_that_is_refused_for_good_is_told_as_parted(scene: Scene) -> None:
    chat = await scene.online()
    channel = await scene.joined(chat)
    parted: list[Parted] = []
    channel.on("parted", parted.append)
    await scene.again()
    await scene.socket.answer(JOIN, refused("NOT_ALLOWED"))
    assert parted == [Parted("NOT_ALLOWED", "It is NOT_ALLOWED.")]
    assert not channel.joined
    await scene.again()
    assert scene.socket.of(JOIN) == []


async def test_a_push_of_a_channel_whose_join_is_not_answered_is_not_misjudged(scene: Scene) -> None:
    chat = await scene.online()
    one = await scene.joined(chat, "one", offset=1)
    two = await scene.joined(chat, "two", offset=1)
    seen: list[tuple[str, int]] = []
    one.on("message", lambda it: seen.append(("one", it.offset)))
    two.on("message", lambda it: seen.append(("two", it.offset)))
    await scene.again()
    # The answers come interleaved with pushes, and all of it at once.
    first = scene.socket.unanswered(JOIN)[0]["body"]["channel"]
    second = "two" if first == "one" else "one"
    scene.socket.put_answer(JOIN, {"code": 0, "position": at(3), "recovered": True, "replayed": 2})
    scene.socket.put(message(2, channel=first))
    scene.socket.put_answer(JOIN, {"code": 0, "position": at(2), "recovered": True, "replayed": 1})
    scene.socket.put(message(3, channel=first))
    scene.socket.put(message(2, channel=second))
    await scene.loop.settle()
    assert seen == [(first, 2), (first, 3), (second, 2)]


async def test_pushes_behind_a_join_reach_an_iterator_that_begins_when_join_returns(scene: Scene) -> None:
    chat = await scene.online()
    channel = chat.channel("room")
    seen: list[int] = []

    async def read() -> None:
        await asyncio.wait_for(channel.join(), 5)
        async for event in channel:
            assert isinstance(event, Message)
            seen.append(event.offset)

    reading = scene.begin(read())
    await scene.loop.settle()
    scene.socket.put_answer(JOIN, {"code": 0, "position": at(4), "recovered": False, "replayed": 0})
    scene.socket.put(message(5))
    scene.socket.put(message(6))
    await scene.loop.settle()
    assert seen == [5, 6]
    await chat.close()
    await reading


async def test_a_second_join_of_a_joined_channel_asks_nothing(scene: Scene) -> None:
    chat = await scene.online()
    channel = await scene.joined(chat)
    result = await channel.join()
    assert (result.position, result.recovered) == (Position("e1", 4), True)
    assert len(scene.socket.of(JOIN)) == 1


async def test_two_joins_at_once_are_one_request(scene: Scene) -> None:
    chat = await scene.online()
    joining = [scene.begin(chat.channel("room").join()) for _ in range(2)]
    await scene.let_in()
    assert (await joining[0]) == (await joining[1])
    assert len(scene.socket.of(JOIN)) == 1


async def test_a_join_that_is_cancelled_leaves_the_channel_again(scene: Scene) -> None:
    chat = await scene.online()
    joining = scene.begin(chat.channel("room").join())
    await scene.loop.settle()
    joining.cancel()
    await scene.loop.settle()
    assert scene.socket.of(LEAVE) == [{"channel": "room"}]
    await scene.let_in()
    await scene.socket.answer(LEAVE)
    assert not chat.channel("room").joined
    await scene.again()
    assert scene.socket.of(JOIN) == []


async def test_a_join_that_is_cancelled_while_the_chat_is_away_is_never_sent(scene: Scene) -> None:
    chat = await scene.connect()
    joining = scene.begin(chat.channel("room").join())
    await scene.loop.settle()
    joining.cancel()
    await scene.log_in()
    assert scene.socket.of(JOIN) == []


async def test_one_of_two_joins_may_be_cancelled(scene: Scene) -> None:
    chat = await scene.online()
    joining = [scene.begin(chat.channel("room").join()) for _ in range(2)]
    await scene.loop.settle()
    joining[0].cancel()
    await scene.loop.settle()
    await scene.let_in()
    await joining[1]
    assert scene.socket.of(LEAVE) == []


async def test_a_cancelled_wait_for_a_rejoin_does_not_leave(scene: Scene) -> None:
    chat = await scene.online()
    channel = await scene.joined(chat)
    await scene.socket.end()
    joining = scene.begin(channel.join())
    await scene.loop.settle()
    joining.cancel()
    await scene.loop.advance(1)
    await scene.log_in()
    assert len(scene.socket.of(JOIN)) == 1


async def test_leaving_tells_the_server_and_nothing_more_comes(scene: Scene) -> None:
    chat = await scene.online()
    channel = await scene.joined(chat)
    seen: list[Message] = []
    channel.on("message", seen.append)
    leaving = scene.begin(channel.leave())
    await scene.loop.settle()
    await scene.socket.push(message(5))
    assert not leaving.done()
    await scene.socket.answer(LEAVE)
    await leaving
    assert (seen, channel.position) == ([], None)
    await scene.again()
    assert scene.socket.of(JOIN) == []


async def test_a_leave_that_is_refused_for_now_is_repeated(scene: Scene) -> None:
    chat = await scene.online()
    channel = await scene.joined(chat)
    leaving = scene.begin(channel.leave())
    await scene.socket.answer(LEAVE, refused("UNAVAILABLE", retry=True, retryAfterMs=1000))
    await scene.loop.advance(2)
    assert len(scene.socket.of(LEAVE)) == 2
    await scene.socket.answer(LEAVE, refused("LEAVE_PENDING"))
    await leaving


async def test_leaving_while_away_needs_no_request(scene: Scene) -> None:
    chat = await scene.online()
    channel = await scene.joined(chat)
    await scene.socket.end()
    await channel.leave()
    await scene.loop.advance(1)
    await scene.log_in()
    assert scene.socket.of(JOIN) + scene.socket.of(LEAVE) == []


async def test_who_leaves_and_joins_at_once_is_a_member_in_the_end(scene: Scene) -> None:
    chat = await scene.online()
    channel = await scene.joined(chat)
    seen: list[int] = []
    channel.on("message", lambda it: seen.append(it.offset))
    leaving, joining = scene.begin(channel.leave()), scene.begin(channel.join())
    await scene.loop.settle()
    assert [it["route"] for it in scene.socket.asked[-2:]] == [LEAVE, JOIN]
    await scene.socket.push(message(5))  # of the membership that is ending
    await scene.socket.answer(LEAVE)
    await scene.let_in(7)
    await asyncio.gather(leaving, joining)
    await scene.socket.push(message(8))
    assert seen == [8]


async def test_a_join_that_finds_a_leave_undone_leaves_again_and_joins_with_its_position(scene: Scene) -> None:
    chat = await scene.online()
    channel = await scene.joined(chat)
    leaving = scene.begin(channel.leave())
    await scene.socket.answer(LEAVE, refused("UNAVAILABLE", retry=True, retryAfterMs=1000))
    joining = scene.begin(channel.join())
    await scene.socket.answer(JOIN, refused("ALREADY_JOINED"))
    await scene.socket.answer(LEAVE)
    await scene.loop.advance(2)
    await scene.let_in(9)
    await asyncio.gather(leaving, joining)
    assert channel.position == Position("e1", 9)


async def test_who_is_added_by_a_back_end_is_a_member_and_stays_one(scene: Scene) -> None:
    chat = await scene.online()
    events: list[object] = []

    def listen(added: Added) -> None:
        channel = chat.channel(added.channel)
        channel.on("joined", events.append)
        channel.on("message", lambda it: events.append(it.offset))

    chat.on("added", listen)
    await scene.socket.push({"route": "onAdded", "body": {"channel": "garden", "position": at(4)}}, message(5, channel="garden"))
    assert events == [Joined(Position("e1", 4), recovered=False), 5]
    await scene.again()
    assert scene.socket.of(JOIN) == [{"channel": "garden", "since": at(5)}]


async def test_who_is_added_may_leave_at_once(scene: Scene) -> None:
    chat = await scene.online()
    events: list[object] = []
    garden = chat.channel("garden")
    garden.on("joined", events.append)
    garden.on("message", events.append)
    leaving: list[asyncio.Task[None]] = []
    chat.on("added", lambda it: leaving.append(scene.begin(chat.channel(it.channel).leave())))
    await scene.socket.push({"route": "onAdded", "body": {"channel": "garden", "position": at(4)}})
    await scene.socket.answer(LEAVE)
    await leaving[0]
    assert (events[1:], garden.joined) == ([], False)
    await scene.again()
    assert scene.socket.of(JOIN) == []


async def test_a_join_that_a_back_end_was_faster_than_succeeds(scene: Scene) -> None:
    chat = await scene.online()
    joining = scene.begin(chat.channel("room").join())
    await scene.loop.settle()
    await scene.socket.push({"route": "onAdded", "body": {"channel": "room", "position": at(4)}})
    await scene.socket.answer(JOIN, refused("ALREADY_JOINED"))
    assert (await joining).position == Position("e1", 4)
    assert scene.socket.of(LEAVE) == []


async def test_with_tokens_that_may_name_channels_a_login_says_where_we_were(scene: Scene) -> None:
    chat = await scene.online(token=lambda: "token")
    assert scene.socket.of(LOGIN)[0]["positions"] == {}
    channel = await scene.joined(chat)
    events: list[object] = []
    channel.on("joined", events.append)
    channel.on("message", lambda it: events.append(it.offset))
    await scene.again()
    assert scene.socket.of(LOGIN)[0]["positions"] == {"room": at(4)}
    added = {"channel": "room", "position": at(6), "recovered": True, "replayed": 2}
    await scene.socket.push({"route": "onAdded", "body": added}, message(5), message(6))
    await scene.socket.answer(JOIN, refused("ALREADY_JOINED"))
    assert events == [Joined(Position("e1", 6), recovered=True), 5, 6]
    assert scene.socket.of(LEAVE) == []


async def test_who_comes_back_by_its_token_is_told_what_is_lost(scene: Scene) -> None:
    chat = await scene.online(token=lambda: "token")
    channel = await scene.joined(chat)
    events: list[object] = []
    channel.on("lost", events.append)
    channel.on("message", lambda it: events.append(it.offset))
    await scene.again()
    added = {"channel": "room", "position": at(30), "recovered": False, "replayed": 1}
    moved = {"route": "onPosition", "channel": "room", "body": {**at(29), "reason": "trimmed"}}
    await scene.socket.push({"route": "onAdded", "body": added}, moved, message(30))
    assert events == [Lost("trimmed", Position("e1", 4), Position("e1", 29)), 30]


async def test_who_is_let_in_before_it_could_say_where_it_was_comes_in_again(scene: Scene) -> None:
    chat = await scene.online()
    channel = await scene.joined(chat)
    seen: list[int] = []
    channel.on("message", lambda it: seen.append(it.offset))
    await scene.again()
    await scene.socket.push({"route": "onAdded", "body": {"channel": "room", "position": at(6)}})
    assert not channel.joined
    await scene.socket.push(message(7))  # It comes again, behind what was missed.
    await scene.socket.answer(JOIN, refused("ALREADY_JOINED"))
    await scene.socket.answer(LEAVE)
    assert scene.socket.of(JOIN) == [{"channel": "room", "since": at(4)}] * 2
    await scene.let_in(7, recovered=True, replayed=3)
    await scene.socket.push(message(5), message(6), message(7))
    assert seen == [5, 6, 7]


async def test_a_join_fails_if_the_channel_is_left_before_it_is_done(scene: Scene) -> None:
    chat = await scene.online()
    channel = chat.channel("room")
    joining = scene.begin(channel.join())
    await scene.loop.settle()
    leaving = scene.begin(channel.leave())
    await scene.let_in()
    await scene.socket.answer(LEAVE)
    await leaving
    with pytest.raises(ChatError, match="LEFT"):
        await joining
    assert not channel.joined


async def test_an_addition_that_crosses_our_leave_does_not_count(scene: Scene) -> None:
    chat = await scene.online()
    channel = await scene.joined(chat)
    leaving = scene.begin(channel.leave())
    await scene.loop.settle()
    await scene.socket.push({"route": "onAdded", "body": {"channel": "room", "position": at(9)}})
    await scene.socket.answer(LEAVE)
    await leaving
    assert not channel.joined


@pytest.mark.parametrize(("is_deleted", "reason"), [(False, "REMOVED"), (True, "DELETED")])
async def test_who_is_removed_is_told_and_does_not_come_back(scene: Scene, is_deleted: bool, reason: str) -> None:
    chat = await scene.online()
    channel = await scene.joined(chat)
    parted: list[Parted] = []
    channel.on("parted", parted.append)
    sent = [channel.send({"content": 1}), channel.send({"content": 2})]
    await scene.loop.settle()
    if is_deleted:
        await scene.socket.push({"route": "onDeleted", "channel": "room", "offset": 5, "time": 1, "body": {}})
    await scene.socket.push({"route": "onRemoved", "body": {"channel": "room"}})
    assert [it.reason for it in parted] == [reason]
    with pytest.raises(ChatError, match="NOT_JOINED"):
        await sent[1]
    await scene.socket.answer(PUBLISH)  # The first one was under way, and the server has stored it.
    await sent[0]
    await scene.again()
    assert scene.socket.of(JOIN) == []


async def test_a_deletion_among_what_was_missed_does_not_part(scene: Scene) -> None:
    chat = await scene.online()
    channel = await scene.joined(chat)
    parted: list[Parted] = []
    channel.on("parted", parted.append)
    await scene.socket.push({"route": "onDeleted", "channel": "room", "offset": 5, "time": 1, "body": {}}, message(6))
    assert (parted, channel.position) == ([], Position("e1", 6))
    await scene.socket.push({"route": "onRemoved", "body": {"channel": "room"}})
    assert [it.reason for it in parted] == ["REMOVED"]


async def test_a_channel_that_nobody_needs_is_forgotten(scene: Scene) -> None:
    chat = await scene.online()
    for number in range(50):
        chat.channel(number)
    channel = await scene.joined(chat)
    off = chat.channel("heard").on("message", lambda _: None)
    del channel
    gc.collect()
    assert {it.name for it in chat._channels.values()} == {"room", "heard"}
    off()
    del off
    gc.collect()
    assert {it.name for it in chat._channels.values()} == {"room"}
