"""Drives the library by commands, so that one list of scenarios can be run against clients in several languages.

Reads commands from its standard input and prints answers and events, one JSON object a line:

    {"id": 1, "client": "ann", "do": "connect", "url": "ws://127.0.0.1:3010/ws", "user": "ann"}
    {"id": 2, "client": "ann", "do": "join", "channel": "room"}
    {"answer": 1, "ok": null}
    {"client": "ann", "event": "state", "state": "online"}

The commands of a line are begun in their order, and each is answered when it is done. A client that is connected with
`"quiet": true` prints no events of channels; `seen` answers with what it was given. One that is connected with `"loops": true`
does not listen at all; `loop` reads its channels. The end of the input closes all.
"""

import asyncio
import dataclasses
import gc
import json
import sys
import tracemalloc
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

from global_channels import (
    Channel,
    Chat,
    ChatError,
    FileStorage,
    Lost,
    Message,
    Position,
    connect,
)

Command = Mapping[str, Any]

CHANNEL_EVENTS = ("message", "join", "leave", "lost", "ephemeral", "typing", "joined", "parted", "position")

OPTIONS = {
    "storageKey": "storage_key",
    "queueBytes": "queue_bytes",
    "pingMs": "ping_ms",
    "silenceMs": "silence_ms",
    "longestPauseMs": "longest_pause_ms",
    "keyLifeMs": "key_life_ms",
}


def say(line: Mapping[str, Any]) -> None:
    """Prints one line at once."""
    print(json.dumps(line, ensure_ascii=False), flush=True)


def camel(name: str) -> str:
    """The name as the protocol and the other libraries write it."""
    first, *rest = name.rstrip("_").split("_")
    return first + "".join(part.title() for part in rest)


def plain(value: Any) -> Any:
    """What is printed of a value of the library."""
    if isinstance(value, Position):
        return value.to_json()
    if dataclasses.is_dataclass(value):
        return {camel(it.name): plain(getattr(value, it.name)) for it in dataclasses.fields(value)}
    return [plain(it) for it in value] if isinstance(value, list) else value


class Client:
    """One chat of this process, and what its channels were given."""

    def __init__(self, command: Command) -> None:
        """Connects."""
        self.name = command["client"]
        self.is_quiet = command.get("quiet", False)
        self.loops = command.get("loops", False)
        self.seen: dict[str, list[Any]] = {}
        self.channels: dict[str, Channel] = {}
        options: dict[str, Any] = {OPTIONS[name]: value for name, value in command.get("options", {}).items()}
        if (path := command.get("tokenFile")) is not None:
            # An empty file: there is no token.
            options["token"] = lambda: Path(path).read_text().strip()
        if command.get("storageFile") is not None:
            options["storage"] = FileStorage(command["storageFile"])
        self.chat: Chat = connect(command["url"], user=command.get("user"), **options)
        self.chat.on("state", lambda event: say({"client": self.name, "event": "state", **plain(event)}))
        self.chat.on("push", lambda event: say({"client": self.name, "event": "push", **plain(event)}))

    def channel(self, name: str | int) -> Channel:
        """The channel, whose events are told from the first time on."""
        channel = self.chat.channel(name)
        if channel.name not in self.channels:
            self.channels[channel.name] = channel
            self.seen[channel.name] = []
            for event in () if self.loops else CHANNEL_EVENTS:
                channel.on(event, self._listener(channel.name, event))  # type: ignore[call-overload]  # one for all
        return channel

    def _listener(self, channel: str, name: str) -> Callable[[object], None]:
        def told(event: object) -> None:
            if isinstance(event, Message):
                content = event.body.get("content")
                self.seen[channel].append([event.epoch, event.offset, event.user_id, content])
            elif isinstance(event, Lost):
                self.seen[channel].append(["lost", event.reason])
            if not self.is_quiet:
                say({"client": self.name, "channel": channel, "event": name, **plain(event)})

        return told


