"""Each publication once and in order, or a word about what is missing."""

import pytest
from invented import PING, Scene, at, message, position

from global_channels import Channel, Join, Leave, Lost, Message, Position


def record(channel: Channel) -> list[object]:
    """Offsets of what is given, and what is lost."""
    seen: list[object] = []
    channel.on("message", lambda it: seen.append(it.offset))
    channel.on("join", lambda it: seen.append(it.offset))
    channel.on("leave", lambda it: seen.append(it.offset))
    channel.on("lost", lambda it: seen.append((it.reason, it.from_, it.to)))
    return seen


async def test_messages_joins_and_leaves_are_told_with_all_that_is_known(scene: Scene) -> None:
    chat = await scene.online()
    channel = await scene.joined(chat)
    events: list[object] = []
    for name in ("message", "join", "leave"):
        channel.on(name, events.append)
    await scene.socket.push(
        {"route": "onJoin", "channel": "room", "offset": 5, "time": 1, "body": {"userId": 5, "info": {"n": 1}}},
        {"route": "onMessage", "channel": "room", "offset": 6, "time": 2, "body": {"x": 1, "userId": 5}},
        {"route": "onNews", "channel": "room", "offset": 7, "time": 3, "body": {}},
        {"route": "onLeave", "channel": "room", "offset": 8, "time": 4, "body": {"userId": 5}},
    )
    assert events == [
        Join(5, {"n": 1}, 5, "e1", 1),
        Message("onMessage", {"x": 1, "userId": 5}, 5, 6, "e1", 2),
        Message("onNews", {}, None, 7, "e1", 3),
        Leave(5, None, 8, "e1", 4),
    ]


async def test_what_was_given_already_is_not_given_again(scene: Scene) -> None:
    chat = await scene.online()
    channel = await scene.joined(chat)
    seen = record(channel)
    await scene.socket.push(message(5), message(6), message(6), message(5), message(7))
    assert seen == [5, 6, 7]


async def test_offsets_that_are_missing_without_a_word_are_told_as_a_gap(scene: Scene) -> None:
    chat = await scene.online()
    channel = await scene.joined(chat)
    seen = record(channel)
    await scene.socket.push(message(5), message(8))
    assert seen == [5, ("gap", Position("e1", 5), Position("e1", 7)), 8]


async def test_the_place_of_an_own_message_for_the_others_is_counted_and_not_told(scene: Scene) -> None:
    chat = await scene.online()
    channel = await scene.joined(chat)
    seen = record(channel)
    await scene.socket.push({"channel": "room", "offset": 5}, message(6))
    assert seen == [6]


@pytest.mark.parametrize("reason", ["diverged", "trimmed", "unknown", "skipped"])
async def test_a_position_with_a_loss_is_told_and_counts_from_there(scene: Scene, reason: str) -> None:
    chat = await scene.online()
    channel = await scene.joined(chat)
    seen = record(channel)
    await scene.socket.push(message(5), position(2, "e2", reason), message(3))
    assert seen == [5, (reason, Position("e1", 5), Position("e2", 2)), 3]
    assert channel.position == Position("e2", 3)


async def test_a_reason_that_is_not_known_is_told_as_unknown(scene: Scene) -> None:
    chat = await scene.online()
    channel = await scene.joined(chat)
    seen = record(channel)
    await scene.socket.push(position(9, "e2", "melted"))
    assert seen == [("unknown", Position("e1", 4), Position("e2", 9))]


async def test_a_new_epoch_loses_nothing_and_is_not_told(scene: Scene) -> None:
    chat = await scene.online()
    channel = await scene.joined(chat)
    seen = record(channel)
    await scene.socket.push(message(5), position(5, "e2", "new-epoch"), message(6))
    assert seen == [5, 6]
    assert channel.position == Position("e2", 6)


async def test_after_a_reconnect_the_epoch_of_our_position_counts_until_another_one_is_named(scene: Scene) -> None:
    chat = await scene.online()
    channel = await scene.joined(chat)
    epochs: list[str] = []
    channel.on("message", lambda it: epochs.append(it.epoch))
    await scene.again()
    await scene.let_in(6, recovered=True, replayed=2, epoch="e2")
    await scene.socket.push(message(5), position(5, "e2", "new-epoch"), message(6))
    assert epochs == ["e1", "e2"]


async def test_what_is_replayed_follows_what_was_given(scene: Scene) -> None:
    chat = await scene.online()
    channel = await scene.joined(chat)
    seen = record(channel)
    await scene.socket.push(message(5))
    await scene.again()
    await scene.let_in(7, recovered=True, replayed=2)
    await scene.socket.push(message(6), message(7))
    await scene.again()
    await scene.let_in(8, recovered=True, replayed=1)
    await scene.socket.push(message(8))
    assert seen == [5, 6, 7, 8]


async def test_an_ephemeral_message_is_told_and_moves_no_position(scene: Scene) -> None:
    chat = await scene.online()
    channel = await scene.joined(chat)
    seen = record(channel)
    ephemeral: list[object] = []
    channel.on("ephemeral", lambda it: ephemeral.append((it.body, it.user_id, it.time)))
    body = {"x": 1, "userId": "lin"}
    await scene.socket.push({"route": "onMessage", "channel": "room", "ephemeral": True, "time": 7, "body": body}, message(5))
    assert ephemeral == [(body, "lin", 7)]
    assert seen == [5]


async def test_each_change_of_the_position_is_told_after_its_event(scene: Scene) -> None:
    chat = await scene.online()
    channel = await scene.joined(chat)
    events: list[object] = []
    channel.on("message", events.append)
    channel.on("position", lambda it: events.append(it.offset))
    await scene.socket.push(message(5), {"channel": "room", "offset": 6})
    assert [it if isinstance(it, int) else type(it) for it in events] == [Message, 5, 6]
    assert channel.position == Position("e1", 6)


async def test_a_channel_without_any_publication_is_followed_from_its_first_one(scene: Scene) -> None:
    chat = await scene.online()
    channel = chat.channel("room")
    joining = scene.begin(channel.join())
    await scene.let_in(0, epoch="")
    await joining
    seen = record(channel)
    await scene.socket.push(position(0, "e1", "new-epoch"), message(1))
    assert seen == [1]


async def test_pushes_of_channels_that_are_not_joined_are_ignored(scene: Scene) -> None:
    chat = await scene.online()
    seen = record(chat.channel("other"))
    await scene.socket.push(message(5, channel="other"), message(5, channel="nobody's"), position(1, "e", "trimmed"))
    assert (seen, scene.socket.of(PING)) == ([], [])
    assert Lost("gap", None, None).type == "lost"
    assert at(1) == Position("e1", 1).to_json()
