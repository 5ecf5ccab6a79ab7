"""A bot for one channel: it answers !help, !who and !last N, and greets whoever joins."""

import asyncio
import os
import re
import signal
import sys
from contextlib import suppress

from global_channels import Channel, ChatError, FileStorage, Join, Lost, Message, Position, State, connect

CHAT_URL = os.environ.get("CHAT_URL", "http://127.0.0.1:3010")
CHANNEL = os.environ.get("CHANNEL", "lobby")
BOT = os.environ.get("BOT", "python-bot")
FOLDER = os.environ.get("FOLDER", ".")

MOST_CHARACTERS = 200  # of a line. Two bots may repeat each other, so an answer must not hold the whole of others


async def last(channel: Channel, asked: Message, most: int) -> str:
    """The messages before this one, the newest at the end."""
    lines: list[str] = []
    async for event in channel.history(from_=Position(asked.epoch, asked.offset)):
        if isinstance(event, Message):
            line = f"{event.user_id or 'the server'}: {event.body.get('content')}"
            lines.insert(0, line[:MOST_CHARACTERS])
        if len(lines) == most:
            break
    return "\n".join(lines) or "Nothing was said before."


async def answer(channel: Channel, message: Message) -> str | None:
    """What to say to a message. None: nothing."""
    command = re.match(r"!(help|who|last)\b\s*(\d*)", str(message.body.get("content")))
    match command and command[1]:
        case "help":
            return "I answer !help, !who and !last N."
        case "who":
            return f"Here are {', '.join(member.user_id for member in await channel.members())}."
        case "last" if command:
            return await last(channel, message, min(int(command[2] or 0) or 5, 20))
    return None


async def follow(channel: Channel) -> None:
    """Answers and greets until the chat is closed, or the bot is not in the channel any more."""
    events = aiter(channel)  # Before the join, so that nothing comes in between.
    await channel.join()
    print(f"{BOT} is in {CHANNEL}.", flush=True)
    async for event in events:
        text = None
        try:
            match event:
                case Lost(reason):
                    print(f"lost ({reason}): I was not given all messages, so I may not have answered some.", file=sys.stderr)
                case Message(user_id=user) if user != BOT:
                    text = await answer(channel, event)
                case Join(user_id=user) if user != BOT:
                    text = f"Welcome, {user}! Say !help to see what I can do."
            if text:
                await channel.send({"content": text})
        except ChatError as error:
            print(f"not answered: {error}", file=sys.stderr)


def tell(state: State) -> None:
    """Says how the connection is."""
    print(state.state, state.reason or "", file=sys.stderr)


async def main() -> None:
    """Runs the bot until SIGINT or SIGTERM."""
    task = asyncio.current_task()
    assert task
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, task.cancel)
    with suppress(asyncio.CancelledError):
        async with connect(CHAT_URL, user=BOT, storage=FileStorage(f"{FOLDER}/python-bot.json")) as chat:
            chat.on("state", tell)
            try:
                await follow(chat.channel(CHANNEL))
            except ChatError as error:
                sys.exit(f"I was not let in: {error}")
            sys.exit("I am out of the channel.")


if __name__ == "__main__":
    asyncio.run(main())
