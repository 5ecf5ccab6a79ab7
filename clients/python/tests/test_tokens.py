"""Tokens: for each login, before they expire, and when they are refused."""

import asyncio

import pytest
from invented import LOGIN, REFRESH, Scene, refused

from global_channels import State


class Issuer:
    """Gives tokens, as an application does."""

    def __init__(self) -> None:
        """Has given none."""
        self.given = 0
        self.fails = False
        self.is_over = False

    async def __call__(self) -> str | None:
        """Another token each time."""
        await asyncio.sleep(0)
        if self.fails:
            raise OSError("the service is away")
        if self.is_over:
            return None
        self.given += 1
        return f"t{self.given}"


def tokens(scene: Scene, route: str) -> list[str]:
    """The tokens that the last socket was shown."""
    return [str(it["token"]) for it in scene.socket.of(route)]


async def test_each_login_shows_a_token_that_was_asked_for_then(scene: Scene) -> None:
    await scene.online(user=None, token=Issuer())
    assert "userId" not in scene.socket.of(LOGIN)[0]
    assert tokens(scene, LOGIN) == ["t1"]
    await scene.again()
    assert tokens(scene, LOGIN) == ["t2"]


async def test_a_plain_function_may_give_tokens(scene: Scene) -> None:
    await scene.online(token=lambda: "plain")
    assert tokens(scene, LOGIN) == ["plain"]


@pytest.mark.parametrize("reason", ["TOKEN_EXPIRED", "TOKEN_INVALID", "TOKEN_REVOKED"])
async def test_a_token_that_is_refused_is_replaced_once(scene: Scene, reason: str) -> None:
    chat = await scene.connect(token=Issuer())
    await scene.socket.answer(LOGIN, refused(reason))
    assert tokens(scene, LOGIN) == ["t1", "t2"]
    await scene.socket.answer(LOGIN, refused(reason))
    assert chat.state == "closed"


async def test_after_a_login_that_succeeded_a_token_may_be_replaced_again(scene: Scene) -> None:
    chat = await scene.connect(token=Issuer())
    for _ in range(2):
        await scene.socket.answer(LOGIN, refused("TOKEN_EXPIRED"))
        await scene.log_in()
        assert chat.state == "online"
        await scene.socket.end()
        await scene.reopened()


async def test_without_a_function_for_tokens_a_refused_token_is_final(scene: Scene) -> None:
    chat = await scene.connect()
    await scene.socket.answer(LOGIN, refused("TOKEN_INVALID"))
    assert chat.state == "closed"


@pytest.mark.parametrize("reason", ["token expired", "token revoked"])
async def test_a_close_because_of_the_token_leads_to_one_more_login_with_another_token(scene: Scene, reason: str) -> None:
    chat = await scene.online(token=Issuer())
    await scene.socket.kick(reason, reconnect=False, code=4017)
    assert chat.state == "away"
    await scene.reopened()
    assert tokens(scene, LOGIN) == ["t2"]
    await scene.socket.answer(LOGIN, refused("TOKEN_REVOKED"))
    assert chat.state == "closed"


async def test_a_function_for_tokens_that_fails_is_called_again_after_a_pause(scene: Scene) -> None:
    issuer = Issuer()
    issuer.fails = True
    chat = await scene.connect(token=issuer)
    states: list[State] = []
    chat.on("state", states.append)
    assert chat.state == "away"
    await scene.loop.advance(3)
    assert {it.reason for it in states if it.state == "away"} == {"TOKEN_FAILED"}
    issuer.fails = False
    await scene.reopened()
    await scene.log_in()
    assert chat.state == "online"


async def test_a_function_for_tokens_that_hangs_is_given_up(scene: Scene) -> None:
    async def hang() -> str:
        return await asyncio.get_running_loop().create_future()  # type: ignore[no-any-return]  # it never returns

    chat = await scene.connect(token=hang)
    await scene.loop.advance(19.9)
    assert chat.state == "connecting"
    await scene.loop.advance(0.2)
    assert chat.state == "away"


@pytest.mark.parametrize("token", [None, ""])
async def test_no_token_closes_the_chat(scene: Scene, token: str | None) -> None:
    chat = await scene.connect(token=lambda: token)
    states: list[State] = []
    chat.on("state", states.append)
    assert chat.state == "closed"
    assert scene.sockets == []


async def test_a_token_is_refreshed_at_three_quarters_of_its_life_give_or_take(scene: Scene) -> None:
    await scene.connect(token=Issuer(), ping_ms=10_000_000)
    await scene.log_in(ttl=1000)
    await scene.loop.advance(749)
    assert tokens(scene, REFRESH) == []
    await scene.loop.advance(2)
    assert tokens(scene, REFRESH) == ["t2"]
    await scene.socket.answer(REFRESH, {"code": 0, "ttl": 100})
    await scene.loop.advance(74)
    assert len(tokens(scene, REFRESH)) == 1
    await scene.loop.advance(2)
    assert tokens(scene, REFRESH) == ["t2", "t3"]


async def test_a_token_that_has_expired_is_refreshed_at_once(scene: Scene) -> None:
    await scene.connect(token=Issuer())
    await scene.log_in()
    await scene.socket.push({"route": "onExpired", "body": {"closesIn": 25}})
    assert tokens(scene, REFRESH) == ["t2"]
    await scene.socket.answer(REFRESH)
    await scene.socket.push({"route": "onExpired", "body": {"closesIn": 25}})
    assert tokens(scene, REFRESH) == ["t2", "t3"]


async def test_a_refresh_that_fails_is_repeated_after_a_pause(scene: Scene) -> None:
    issuer = Issuer()
    chat = await scene.connect(token=issuer, ping_ms=10_000_000)
    await scene.log_in(ttl=100)
    issuer.fails = True
    await scene.loop.advance(75.2)
    issuer.fails = False
    await scene.loop.advance(0.2)
    await scene.socket.answer(REFRESH, refused("UNAVAILABLE", retry=True, retryAfterMs=1000))
    await scene.loop.advance(1)
    assert len(tokens(scene, REFRESH)) == 1
    await scene.loop.advance(1)
    assert len(tokens(scene, REFRESH)) == 2
    await scene.socket.answer(REFRESH)
    assert chat.state == "online"


async def test_no_token_for_a_refresh_closes_the_chat(scene: Scene) -> None:
    issuer = Issuer()
    chat = await scene.connect(token=issuer)
    await scene.log_in(ttl=10)
    issuer.is_over = True
    states: list[State] = []
    chat.on("state", states.append)
    await scene.loop.advance(9)
    assert [(it.state, it.reason) for it in states] == [("closed", "NO_TOKEN")]


async def test_a_token_that_does_not_expire_is_not_refreshed(scene: Scene) -> None:
    await scene.connect(token=Issuer(), ping_ms=10_000_000)
    await scene.log_in()
    await scene.loop.advance(1000)
    assert tokens(scene, REFRESH) == []