class Driver:
    """All clients of this process."""

    def __init__(self) -> None:
        """There is none."""
        self.clients: dict[str, Client] = {}

    def begin(self, command: Command) -> Awaitable[Any]:
        """Begins a command. What must happen in the order of the commands has happened when this returns."""
        do: Callable[[Command], Awaitable[Any]] | None = getattr(self, f"do_{command['do']}", None)
        if do is None:
            raise ValueError(f"there is no command {command['do']!r}")
        return do(command)

    def channel(self, command: Command) -> Channel:
        """The channel that a command names."""
        return self.clients[command["client"]].channel(command["channel"])

    def do_connect(self, command: Command) -> Awaitable[Any]:
        """Answers at once. Events tell when the client is online."""
        self.clients[command["client"]] = Client(command)
        return done(None)

    def do_state(self, command: Command) -> Awaitable[Any]:
        """Answers with the state of the client."""
        return done(self.clients[command["client"]].chat.state)

    def do_online(self, command: Command) -> Awaitable[Any]:
        """Answers when the client is online, or with the reason why it is closed."""
        return self.clients[command["client"]].chat.online()

    def do_join(self, command: Command) -> Awaitable[Any]:
        """Answers with what `join` returns."""
        return self.channel(command).join(since=command.get("since"))

    def do_leave(self, command: Command) -> Awaitable[Any]:
        """Answers when the server knows it."""
        return self.channel(command).leave()

    def do_send(self, command: Command) -> Awaitable[Any]:
        """Answers when the message is stored."""
        options = command.get("options", {})
        return self.channel(command).send(command["body"], exclude_self=options.get("excludeSelf", False))

    def do_bulk(self, command: Command) -> Awaitable[Any]:
        """Sends `count` messages. Answers when all of them are settled."""
        channel = self.channel(command)
        sent = [channel.send({"content": f"{command['text']} {number}"}) for number in range(command["count"])]

        async def settled() -> Any:
            failed: Counter[str] = Counter()
            for it in sent:
                try:
                    await it
                except ChatError as error:
                    failed[error.reason] += 1
            return {"stored": len(sent) - failed.total(), "failed": failed}

        return settled()

    def do_ephemeral(self, command: Command) -> Awaitable[Any]:
        """Answers whether it was handed to a connection."""
        return done(self.channel(command).ephemeral(command["body"]))

    def do_typing(self, command: Command) -> Awaitable[Any]:
        """Answers at once."""
        self.channel(command).typing(command.get("on", True))
        return done(None)

    def do_members(self, command: Command) -> Awaitable[Any]:
        """Answers with all members."""
        return self.channel(command).members()

    async def do_history(self, command: Command) -> Any:
        """Answers with all publications, or with the first `limit` of them."""
        found: list[Any] = []
        history = self.channel(command).history(
            newest_first=command.get("newestFirst", True),
            from_=command.get("from"),
            page_size=command.get("pageSize", 50),
        )
        async for event in history:
            found.append({"type": event.type, **plain(event)})
            if len(found) == command.get("limit"):
                break
        return found

    async def do_loop(self, command: Command) -> Any:
        """Iterates until the message with the content `until` comes. Answers with the contents of all messages."""
        contents: list[Any] = []
        async for event in self.channel(command):
            if isinstance(event, Message):
                contents.append(event.body.get("content"))
                if contents[-1] == command["until"]:
                    break
        return contents

    def do_request(self, command: Command) -> Awaitable[Any]:
        """Answers with the body of the answer."""
        chat = self.clients[command["client"]].chat
        return chat.request(command["route"], command.get("body"), key=command.get("key"))

    def do_close(self, command: Command) -> Awaitable[Any]:
        """Answers when the client is closed."""
        return self.clients[command["client"]].chat.close()

    def do_seen(self, command: Command) -> Awaitable[Any]:
        """Answers with `[epoch, offset, user, content]` of all messages, and `["lost", reason]`, in their order."""
        client = self.clients[command["client"]]
        return done(list(client.seen.get(str(command["channel"]), [])))

    def do_memory(self, _: Command) -> Awaitable[Any]:
        """Answers with the bytes that Python objects hold."""
        gc.collect()
        return done(tracemalloc.get_traced_memory()[0])

    async def answer(self, command: Command, doing: Awaitable[Any]) -> None:
        """Waits until a command is done, and says so."""
        try:
            say({"answer": command["id"], "ok": plain(await doing)})
        except ChatError as error:
            why = {"reason": error.reason, "message": error.message, "code": error.code, "retry": error.retry}
            say({"answer": command["id"], "error": why})
        except Exception as error:
            say({"answer": command["id"], "error": {"reason": "ERROR", "message": repr(error)}})


async def done(value: Any) -> Any:
    """A command that is done already."""
    return value


async def failed(error: Exception) -> Any:
    """A command that has failed already."""
    raise error


async def main() -> None:
    """Carries out the commands until the input ends."""
    driver = Driver()
    doing: set[asyncio.Task[None]] = set()
    while line := await asyncio.to_thread(sys.stdin.readline):
        command = json.loads(line)
        try:
            begun = driver.begin(command)
        except Exception as error:
            begun = failed(error)
        task = asyncio.create_task(driver.answer(command, begun))
        doing.add(task)
        task.add_done_callback(doing.discard)
    await asyncio.gather(*(client.chat.close() for client in driver.clients.values()))
    await asyncio.gather(*doing)


if __name__ == "__main__":
    tracemalloc.start()
    asyncio.run(main())
