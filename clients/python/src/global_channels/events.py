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
class Join:
    """A user's first session has joined. `info` is what the user's token or a back end tells everybody."""

    type: ClassVar[Literal["join"]] = "join"
    user_id: UserId | None
    info: Any
    offset: int
    epoch: str
    time: int


@dataclass(frozen=True, slots=True)
class Leave:
    """A user's last session has left."""

    type: ClassVar[Literal["leave"]] = "leave"
    user_id: UserId | None
    info: Any
    offset: int
    epoch: str
    time: int


@dataclass(frozen=True, slots=True)
class Lost:
    """Something was not given to this client, or must be forgotten. Reload what you show.

    `reason` is `diverged` (forget what you were given after `to`), `trimmed` (what was missed is no longer kept),
    `unknown` (the log of the channel has begun again), `skipped` (the operator does not give it), `gap` (offsets are
    missing, and nobody has said why) or `overflow` (you read too slowly). `from_` is the position before and `to` the
    one now. Both are None for an overflow.
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


@dataclass(frozen=True, slots=True)
class Moved:
    """The position in the log is this one now. All that was before it was told."""

    type: ClassVar[Literal["position"]] = "position"
    position: Position


ChatEvent = State | Push

LogEvent = Message | Join | Leave | Lost
"""What the iterator of a channel gives."""

ChannelEvent = LogEvent | Ephemeral | Typing | Joined | Parted | Moved
