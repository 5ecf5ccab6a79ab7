"""What outlives a process."""

import asyncio
import json
from pathlib import Path

import pytest
from invented import JOIN, LOGIN, SECRET, Scene, at, message, refused

from global_channels import FileStorage, Storage


class Shelf:
    """A storage in memory that counts how often it is written."""

    def __init__(self, text: str | None = None) -> None:
        """Holds this text."""
        self.text = text
        self.writes = 0

    def get_item(self, _: str) -> str | None:
        """The text."""
        return self.text

    def set_item(self, _: str, text: str) -> None:
        """Replaces it."""
        self.text = text
        self.writes += 1

    def remove_item(self, _: str) -> None:
        """Removes it."""
        self.text = None

    @property
    def stored(self) -> dict[str, object]:
        """What it holds."""
        read: dict[str, object] = json.loads(self.text or "{}")
        return read


class AsyncShelf:
    """The same with async methods."""

    def __init__(self) -> None:
        """Is empty."""
        self.items: dict[str, str] = {}

    async def get_item(self, key: str) -> str | None:
        """The text."""
        await asyncio.sleep(0)
        return self.items.get(key)

    async def set_item(self, key: str, text: str) -> None:
        """Replaces it."""
        await asyncio.sleep(0)
        self.items[key] = text

    async def remove_item(self, key: str) -> None:
        """Removes it."""
        await asyncio.sleep(0)
        self.items.pop(key, None)


def kept(**more: object) -> str:
    """What a chat of ann has stored."""
    return json.dumps({"user": "ann", "secret": SECRET, "positions": {"room": at(17)}, **more})


async def test_a_chat_goes_on_where_its_last_process_was(scene: Scene) -> None:
    chat = await scene.online(storage=Shelf(kept()))
    assert scene.socket.of(LOGIN)[0]["resume"] == SECRET
    joining = scene.begin(chat.channel("room").join())
    await scene.loop.settle()
    assert scene.socket.of(JOIN) == [{"channel": "room", "since": at(17)}]
    await scene.let_in(17, recovered=True)
    await joining


async def test_a_stored_secret_that_the_server_cannot_read_is_replaced(scene: Scene) -> None:
    chat = await scene.connect(storage=Shelf(kept(secret="broken")))
    await scene.socket.answer(LOGIN, refused("INVALID_PARAMETER"))
    resumes = [it["resume"] for it in scene.socket.of(LOGIN)]
    assert (len(resumes), resumes[0]) == (2, "broken")
    assert len(resumes[1]) == len(SECRET)
    await scene.socket.answer(LOGIN, refused("INVALID_PARAMETER"))
    assert chat.state == "closed"


async def test_a_session_of_the_last_process_may_be_what_is_still_logged_in(scene: Scene) -> None:
    chat = await scene.connect(storage=Shelf(kept()))
    await scene.socket.answer(LOGIN, refused("USER_LOGGED_IN", retry=True, retryAfterMs=2000))
    assert chat.state == "away"


async def test_a_position_that_the_application_gives_counts_more(scene: Scene) -> None:
    chat = await scene.online(storage=Shelf(kept()))
    joining = scene.begin(chat.channel("room").join(since=at(3)))
    await scene.loop.settle()
    assert scene.socket.of(JOIN) == [{"channel": "room", "since": at(3)}]
    await scene.let_in(17, recovered=True)
    await joining


async def test_what_belongs_to_another_user_is_ignored(scene: Scene) -> None:
    await scene.online(user="lin", storage=Shelf(kept()))
    assert scene.socket.of(LOGIN)[0]["resume"] != SECRET


@pytest.mark.parametrize(
    "text", ["", "no json", "[]", "{}", kept(secret=7, positions=[]), kept(secret=None, positions={"room": "?"})]
)
async def test_broken_contents_are_ignored(scene: Scene, text: str) -> None:
    chat = await scene.online(storage=Shelf(text))
    joining = scene.begin(chat.channel("room").join())
    await scene.loop.settle()
    assert scene.socket.of(JOIN) == [{"channel": "room", "positions": True}]
    await scene.let_in()
    await joining
    scene.loop.reported.clear()


async def test_positions_are_written_once_a_second_at_most(scene: Scene) -> None:
    shelf = Shelf()
    chat = await scene.online(storage=shelf)
    await scene.joined(chat)
    await scene.loop.advance(2)
    before = shelf.writes
    await scene.socket.push(*(message(offset) for offset in range(5, 50)))
    await scene.loop.advance(0.5)
    await scene.socket.push(message(50))
    assert shelf.writes == before + 1
    await scene.loop.advance(1)
    assert shelf.writes == before + 2
    assert shelf.stored == {"user": "ann", "secret": SECRET, "positions": {"room": at(50)}}


