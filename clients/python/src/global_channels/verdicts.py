"""What to do after a login was refused or a connection has ended: connect again, or stop."""

from dataclasses import dataclass

from .connection import End
from .errors import ChatError

TOKEN_REFUSED = frozenset({"TOKEN_INVALID", "TOKEN_EXPIRED", "TOKEN_REVOKED"})

TOKEN_ENDED = frozenset({"token expired", "token revoked"})

USER_LOGGED_IN = "USER_LOGGED_IN"

# The close codes after which a client must not connect again by itself. The server says the same in onKick, which comes
# before, but a network may lose that.
FINAL_CODES = frozenset({4004, 4005, 4006, 4007, 4008, 4010, 4012, 4015, 4017, 4019, 4020})


@dataclass(frozen=True, slots=True)
class Again:
    """Connect again, but not before `pause` seconds are over. `needs_token`: with a new token, which is the last try."""

    reason: str
    message: str
    pause: float = 0.0
    needs_token: bool = False


@dataclass(frozen=True, slots=True)
class Stop:
    """Do not connect again."""

    error: ChatError


def of_refused_login(error: ChatError, *, was_in: bool) -> Again | Stop:
    """`was_in`: a session of ours may be what is still logged in."""
    # If we never were in, somebody else is in under this name. Trying until they leave would take their name.
    if not error.retry or (error.reason == USER_LOGGED_IN and not was_in):
        return Stop(error)
    return Again(error.reason, error.message, error.retry_after)


def of_end(end: End, *, has_tokens: bool) -> Again | Stop:
    """`has_tokens`: the application can give another token."""
    kick = end.kick or {}
    is_final = kick.get("reconnect") is False if end.kick is not None else end.code in FINAL_CODES
    if not is_final:
        pause = kick.get("reconnectAfterMs")
        return Again(end.reason, end.message, pause / 1000 if isinstance(pause, (int, float)) else 0.0)
    if end.reason in TOKEN_ENDED and has_tokens:
        return Again(end.reason, end.message, needs_token=True)
    return Stop(ChatError(end.reason, end.message, details=kick))
