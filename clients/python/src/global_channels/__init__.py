"""A client for global channels: chat and realtime rooms, exactly once and in order, through every reconnect.

async with connect("ws://127.0.0.1:3010", user="xialei") as chat:
    channel = chat.channel("garden")
    await channel.join()
    await channel.send({"content": "hello"})
    async for event in channel:
        print(event)
"""

from .channel import Channel
from .chat import Chat, connect
from .errors import ChatError
from .events import (
    Added,
    Body,
    Ephemeral,
    Join,
    Joined,
    Leave,
    LogEvent,
    Lost,
    LostReason,
    Message,
    Parted,
    Push,
    State,
    StateName,
    Typing,
    UserId,
)
from .membership import JoinResult
from .outbox import Sent, Stored
from .pages import Member
from .positions import Position
from .sockets import OpenSocket, Socket, SocketClosed, WebSocket, open_socket
from .storage import FileStorage, Storage
from .streams import Stream
from .tokens import GetToken

__all__ = [
    "Added",
    "Body",
    "Channel",
    "Chat",
    "ChatError",
    "Ephemeral",
    "FileStorage",
    "GetToken",
    "Join",
    "JoinResult",
    "Joined",
    "Leave",
    "LogEvent",
    "Lost",
    "LostReason",
    "Member",
    "Message",
    "OpenSocket",
    "Parted",
    "Position",
    "Push",
    "Sent",
    "Socket",
    "SocketClosed",
    "State",
    "StateName",
    "Storage",
    "Stored",
    "Stream",
    "Typing",
    "UserId",
    "WebSocket",
    "connect",
    "open_socket",
]
