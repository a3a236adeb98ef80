"""A job of the cluster that is carried to other nodes: saved, ended and started again there.

The coordinator moves the grant, this moves the command. It asks every other second where the job
is and where it is to go. When that is elsewhere, the command gets SIGTERM, which a job under
`tide run --on-signal TERM=save-and-end` answers with a checkpoint and an end with 143. Then the
same command is started with the new TIDE_NODES.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final, TypeVar

from torchtide import errors
from torchtide.cli.client import Daemon, open_daemon
from torchtide.cli.edges import Edges

_POLL_S: Final = 2.0
_RETRY_S: Final = 0.5
#: How long a daemon may be away: it is started anew, or its link comes back.
_PATIENCE_S: Final = 600.0
#: Starts in a row that came to nothing, after which the job has failed.
_FAILED_STARTS_MAX: Final = 2
_T = TypeVar("_T")


@dataclasses.dataclass(frozen=True)
class Leaving:
    """How a movable job leaves.

    Attributes:
        within_s: Seconds from SIGTERM to its end; from 1 to 600, which is below what the
            coordinator waits for.
        code: What it ends with when it has saved.
    """

    within_s: float = 300.0
    code: int = 143


def nodes_text(nodes: Mapping[str, int]) -> str:
    """As TIDE_NODES has them: "m1:2,m2:1"."""
    return ",".join(f"{node}:{devices}" for node, devices in nodes.items())


def start(command: Sequence[str], environ: Mapping[str, str]) -> subprocess.Popen[bytes]:
    """Starts the user's command.

    Raises:
        OptionError: It cannot be started.
    """
    try:
        return subprocess.Popen(list(command), env=dict(environ))
    except OSError as error:
        raise errors.OptionError(
            f"{command[0]} cannot be started: {error.strerror}", advice="check the command"
        ) from error


@contextlib.contextmanager
def passing_signals(process: subprocess.Popen[bytes]) -> Iterator[list[int]]:
    """SIGINT and SIGTERM go to the command, which ends by them or not; gives those that came."""
    came: list[int] = []

    def forward(number: int, _frame: object) -> None:
        came.append(number)
        with contextlib.suppress(ProcessLookupError):
            os.kill(process.pid, number)

    before = {number: signal.signal(number, forward) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield came
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def ending_by_sigterm() -> Iterator[None]:
    """SIGTERM while nothing of the job runs is an exception, so that its devices are given back."""

    def end(number: int, _frame: object) -> None:
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def patiently(
    edges: Edges, ask: Callable[[Daemon], _T], wait: Callable[[float], None], what: str
) -> _T:
    """The answer of a daemon that may be away for a while.

    Raises:
        TideError: Another error than that it is away; or it stays away for ten minutes.
    """
    waited_s = 0.0
    while True:
        try:
            with open_daemon(edges.connect) as daemon:
                return ask(daemon)
        except errors.TideError as error:
            if not _is_away(error) or waited_s >= _PATIENCE_S:
                raise
            if waited_s == 0:
                print(f"{what} waits for the daemon: {error}", flush=True)
        wait(_RETRY_S)
        waited_s += _RETRY_S


def _is_away(error: errors.TideError) -> bool:
    """Whether nothing was wrong with the question: no daemon, no link, no answer in time."""
    return type(error) is errors.TideError or isinstance(
        error, errors.DaemonUnavailable | errors.SuspendTimeout
    )


@dataclasses.dataclass
class _End:
    """How the command ended."""

    code: int
    left: bool  # asked to, and with what says that it has saved
    why: str = ""
    asked: float = 0.0  # when, on the monotonic clock
    interrupted: bool = False  # by a signal of the user's


class Carrier:
    """A movable job from its grant to its end; one process of the command lives at a time."""

    def __init__(
        self,
        edges: Edges,
        name: str,
        leaving: Leaving,
        command: Sequence[str],
        wait: Callable[[float], None] = time.sleep,
    ) -> None:
        self._edges = edges
        self._name = name
        self._leaving = leaving
        self._command = command
        self._wait = wait
        self._silent = False

    def run(self) -> int:
        """Runs the command until it ends by itself, wherever that is; its code.

        Raises:
            OptionError: It cannot be started at all.
            TideError: The cluster does not know the job any more, or its daemon stays away.
        """
        starts = failed = 0
        end: _End | None = None
        before: dict[str, int] = {}
        while True:
            here = self._granted()
            nodes: dict[str, int] = here["nodes"]
            starts += 1
            process = start(
                self._command,
                {
                    **self._edges.environ,
                    "TIDE_JOB_NAME": self._name,
                    "TIDE_NODES": nodes_text(nodes),
                    "TIDE_STARTS": str(starts),
                },
            )
            self._tell_start(before, nodes, end)
            end, before = self._watch(process, here), nodes
            if end.left:
                failed = 0
                self._say("left")
                continue
            failed += 1
            if failed >= _FAILED_STARTS_MAX or not self._goes_on(end, here, starts == 1):
                return end.code

    def _tell_start(
        self, before: Mapping[str, int], nodes: Mapping[str, int], end: _End | None
    ) -> None:
        if end is None:
            print(f"{self._name} runs on {nodes_text(nodes)}", flush=True)
        elif not end.left:
            print(f"{self._name} is started again on {nodes_text(nodes)}", flush=True)
        else:
            took_s = time.monotonic() - end.asked
            print(
                f"{self._name} moved from {nodes_text(before)} to {nodes_text(nodes)} in "
                f"{took_s:.1f} s: {end.why}",
                flush=True,
            )

    def _watch(self, process: subprocess.Popen[bytes], here: Mapping[str, Any]) -> _End:
        """Waits for the end of the command, and asks it to leave when it is to be elsewhere."""
        why, asked, given_up = "", 0.0, False
        with passing_signals(process) as came:
            while True:
                try:
                    code = process.wait(_POLL_S)
                except subprocess.TimeoutExpired:
                    if not why and not came:
                        why, asked = self._why_leave(here), time.monotonic()
                        if why:
                            process.send_signal(signal.SIGTERM)
                    elif why and not given_up and time.monotonic() - asked > self._leaving.within_s:
                        given_up = self._give_up()
                    continue
                code = code if code >= 0 else 128 - code
                left = bool(why) and not came and code == self._leaving.code
                return _End(code, left, why, asked, bool(came))

    def _why_leave(self, here: Mapping[str, Any]) -> str:
        """Why the command is not to stay where it is; empty: it may."""
        try:
            with open_daemon(self._edges.connect) as daemon:
                now = daemon.query("placement", job=self._name)
        except errors.TideError as error:
            if not self._silent:
                print(f"{self._name} goes on where it is: {error}", flush=True)
            self._silent = True
            return ""
        self._silent = False
        nodes, why = now.get("nodes", {}), str(now.get("text", ""))
        if now.get("move"):
            nodes, why = now["move"]["nodes"], str(now["move"]["reason"])
        elif now.get("state") != "running":
            return ""  # paused where it is: it may yet go on there
        if nodes == here["nodes"]:
            return ""
        print(
            f"{self._name} is to go from {nodes_text(here['nodes'])} to {nodes_text(nodes)}: it is "
            f"asked to save and end ({why})",
            flush=True,
        )
        return why

    def _give_up(self) -> bool:
        """It did not end in time: the coordinator lets it be where it is, if that is possible."""
        seconds = self._leaving.within_s
        why = f"it has not ended {seconds:g} s after it was asked to"
        try:
            with open_daemon(self._edges.connect) as daemon:
                self._ask_move(daemon, "stays", why, 0)
        except errors.TideError:
            return False  # once more at the next look
        print(
            f"{self._name} stays where it is: {why}; when it ends with {self._leaving.code} it is "
            "started again where it is granted",
            flush=True,
        )
        return True

    def _goes_on(self, end: _End, here: Mapping[str, Any], first: bool) -> bool:
        """Whether an end with an error is not the job's.

        Its devices had been taken away, as those of a machine that is lost; or a start elsewhere
        came to nothing, which the coordinator is told.
        """
        if end.code == 0 or end.why or end.interrupted:
            return False
        why = f"the command ended there with {end.code} and no iteration"
        try:
            now = self._patiently(lambda daemon: daemon.query("placement", job=self._name))
            if now.get("state") != "running" or now.get("nodes") != here["nodes"]:
                print(
                    f"{self._name} ended with {end.code} when its devices had been taken away: it "
                    f"goes on from its last checkpoint ({now.get('text', '')})",
                    flush=True,
                )
                return True
            if first or now.get("reports") != here.get("reports"):
                return False
            self._say("failed", why, int(here.get("revision", 0)))
        except errors.TideError:
            return False
        nodes = nodes_text(here["nodes"])
        print(f"{self._name} could not be started on {nodes}: {why}", flush=True)
        return True

    def _granted(self) -> dict[str, Any]:
        """Waits until the job holds devices; nothing of it runs meanwhile."""
        last = ""
        while True:
            now = self._patiently(lambda daemon: daemon.query("placement", job=self._name))
            if now.get("state") == "running":
                return self._say("left") if now.get("away") else now
            reason = str(now.get("text", ""))
            if reason != last:
                print(reason, flush=True)
            last = reason
            self._wait(_RETRY_S)

    def _say(self, step: str, why: str = "", revision: int = 0) -> dict[str, Any]:
        return self._patiently(lambda daemon: self._ask_move(daemon, step, why, revision))

    def _ask_move(self, daemon: Daemon, step: str, why: str, revision: int) -> dict[str, Any]:
        fields = {"key": self._name, "step": step, "reason": why, "revision": revision}
        return daemon.ask("Move", fields)

    def _patiently(self, ask: Callable[[Daemon], _T]) -> _T:
        return patiently(self._edges, ask, self._wait, self._name)
