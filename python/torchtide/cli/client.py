"""Questions and commands to the daemon, one typed answer each (docs/reference/protocol.md)."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, Protocol, TypeAlias

from torchtide import _launch, errors
from torchtide.cli import core

#: An answer from memory takes well under a millisecond; this is for a machine that swaps.
ANSWER_TIMEOUT_S: Final = 5.0
NO_DAEMON: Final = "no daemon is running"
START_ONE: Final = "`tide run -- python train.py` starts one"


class Client(Protocol):
    """One connection, as `torchtide._core.Client` gives it."""

    def request(self, kind: str, body: bytes, timeout_s: float) -> tuple[str, bytes]:
        """Sends one frame and waits for its answer."""

    def next(self, timeout_s: float) -> tuple[str, bytes] | None:
        """The next frame that follows an answered question, or None when there was none in time."""

    def close(self) -> None:
        """Ends the connection; safe to call twice."""


#: Opens a connection to (socket path, seconds that it may take).
Connect: TypeAlias = Callable[[str, float], Client]


def connect_core(path: str, timeout_s: float) -> Client:
    """Connects to the daemon that listens on `path`.

    Raises:
        DaemonUnavailable: Nothing listens there.
        NotPermitted: It is another user's.
    """
    if not _launch.daemon_answers(Path(path)):
        raise errors.DaemonUnavailable(NO_DAEMON, advice=START_ONE)
    client: Client = core.module().Client(path, timeout_s)
    return client


class Daemon:
    """A connection with the words of the protocol."""

    def __init__(self, client: Client, timeout_s: float = ANSWER_TIMEOUT_S) -> None:
        self._client = client
        self._timeout_s = timeout_s

    def query(self, what: str, **fields: Any) -> dict[str, Any]:
        """Data of the answer to a Query. Raises the `TideError` that the answer stands for."""
        return self._ask("Query", {"what": what, **fields})

    def command(self, what: str, **fields: Any) -> dict[str, Any]:
        """Data of the answer to a Command. Raises the `TideError` that the answer stands for."""
        return self._ask("Command", {"what": what, **fields})

    def ask(self, kind: str, fields: dict[str, Any]) -> dict[str, Any]:
        """Data of the answer to a frame of another kind. Raises as `query`."""
        return self._ask(kind, fields)

    def followed(self, timeout_s: float) -> dict[str, Any] | None:
        """The next event after a query with `follow`, or None when there was none in time."""
        with _told():
            frame = self._client.next(timeout_s)
        return None if frame is None else _unpack(frame[1])

    def _ask(self, kind: str, body: dict[str, Any]) -> dict[str, Any]:
        import msgpack

        with _told():
            answered, packed = self._client.request(kind, msgpack.packb(body), self._timeout_s)
        if answered != "Answer":
            raise errors.ProtocolError(
                f"the daemon answered with {answered}", advice="upgrade tide and restart the daemon"
            )
        answer = _unpack(packed)
        data = answer.get("data")
        data = data if isinstance(data, dict) else {}
        if not answer.get("ok"):
            raise errors.from_answer({"parts": data.get("parts"), **(answer.get("error") or {})})
        return data


@contextmanager
def open_daemon(connect: Connect, timeout_s: float = ANSWER_TIMEOUT_S) -> Iterator[Daemon]:
    """A connection to the daemon of this user's runtime directory, closed at the end.

    Args:
        connect: Opens it.
        timeout_s: Seconds that one answer may take.

    Raises:
        DaemonUnavailable: None is running, or it went away meanwhile.
        NotPermitted: The socket is another user's.
    """
    path = _launch.socket_path(core.runtime_dir())
    with _told():
        client = connect(str(path), ANSWER_TIMEOUT_S)
    try:
        yield Daemon(client, timeout_s)
    finally:
        client.close()


@contextmanager
def suggesting(daemon: Daemon, job: str) -> Iterator[None]:
    """Adds the names that are close to `job` when the daemon knows no such job."""
    try:
        yield
    except errors.NoSuchJob as error:
        jobs = daemon.query("ps").get("jobs", [])
        if any(job in (record.get("name"), str(record.get("id"))) for record in jobs):
            error.available = f"{job} has ended"
            error.advice = f"`tide explain {job}` says how; `tide ps` lists the jobs"
            raise
        names = [str(record.get("name", "")) for record in jobs]
        error.available = f'no job is called "{job}"' + known_jobs(job, names)
        error.advice = "`tide ps` lists the jobs"
        raise


def known_jobs(job: str, names: Sequence[str]) -> str:
    """The second half of "no job is called X": close names, or those there are."""
    close = difflib.get_close_matches(job, names, n=3, cutoff=0.5)
    if close:
        return "; did you mean " + " or ".join(close) + "?"
    if names:
        return "; there are " + ", ".join(names[:8]) + (", ..." if len(names) > 8 else "")
    return "; there is none at all"


@contextmanager
def _told() -> Iterator[None]:
    """Exceptions of the binding as ours, with what to do about them."""
    try:
        yield
    except errors.TideError:
        raise
    except PermissionError as error:
        raise errors.NotPermitted(str(error), advice="`tide doctor` says whose it is") from error
    except TimeoutError as error:
        raise errors.SuspendTimeout(
            f"the daemon did not answer in time: {error}",
            advice="`tide doctor`; jobs train on without it",
        ) from error
    except Exception as error:
        if type(error).__name__ == "ProtocolError":
            raise errors.ProtocolError(
                str(error), advice="tide and the daemon differ: `tide shutdown`, then start again"
            ) from error
        if isinstance(error, OSError) or type(error).__name__ == "DaemonUnavailable":
            raise errors.DaemonUnavailable(
                f"the daemon went away: {error}",
                advice="jobs train on with their last limits; the next `tide run` starts a new one",
            ) from error
        raise


def _unpack(packed: bytes) -> dict[str, Any]:
    import msgpack

    try:
        body = msgpack.unpackb(packed, unicode_errors="replace", strict_map_key=True)
    except ValueError as error:
        raise errors.ProtocolError(f"unreadable answer: {error}") from error
    if not isinstance(body, dict):
        raise errors.ProtocolError(f"an answer that is no map but {type(body).__name__}")
    return body