async def test_close_forgets_the_secret_and_writes_the_last_positions(scene: Scene) -> None:
    shelf = Shelf()
    chat = await scene.online(storage=shelf)
    await scene.joined(chat)
    await scene.socket.push(message(5))
    await chat.close()
    assert shelf.stored == {"user": "ann", "secret": None, "positions": {"room": at(5)}}


async def test_a_login_with_a_token_says_where_we_were_in_a_hundred_channels_at_most(scene: Scene) -> None:
    rooms = [f"room {number}" for number in range(150)]
    shelf = Shelf(kept(positions=dict.fromkeys(rooms, at(1))))
    await scene.online(storage=shelf, token=lambda: "token")
    assert list(scene.socket.of(LOGIN)[0]["positions"]) == rooms[50:]


@pytest.mark.parametrize("is_closed_by_the_server", [False, True])
async def test_close_with_forget_leaves_nothing_in_the_storage(scene: Scene, is_closed_by_the_server: bool) -> None:
    shelf = Shelf()
    chat = await scene.online(storage=shelf)
    await scene.joined(chat)
    if is_closed_by_the_server:
        await scene.socket.push({"route": "onKick", "body": {"reason": "kick", "reconnect": False}})
        await scene.loop.settle()
        assert shelf.text is not None
    await chat.close(forget=True)
    assert shelf.text is None


async def test_a_chat_without_positions_leaves_nothing_in_the_storage(scene: Scene) -> None:
    shelf = Shelf()
    chat = await scene.online(storage=shelf)
    await chat.close()
    assert shelf.text is None


async def test_leaving_a_channel_forgets_its_position(scene: Scene) -> None:
    shelf = Shelf(kept())
    chat = await scene.online(storage=shelf)
    channel = await scene.joined(chat)
    leaving = scene.begin(channel.leave())
    await scene.socket.answer("chat.handler.leave")
    await leaving
    await scene.loop.advance(2)
    assert shelf.stored["positions"] == {}


async def test_positions_of_channels_that_are_not_joined_again_are_kept_within_a_bound(scene: Scene) -> None:
    shelf = Shelf(kept(positions={str(number): at(number) for number in range(300)}))
    chat = await scene.online(storage=shelf)
    await scene.joined(chat)
    await scene.loop.advance(2)
    positions = shelf.stored["positions"]
    assert isinstance(positions, dict)
    assert len(positions) == 200
    assert positions["room"] == at(4)


async def test_a_storage_may_be_async(scene: Scene) -> None:
    shelf = AsyncShelf()
    chat = await scene.online(storage=shelf)
    await scene.joined(chat)
    await scene.loop.advance(2)
    assert json.loads(shelf.items["global-channels"])["positions"] == {"room": at(4)}


async def test_a_storage_that_fails_is_reported_and_breaks_nothing(scene: Scene) -> None:
    class Broken(Shelf):
        def get_item(self, _: str) -> str | None:
            raise OSError("read")

        def set_item(self, _: str, text: str) -> None:
            raise OSError("written")

    chat = await scene.online(storage=Broken())
    assert chat.state == "online"
    for name in ("room", "other"):
        await scene.joined(chat, name)
        await scene.loop.advance(2)
    await chat.close()
    # Each once, although it was written several times.
    reported = scene.reported
    assert len(reported) == 2
    assert "read" in reported[0]
    assert "written" in reported[1]


async def test_a_storage_that_hangs_does_not_keep_the_chat_from_connecting(scene: Scene) -> None:
    class Hanging(AsyncShelf):
        async def get_item(self, _: str) -> str | None:
            return await asyncio.get_running_loop().create_future()  # type: ignore[no-any-return]  # it never returns

    await scene.connect(storage=Hanging())
    await scene.loop.advance(10.1)
    assert len(scene.sockets) == 1
    assert "reading the storage" in scene.reported[0]


def test_a_file_keeps_texts_and_no_temporary_files(tmp_path: Path) -> None:
    path = tmp_path / "chat.json"
    storage: Storage = FileStorage(path)
    assert storage.get_item("one") is None
    storage.set_item("one", "1")
    storage.set_item("two", "2")
    storage.remove_item("one")
    assert (storage.get_item("one"), FileStorage(path).get_item("two")) == (None, "2")
    assert [it.name for it in tmp_path.iterdir()] == ["chat.json"]
    assert path.stat().st_mode & 0o77 == 0
    path.write_text("broken")
    assert storage.get_item("two") is None
