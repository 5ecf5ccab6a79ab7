"""Connecting, logging in, coming back, and stopping."""

import asyncio
from collections.abc import Awaitable

import pytest
from invented import LOGIN, PING, PUBLISH, SECRET, InventedSocket, Scene, refused

from global_channels import ChatError, State, connect
from global_channels.sockets import Socket


def told(chat_states: list[State]) -> list[tuple[str, str | None]]:
    """The states, and why."""
    return [(it.state, it.reason) for it in chat_states]


async def test_a_chat_connects_at_once_and_is_online_when_it_is_logged_in(scene: Scene) -> None:
    chat = await scene.connect(user=5)
    assert chat.state == "connecting"
    online = scene.begin(chat.online())
    login = scene.socket.of(LOGIN)[0]
    assert (login["userId"], login["positions"], "token" in login) == (5, True, False)
    await scene.log_in()
    assert chat.state == "online"
    await online


async def test_the_next_login_shows_the_secret_of_the_last_one(scene: Scene) -> None:
    await scene.online()
    await scene.again()
    assert scene.socket.of(LOGIN)[0]["resume"] == SECRET


async def test_the_first_login_shows_a_secret_of_its_own_so_that_a_lost_answer_does_no_harm(scene: Scene) -> None:
    await scene.connect()
    first = scene.socket.of(LOGIN)[0]["resume"]
    assert len(first) == len(SECRET)
    await scene.socket.end()
    await scene.loop.advance(1)
    assert scene.socket.of(LOGIN)[0]["resume"] == first


async def test_each_attempt_tries_the_next_address(scene: Scene) -> None:
    await scene.connect(url=["ws://one", "https://two/"])
    for _ in range(2):
        await scene.socket.end()
        await scene.reopened()
    assert [it.url for it in scene.sockets] == ["ws://one/ws", "wss://two/ws", "ws://one/ws"]


async def test_pauses_have_full_jitter_and_grow_to_a_bound(scene: Scene) -> None:
    chat = await scene.connect()
    pauses: list[int | None] = []
    chat.on("state", lambda it: pauses.append(it.retry_in_ms) if it.state == "away" else None)
    scene.random = 1.0
    for _ in range(8):
        await scene.socket.end()
        await scene.reopened()
    assert pauses == [500, 1000, 2000, 4000, 8000, 16000, 20000, 20000]
    scene.random = 0.0
    await scene.socket.end()
    assert pauses[-1] == 0


async def test_a_login_alone_does_not_make_the_next_pause_short_but_an_answered_ping_does(scene: Scene) -> None:
    chat = await scene.online()
    pauses: list[int | None] = []
    chat.on("state", lambda it: pauses.append(it.retry_in_ms) if it.state == "away" else None)
    await scene.again()
    await scene.again()
    assert pauses == [250, 500]
    await scene.loop.advance(11)
    await scene.socket.answer(PING)
    await scene.again()
    assert pauses == [250, 500, 250]


async def test_a_stored_message_makes_the_next_pause_short_as_well(scene: Scene) -> None:
    chat = await scene.online()
    pauses: list[int | None] = []
    chat.on("state", lambda it: pauses.append(it.retry_in_ms) if it.state == "away" else None)
    await scene.again()
    channel = await scene.joined(chat)
    sent = channel.send({})
    await scene.socket.answer(PUBLISH)
    await sent
    await scene.socket.end()
    assert pauses == [250, 250]


async def test_the_pause_is_at_least_what_the_server_asks_for_when_it_closes(scene: Scene) -> None:
    await scene.online()
    await scene.socket.kick("shutdown", reconnect=True, reconnectAfterMs=7000)
    await scene.loop.advance(6.9)
    assert len(scene.sockets) == 1
    await scene.loop.advance(0.2)
    assert len(scene.sockets) == 2


