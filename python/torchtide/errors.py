"""Exceptions of torchtide: each says what was asked, what is available and what to do.

Importing this module never imports torch. `OutOfMemory` is `torch.OutOfMemoryError`, looked up when
somebody asks for it.
"""
# ruff: noqa: N818  (the names are those of the docs: what happened, without "Error")

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

__all__ = [
    "DaemonUnavailable",
    "LimitConflict",
    "NoSuchJob",
    "NotPermitted",
    "OptionError",
    "OutOfMemory",
    "ProtocolError",
    "ResizeAborted",
    "SpillFull",
    "Stale",
    "SuspendTimeout",
    "TideError",
    "from_answer",
]


class TideError(Exception):
    """Base of every error that torchtide raises on purpose.

    Attributes:
        asked: What was asked for, in the words of the caller ("limit train 200MiB").
        available: What there is instead, with units ("train needs at least 1.2 GiB").
        advice: The command or change that helps.
        parts: Sizes in bytes that make up the figure in `available`; empty when there are none.
    """

    def __init__(
        self,
        available: str = "",
        *,
        asked: str = "",
        advice: str = "",
        parts: Mapping[str, int] | None = None,
    ) -> None:
        super().__init__(available)
        self.asked = asked
        self.available = available
        self.advice = advice
        self.parts: dict[str, int] = dict(parts or {})

    def __str__(self) -> str:
        told = f"{self.asked}: {self.available}" if self.asked else self.available
        return f"{told}; {self.advice}" if self.advice else told

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), self.available, self.asked, self.advice, self.parts)


class OptionError(TideError, ValueError):
    """An option, argument or file that cannot be used: unknown, unreadable or out of range."""


class NoSuchJob(TideError, LookupError):
    """No job of that name or number is known to the daemon."""


class DaemonUnavailable(TideError, ConnectionError):
    """No daemon answers, it cannot be started, or it went away in the middle of an answer."""


class NotPermitted(TideError, PermissionError):
    """The socket, folder or job belongs to somebody else."""


class LimitConflict(TideError):
    """A limit below what the job cannot run without; the old one stays. `parts` says why."""


class SuspendTimeout(TideError, TimeoutError):
    """A job did not reach a boundary in time; it goes on as if nothing had been asked."""


class ResizeAborted(TideError):
    """A change of workers was undone; the job goes on with the workers it had."""


class SpillFull(TideError):
    """The disk that takes demoted pages has no room; nothing was moved."""


class Stale(TideError):
    """A newer request overtook this one; nothing of it was applied."""


class ProtocolError(TideError):
    """The other side of the socket sent what this version cannot read."""


if TYPE_CHECKING:
    #: `torch.OutOfMemoryError` itself: what an operator raises when an allocation found no memory
    #: after everything that could give some was asked. Its message says who holds what.
    OutOfMemory = RuntimeError


#: Error codes of docs/reference/protocol.md and their exceptions; others are `TideError`.
_BY_CODE: dict[str, type[TideError]] = {
    "conflict": LimitConflict,
    "invalid": OptionError,
    "not_found": NoSuchJob,
    "not_permitted": NotPermitted,
    "protocol": ProtocolError,
    "spill_full": SpillFull,
    "stale": Stale,
    "timeout": SuspendTimeout,
    "version": ProtocolError,
}


def from_answer(error: Mapping[str, Any], asked: str = "") -> TideError:
    """The exception for the `error` map of an Answer.

    Args:
        error: `{code, message, advice, parts?}` as the daemon sent it.
        asked: What the caller had asked for, in its own words.

    Returns:
        The exception, not raised.
    """
    kind = _BY_CODE.get(str(error.get("code", "")), TideError)
    parts = error.get("parts")
    return kind(
        str(error.get("message") or "the daemon gave no reason"),
        asked=asked,
        advice=str(error.get("advice") or ""),
        parts=parts if isinstance(parts, Mapping) else None,
    )


def _rebuild(
    kind: type[TideError], available: str, asked: str, advice: str, parts: dict[str, int]
) -> TideError:
    """Counterpart of `TideError.__reduce__`: exceptions travel between processes."""
    return kind(available, asked=asked, advice=advice, parts=parts)


def __getattr__(name: str) -> Any:
    if name != "OutOfMemory":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import torch

    return torch.OutOfMemoryError
