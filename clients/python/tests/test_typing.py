"""Who is typing."""

from invented import PUBLISH, Scene, message

from global_channels import Channel


def types(user: str, on: bool = True) -> dict[str, object]:
    """A user says that it types."""
    body = {"typing": on, "userId": user}
    return {"route": "onMessage", "channel": "room", "ephemeral": True, "time": 7, "body": body}


def record(channel: Channel) -> list[tuple[object, bool]]:
    """Who types, and who does not any more."""
    seen: list[tuple[object, bool]] = []
    channel.on("typing", lambda it: seen.append((it.user_id, it.typing)))
    return seen


async def test_typing_is_sent_once_in_three_seconds_to_the_others(scene: Scene) -> None:
    chat = await scene.online()
    channel = await scene.joined(chat)
    for _ in range(29):
        channel.typing()
        await scene.loop.advance(0.1)
    expected = {"channel": "room", "body": {"typing": True}, "ephemeral": True, "excludeSelf": True}
    assert scene.socket.of(PUBLISH) == [expected]
    await scene.loop.advance(0.2)
    channel.typing()
    await scene.loop.settle()
    assert len(scene.socket.of(PUBLISH)) == 2
    await chat.close()


async def test_the_end_of_typing_is_sent_once(scene: Scene) -> None:
    chat = await scene.online()
    channel = await scene.joined(chat)
    channel.typing(False)
    channel.typing()
    channel.typing(False)
    channel.typing(False)
    await scene.loop.settle()
    assert [it["body"]["typing"] for it in scene.socket.of(PUBLISH)] == [True, False]


async def test_typing_is_told_once_and_ends_six_seconds_after_the_last_word(scene: Scene) -> None:
    chat = await scene.online()
    channel = await scene.joined(chat)
    seen = record(channel)
    await scene.socket.push(types("lin"))
    await scene.loop.advance(3)
    await scene.socket.push(types("lin"))
    await scene.loop.advance(5.9)
    assert seen == [("lin", True)]
    await scene.loop.advance(0.2)
    assert seen == [("lin", True), ("lin", False)]


async def test_each_user_ends_by_itself(scene: Scene) -> None:
    chat = await scene.online()
    channel = await scene.joined(chat)
    seen = record(channel)
    await scene.socket.push(types("lin"))
    await scene.loop.advance(2)
    await scene.socket.push(types("bo"))
    await scene.loop.advance(4.1)
    assert seen == [("lin", True), ("bo", True), ("lin", False)]
    await scene.loop.advance(2)
    assert seen[3:] == [("bo", False)]


async def test_a_message_of_a_user_ends_its_typing(scene: Scene) -> None:
    chat = await scene.online()
    channel = await scene.joined(chat)
    seen = record(channel)
    await scene.socket.push(types("lin"), types("bo"), message(5, user="lin"))
    assert seen == [("lin", True), ("bo", True), ("lin", False)]


async def test_a_user_who_has_left_types_no_more(scene: Scene) -> None:
    chat = await scene.online()
    channel = await scene.joined(chat)
    seen = record(channel)
    comes, goes = (
        {"route": route, "channel": "room", "offset": offset, "time": 1, "body": {"userId": "lin"}}
        for route, offset in (("onJoin", 5), ("onLeave", 6))
    )
    await scene.socket.push(types("lin"), comes)
    assert seen == [("lin", True)]
    await scene.socket.push(goes)
    assert seen == [("lin", True), ("lin", False)]


async def test_a_user_can_say_that_it_has_ended(scene: Scene) -> None:
    chat = await scene.online()
    channel = await scene.joined(chat)
    seen = record(channel)
    await scene.socket.push(types("lin", False), types("lin"), types("lin", False))
    assert seen == [("lin", True), ("lin", False)]


async def test_a_sign_of_typing_is_not_told_as_an_ephemeral_message(scene: Scene) -> None:
    chat = await scene.online()
    channel = await scene.joined(chat)
    seen: list[object] = []
    channel.on("ephemeral", seen.append)
    await scene.socket.push(types("lin"), types("lin", False))
    assert seen == []


async def test_nobody_types_in_a_channel_that_we_are_not_in(scene: Scene) -> None:
    chat = await scene.online()
    channel = await scene.joined(chat)
    seen = record(channel)
    await scene.socket.push(types("lin"), {"route": "onRemoved", "body": {"channel": "room"}})
    assert seen == [("lin", True), ("lin", False)]


async def test_those_who_type_are_bounded(scene: Scene) -> None:
    chat = await scene.online()
    channel = await scene.joined(chat)
    seen = record(channel)
    for number in range(1001):
        scene.socket.put(types(f"u{number}"))
    for _ in range(100):
        await scene.loop.settle()
    assert len(seen) == 1000
    channel.on("typing", lambda _: None)