async def test_the_pause_is_at_least_what_the_server_asks_for_when_it_refuses_a_login(scene: Scene) -> None:
    chat = await scene.connect()
    await scene.socket.answer(LOGIN, refused("TRY_LATER", retry=True, retryAfterMs=3000))
    assert chat.state == "away"
    await scene.loop.advance(2.9)
    assert len(scene.sockets) == 1
    await scene.loop.advance(0.2)
    assert len(scene.sockets) == 2


async def test_somebody_else_under_this_name_ends_the_first_login(scene: Scene) -> None:
    chat = await scene.connect()
    await scene.socket.end()  # The first attempt never came to a login. This changes nothing.
    await scene.loop.advance(1)
    await scene.socket.answer(LOGIN, refused("USER_LOGGED_IN", retry=True, retryAfterMs=2000))
    assert chat.state == "closed"
    with pytest.raises(ChatError, match="USER_LOGGED_IN"):
        await chat.online()


async def test_after_a_session_of_ours_the_same_refusal_is_tried_again(scene: Scene) -> None:
    chat = await scene.online()
    await scene.socket.end()
    await scene.loop.advance(1)
    await scene.socket.answer(LOGIN, refused("USER_LOGGED_IN", retry=True, retryAfterMs=2000))
    assert chat.state == "away"


async def test_a_final_refusal_of_the_login_closes_the_chat(scene: Scene) -> None:
    chat = await scene.connect()
    online = scene.begin(chat.online())
    await scene.socket.answer(LOGIN, refused("BLOCKED", until=1769860800250))
    assert chat.state == "closed"
    with pytest.raises(ChatError) as raised:
        await online
    assert (raised.value.reason, raised.value.details["until"]) == ("BLOCKED", 1769860800250)
    await scene.loop.advance(60)
    assert len(scene.sockets) == 1


@pytest.mark.parametrize("reason", ["replaced", "kick", "blocked", "words of a back end"])
async def test_a_final_close_closes_the_chat_with_its_reason(scene: Scene, reason: str) -> None:
    chat = await scene.online()
    states: list[State] = []
    chat.on("state", states.append)
    await scene.socket.kick(reason, reconnect=False, code=4100)
    assert told(states) == [("closed", reason)]
    await scene.loop.advance(60)
    assert len(scene.sockets) == 1


async def test_a_final_close_code_counts_also_if_its_push_was_lost(scene: Scene) -> None:
    chat = await scene.online()
    await scene.socket.end(4012, "replaced")
    assert chat.state == "closed"


@pytest.mark.parametrize(("code", "reason"), [(1006, ""), (4009, "connector restarted"), (4001, "slow"), (4999, "new")])
async def test_all_other_closes_lead_to_another_connection(scene: Scene, code: int, reason: str) -> None:
    chat = await scene.online()
    states: list[State] = []
    chat.on("state", states.append)
    await scene.socket.end(code, reason)
    await scene.loop.advance(1)
    await scene.log_in()
    assert told(states) == [("away", reason or "LOST"), ("connecting", None), ("online", None)]


async def test_a_socket_that_does_not_open_in_time_is_given_up(scene: Scene) -> None:
    async def hang(_: str) -> Socket:
        return await asyncio.get_running_loop().create_future()  # type: ignore[no-any-return]  # it never returns

    scene._open = hang  # type: ignore[method-assign, assignment]
    chat = await scene.connect()
    await scene.loop.advance(9.9)
    assert chat.state == "connecting"
    await scene.loop.advance(0.2)
    assert chat.state == "away"


async def test_a_socket_that_opens_too_late_is_ended_at_once(scene: Scene) -> None:
    late = InventedSocket("ws://late")

    async def stubborn(_: str) -> Socket:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            return late  # It has just opened.
        raise AssertionError

    scene._open = stubborn  # type: ignore[method-assign, assignment]
    await scene.connect()
    await scene.loop.advance(10.1)
    assert late.is_aborted


