"""What outlives a process: the secret of the chat's place, and its positions."""

import asyncio
import contextlib
import inspect
import json
import os
import tempfile
from collections.abc import Awaitable
from pathlib import Path
from typing import Any, Protocol

from .events import UserId
from .listeners import report
from .positions import Position

WRITE_EVERY = 1.0  # seconds

ANSWER_WITHIN = 10.0  # seconds: a storage that hangs must not keep the chat from connecting

MOST_CHANNELS = 100  # A session is in no more.

MOST_POSITIONS = 200  # Those of channels that it may join again are kept, too.


class Storage(Protocol):
    """Keeps texts by name, as the Web's Storage does. Each method may be plain or async."""

    def get_item(self, key: str, /) -> Awaitable[str | None] | str | None:
        """The text that was set last, or None."""
        ...

    def set_item(self, key: str, text: str, /) -> Awaitable[None] | None:
        """Sets a text. The next `get_item` finds it, or the one before, but nothing in between."""
        ...

    def remove_item(self, key: str, /) -> Awaitable[None] | None:
        """Removes a text, if there is one."""
        ...


class FileStorage:
    """Keeps texts in one file of JSON, which only its owner may read. Two processes must not share a file."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """The file need not exist, but its folder must."""
        self._path = Path(path)

    def get_item(self, key: str, /) -> str | None:
        """The text that was set last, or None."""
        text = self._read().get(key)
        return text if isinstance(text, str) else None

    def set_item(self, key: str, text: str, /) -> None:
        """Sets a text. After a crash, the file holds this text or the one before. Raises OSError."""
        self._write({**self._read(), key: text})

    def remove_item(self, key: str, /) -> None:
        """Removes a text. Raises OSError."""
        items = self._read()
        if items.pop(key, None) is not None:
            self._write(items)

    def _read(self) -> dict[str, Any]:
        try:
            items = json.loads(self._path.read_text())
        except (OSError, ValueError):
            return {}
        return items if isinstance(items, dict) else {}

    def _write(self, items: dict[str, Any]) -> None:
        # A temporary file that takes the place of the old one: who reads sees one of the two, and never a half.
        handle, path = tempfile.mkstemp(dir=self._path.parent, prefix=self._path.name)
        try:
            with os.fdopen(handle, "w") as file:
                json.dump(items, file)
            os.replace(path, self._path)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(path)
            raise


class Memory:
    """The secret and the positions of one user. With a storage, they are read at the start and written as they change.

    Positions are written once a second at most. So after a crash, what was given in the last second is given again.
    """

    def __init__(self, storage: Storage | None, key: str, user: UserId | None) -> None:
        """Nothing is read before `load`."""
        self._storage = storage
        self._key = key
        self._user = None if user is None else str(user)
        self._positions: dict[str, Position] = {}
        self.secret: str | None = None
        self._is_dirty = False
        self._has_failed = False
        self._task: asyncio.Task[None] | None = None

    def position(self, channel: str) -> Position | None:
        """Where this user was in a channel."""
        return self._positions.get(channel)

    async def load(self) -> None:
        """Reads what is stored. What is broken, or belongs to another user, is ignored."""
        if self._storage is None:
            return
        try:
            text = await _answer(self._storage.get_item(self._key))
            stored = json.loads(text) if text else None
        except Exception as error:
            report("reading the storage", error)
            return
        if not isinstance(stored, dict) or stored.get("user") != self._user:
            return
        if isinstance(stored.get("secret"), str):
            self.secret = stored["secret"]
        positions = stored.get("positions")
        for channel, given in positions.items() if isinstance(positions, dict) else ():
            position = Position.read(given)
            if position is not None:
                self.note(channel, position)

    def to_show(self) -> dict[str, Any]:
        """Where this user was in as many channels as a session may be in, in the form of the protocol."""
        latest = tuple(self._positions.items())[-MOST_CHANNELS:]
        return {channel: position.to_json() for channel, position in latest}

    def keep(self, secret: str | None) -> None:
        """Keeps the secret, or forgets it."""
        if secret != self.secret:
            self.secret = secret
            self._changed()

    def note(self, channel: str, position: Position) -> None:
        """Keeps the position in a channel."""
        if channel not in self._positions and len(self._positions) >= MOST_POSITIONS:
            del self._positions[next(iter(self._positions))]
        self._positions[channel] = position
        self._changed()

    def forget(self, channel: str) -> None:
        """Forgets the position in a channel."""
        if self._positions.pop(channel, None) is not None:
            self._changed()

    def clear(self) -> None:
        """Forgets everything."""
        self.secret = None
        self._positions.clear()
        self._changed()

    def _changed(self) -> None:
        self._is_dirty = True
        if self._storage is not None and self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._write_from_time_to_time())

    async def _write_from_time_to_time(self) -> None:
        while self._is_dirty:
            await self._write()
            await asyncio.sleep(WRITE_EVERY)
        self._task = None

    async def _write(self) -> None:
        if self._storage is None:
            return
        self._is_dirty = False
        positions = {channel: position.to_json() for channel, position in self._positions.items()}
        stored = {"user": self._user, "secret": self.secret, "positions": positions}
        try:
            if self.secret is None and not positions:
                await _answer(self._storage.remove_item(self._key))
            else:
                await _answer(self._storage.set_item(self._key, json.dumps(stored, ensure_ascii=False)))
        except Exception as error:
            # It is tried again, and says the same each time.
            if not self._has_failed:
                report("writing the storage", error)
            self._has_failed = True

    async def finish(self) -> None:
        """Writes what has changed, once more and at once."""
        if self._task is not None:
            self._task.cancel()
            self._task = None
        if self._is_dirty:
            await self._write()


async def _answer(given: Any) -> Any:
    return await asyncio.wait_for(given, ANSWER_WITHIN) if inspect.isawaitable(given) else given
