"""What goes wrong, as one type of error."""

from collections.abc import Mapping
from typing import Any

# Reasons that this library gives. All others come from the server, and docs/protocols/json.md lists them.
CLOSED = "CLOSED"
LOST = "LOST"
NO_ANSWER = "NO_ANSWER"
NO_TOKEN = "NO_TOKEN"
QUEUE_FULL = "QUEUE_FULL"
TOKEN_FAILED = "TOKEN_FAILED"
TOO_BIG = "TOO_BIG"
UNKNOWN = "UNKNOWN"
INVALID_BODY = "INVALID_BODY"
LEFT = "LEFT"
NOT_JOINED = "NOT_JOINED"


class ChatError(Exception):
    """A request was refused, or could not be finished.

    Decide by `reason`, which never changes its meaning. `message` is for people and may change. `retry` is true if the
    same request may succeed later. `code` is that of the server's answer, and None if this library has refused.
    `details` is the whole answer of the server: a login that is refused with `BLOCKED` has `until` there.
    """

    def __init__(
        self,
        reason: str,
        message: str,
        *,
        code: int | None = None,
        retry: bool = False,
        details: Mapping[str, Any] | None = None,
    ) -> None:
        """Is made by the library."""
        super().__init__(reason, message)
        self.reason = reason
        self.message = message
        self.code = code
        self.retry = retry
        self.details: Mapping[str, Any] = details or {}

    def __str__(self) -> str:
        """For people: the reason and the message."""
        return f"{self.reason}: {self.message}"

    def again(self) -> "ChatError":
        """The same error, to be raised once more. Raised twice, one error would hold the frames of both."""
        return ChatError(self.reason, self.message, code=self.code, retry=self.retry, details=self.details)

    @property
    def retry_after(self) -> float:
        """How many seconds the server asks to wait before the same request is repeated."""
        pause = self.details.get("retryAfterMs")
        return pause / 1000 if isinstance(pause, (int, float)) and pause > 0 else 0.0


class ConnectionEndedError(ChatError):
    """The connection ended before a request was answered, so the request may have been carried out."""

    def __init__(self) -> None:
        """Is made by the library."""
        super().__init__(UNKNOWN, "The connection ended before the answer came, so this may have been done.", retry=True)


def refusal(body: Mapping[str, Any]) -> ChatError:
    """The error for an answer whose `code` is not 0."""
    code = body.get("code")
    return ChatError(
        str(body.get("reason") or "REFUSED"),
        str(body.get("message") or "The request was refused."),
        code=code if isinstance(code, int) else None,
        retry=body.get("retry") is True,
        details=body,
    )