async def test_a_server_that_cannot_be_reached_is_tried_again(scene: Scene) -> None:
    def fail(_: str) -> None:
        raise OSError("nobody is there")

    scene.on_open = fail
    chat = await scene.connect()
    states: list[State] = []
    chat.on("state", states.append)
    assert chat.state == "away"
    scene.on_open = lambda _: None
    await scene.loop.advance(1)
    await scene.log_in()
    assert chat.state == "online"


async def test_what_is_no_json_ends_the_connection_and_not_the_chat(scene: Scene) -> None:
    chat = await scene.online()
    await scene.socket.put_raw("<html>")
    assert chat.state == "away"


@pytest.mark.parametrize(
    "text", ["[]", "{}", "null", '{"id":99,"body":{}}', '{"route":7,"channel":{},"body":[]}', '{"id":[],"route":{}}']
)
async def test_strange_messages_are_ignored(scene: Scene, text: str) -> None:
    chat = await scene.online()
    await scene.joined(chat)
    await scene.socket.put_raw(text)
    await scene.socket.put_raw('{"channel":"room","offset":"x","route":"onMessage"}')
    await scene.socket.put_raw('{"channel":"room","route":"onPosition","body":{"epoch":1}}')
    assert chat.state == "online"


async def test_close_logs_out_with_1000_and_fails_all_that_is_pending(scene: Scene) -> None:
    chat = await scene.online()
    channel = await scene.joined(chat)
    states: list[State] = []
    chat.on("state", states.append)
    sent = [channel.send({"content": 1}), channel.send({"content": 2})]
    pending = [scene.begin(it) for it in (chat.request("game.handler.move"), chat.channel("other").join(), channel.members())]
    await scene.loop.settle()
    await chat.close()
    assert scene.socket.closed_with == 1000
    assert told(states) == [("closed", "CLOSED")]
    later = [chat.online(), channel.join(), channel.send({}), chat.request("x")]
    all_of_them: list[Awaitable[object]] = [*sent, *pending, *later]  # type: ignore[list-item]  # one type for all
    for waiting in all_of_them:
        with pytest.raises(ChatError, match="CLOSED"):
            await waiting
    await chat.close()


@pytest.mark.parametrize("turns", range(12))
async def test_a_chat_may_be_closed_at_any_moment(scene: Scene, turns: int) -> None:
    chat = scene.chat(token=lambda: "token")
    for _ in range(turns):
        await asyncio.sleep(0)
    await chat.close()
    assert chat.state == "closed"


async def test_a_loop_that_is_closed_without_the_chat_ends_everything_at_once(scene: Scene) -> None:
    chat = await scene.online()
    await scene.joined(chat)
    scene.socket.is_stuck = True
    for task in asyncio.all_tasks() - {asyncio.current_task()}:
        task.cancel()  # This is how asyncio.run ends.
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert asyncio.all_tasks() == {asyncio.current_task()}
    assert scene.socket.is_aborted
    assert scene.reported == []


async def test_closing_does_not_wait_long_for_a_network_that_is_stuck(scene: Scene) -> None:
    chat = await scene.online()
    scene.socket.is_stuck = True
    closing = scene.begin(chat.close())
    await scene.loop.advance(1.9)
    assert (closing.done(), scene.socket.is_aborted) == (False, False)
    await scene.loop.advance(0.2)
    assert (closing.done(), scene.socket.is_aborted) == (True, True)


async def test_leaving_the_with_block_closes_the_chat(scene: Scene) -> None:
    async with await scene.online() as chat:
        pass
    assert chat.state == "closed"


async def test_a_listener_may_close_the_chat(scene: Scene) -> None:
    chat = await scene.online()
    channel = await scene.joined(chat)
    closed: list[str] = []

    async def leave(_: object) -> None:
        await chat.close()
        closed.append("yes")

    channel.on("message", leave)
    await scene.socket.push({"route": "onMessage", "channel": "room", "offset": 5, "time": 1, "body": {}})
    assert closed == ["yes"]


