"""What an application is told."""

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from .positions import Position

UserId = str | int
"""A user, in the type that the user's own client has used."""

Body = dict[str, Any]

StateName = Literal["connecting", "online", "away", "closed"]

LostReason = Literal["diverged", "trimmed", "unknown", "skipped", "gap", "overflow"]


@dataclass(frozen=True, slots=True)
class State:
    """The chat is in another state. `reason` and `message` say why it is away or closed.

    `retry_in_ms` is set while it is away: after this time it connects again.
    """

    type: ClassVar[Literal["state"]] = "state"
    state: StateName
    reason: str | None = None
    message: str | None = None
    retry_in_ms: int | None = None


@dataclass(frozen=True, slots=True)
class Push:
    """A back end has sent this to this user alone. It belongs to no channel, and is not repeated if it is lost."""

    type: ClassVar[Literal["push"]] = "push"
    route: str
    body: Body


@dataclass(frozen=True, slots=True)
class Added:
    """A back end, or the user's token, has made the user a member of this channel. Its `joined` and other events follow."""

    type: ClassVar[Literal["added"]] = "added"
    channel: str


@dataclass(frozen=True, slots=True)
class Message:
    """A message of a channel. `user_id` is None if a back end has sent it in nobody's name.

    `time` is when it was published, in milliseconds since 1970. The order is that of the offsets, not that of the times.
    """

    type: ClassVar[Literal["message"]] = "message"
    route: str
    body: Body
    user_id: UserId | None
    offset: int
    epoch: str
    time: int


@dataclass(frozen=True, slots=True)
class _Presence:
    """What joins and leaves have in common. `info` is what the user's token or a back end tells everybody about the user."""

    user_id: UserId | None
    info: Any
    offset: int
    epoch: str
    time: int


@dataclass(frozen=True, slots=True)
class Join(_Presence):
    """A user's first session has joined."""

    type: ClassVar[Literal["join"]] = "join"


@dataclass(frozen=True, slots=True)
class Leave(_Presence):
    """A user's last session has left."""

    type: ClassVar[Literal["leave"]] = "leave"


@dataclass(frozen=True, slots=True)
class Lost:
    """Something was not given to this client, or must be forgotten. Reload what you show.

    `reason` is `diverged` (forget what you were given after `to`), `trimmed` (what was missed is no longer kept),
    `unknown` (the log of the channel has begun again), `skipped` (the operator does not give it), `gap` (offsets are
    missing, and nobody has said why) or `overflow` (you read too slowly). Up to `from_`, and from `to` on, nothing is
    missing. Both are None if an async listener was too slow.
    """

    type: ClassVar[Literal["lost"]] = "lost"
    reason: LostReason
    from_: Position | None
    to: Position | None


@dataclass(frozen=True, slots=True)
class Ephemeral:
    """A message that is in no log, such as where a cursor is. It is given once or never."""

    type: ClassVar[Literal["ephemeral"]] = "ephemeral"
    route: str
    body: Body
    user_id: UserId | None
    time: int


@dataclass(frozen=True, slots=True)
class Typing:
    """A user has begun or ended to type."""

    type: ClassVar[Literal["typing"]] = "typing"
    user_id: UserId
    typing: bool


@dataclass(frozen=True, slots=True)
class Joined:
    """This client is a member, for the first time or again. `recovered`: nothing was missed in between."""

    type: ClassVar[Literal["joined"]] = "joined"
    position: Position
    recovered: bool


@dataclass(frozen=True, slots=True)
class Parted:
    """This client is no member any more: `REMOVED`, `DELETED`, or why the server did not let it come back."""

    type: ClassVar[Literal["parted"]] = "parted"
    reason: str
    message: str


LogEvent = Message | Join | Leave | Lost
"""What the iterator of a channel gives."""

REASONS: dict[str, LostReason] = {"diverged": "diverged", "trimmed": "trimmed", "unknown": "unknown", "skipped": "skipped"}


def lost(reason: str, from_: Position | None, to: Position | None) -> Lost:
    """The event for a reason of the server."""
    # A reason that this library does not know must not hide that something is missing.
    return Lost(REASONS.get(reason, "unknown"), from_, to)


def publication(route: str, body: Body, offset: int, epoch: str, time: int) -> Message | Join | Leave | None:
    """What a publication is to an application. None: it says nothing but that the channel was deleted."""
    user = body.get("userId")
    if route == "onJoin":
        return Join(user, body.get("info"), offset, epoch, time)
    if route == "onLeave":
        return Leave(user, body.get("info"), offset, epoch, time)
    return None if route == "onDeleted" else Message(route, body, user, offset, epoch, time)