async def test_a_thousand_reconnects_leave_nothing_behind(scene: Scene) -> None:
    await scene.online(longest_pause_ms=1)
    for _ in range(1000):
        await scene.socket.end()
        await scene.loop.advance(0.05)
        scene.socket.put_answer(LOGIN, {"code": 0, "resume": SECRET})
        await scene.loop.settle()
        assert len(asyncio.all_tasks()) <= 5
        assert len(scene.loop.timers()) <= 3
        scene.sockets = scene.sockets[-2:]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"url": "ftp://server", "user": "u"}, "wss://"),
        ({"url": "server:3010", "user": "u"}, "wss://"),
        ({"url": "ws://", "user": "u"}, "wss://"),
        ({"url": "ws://server:port", "user": "u"}, "wss://"),
        ({"url": [], "user": "u"}, "wss://"),
        ({"url": "ws://server"}, "user="),
        ({"url": "ws://server", "user": True}, "string or a number"),
        ({"url": "ws://server", "user": "u", "token": "text"}, "function"),
        ({"url": "ws://server", "user": "u", "ping_ms": 0}, "more than 0"),
    ],
)
async def test_arguments_that_cannot_be_meant_are_refused_in_words(scene: Scene, arguments: dict[str, object], says: str) -> None:
    with pytest.raises((ValueError, TypeError), match=says):
        connect(**arguments)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("url", "is_opened"),
    [
        ("http://server", "ws://server/ws"),
        ("https://server/", "wss://server/ws"),
        ("WSS://server:3010", "wss://server:3010/ws"),
        ("ws://server/chat?x=1#here", "ws://server/chat?x=1"),
        ("ws://[::1]:3010", "ws://[::1]:3010/ws"),
    ],
)
async def test_addresses_are_read_as_people_write_them(scene: Scene, url: str, is_opened: str) -> None:
    await scene.connect(url=url)
    assert scene.socket.url == is_opened


async def test_a_request_returns_the_operators_answer_whatever_its_code_is(scene: Scene) -> None:
    chat = await scene.online()
    asking = scene.begin(chat.request("game.handler.move", {"to": 3}, key="k1"))
    await scene.socket.answer("game.handler.move", {"code": 7, "said": "no"})
    assert await asking == {"code": 7, "said": "no"}
    request = scene.socket.asked[-1]
    assert (request["body"], request["key"]) == ({"to": 3}, "k1")


async def test_a_request_that_the_server_refuses_fails_with_its_reason(scene: Scene) -> None:
    chat = await scene.online()
    asking = scene.begin(chat.request("game.handler.move"))
    await scene.socket.answer("game.handler.move", refused("HANDLER_FAILED"))
    with pytest.raises(ChatError, match="HANDLER_FAILED"):
        await asking


async def test_a_request_waits_until_the_chat_is_online_and_is_never_repeated(scene: Scene) -> None:
    chat = await scene.connect()
    asking = scene.begin(chat.request("game.handler.move"))
    await scene.log_in()
    await scene.loop.settle()
    assert len(scene.socket.of("game.handler.move")) == 1
    await scene.again()
    with pytest.raises(ChatError) as raised:
        await asking
    assert raised.value.reason == "UNKNOWN"
    assert scene.socket.of("game.handler.move") == []


async def test_a_personal_push_is_told_and_the_servers_own_are_not(scene: Scene) -> None:
    chat = await scene.online()
    pushes: list[tuple[str, object]] = []
    chat.on("push", lambda it: pushes.append((it.route, it.body)))
    await scene.socket.push(
        {"route": "onMail", "body": {"unread": 3}},
        {"route": "onExpired", "body": {"closesIn": 3}},
        {"route": "onMessage", "body": {}},
    )
    assert pushes == [("onMail", {"unread": 3}), ("onMessage", {})]
