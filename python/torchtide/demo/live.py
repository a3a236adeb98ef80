"""What tide says about the running jobs, in the few words that the quickstart shows."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

#: The answer of the daemon to the question "status" (docs/reference/protocol.md).
Status: TypeAlias = Mapping[str, Any]
Ask: TypeAlias = Callable[[], Status]


@dataclass(frozen=True)
class JobLine:
    """One job as the daemon sees it."""

    name: str
    state: str
    turn: bool
    resident_bytes: int
    demoted_bytes: int
    scratch_bytes: int
    iterations: int
    steps_per_s: float


@dataclass(frozen=True)
class Snapshot:
    """The device at one moment."""

    capacity_bytes: int
    used_bytes: int
    handovers: int
    holder: str
    jobs: list[JobLine]

    @property
    def demoted_bytes(self) -> int:
        """What all jobs together have in a slower tier."""
        return sum(job.demoted_bytes for job in self.jobs)


def ask_daemon() -> Status:
    """The status of this user's daemon. Raises what `torchtide.cli.client` does."""
    from torchtide.cli.client import connect_core, open_daemon

    with open_daemon(connect_core, timeout_s=1.0) as daemon:
        return daemon.query("status")


@dataclass
class LiveStatus:
    """Asks again and again, and remembers the most that was seen."""

    ask: Ask = ask_daemon
    peak_used_bytes: int = 0
    peak_demoted_bytes: int = 0
    handovers: int = 0
    turns: list[tuple[float, str]] = field(default_factory=list)
    used: list[tuple[float, int]] = field(default_factory=list)
    iterations: dict[str, int] = field(default_factory=dict)
    last: Snapshot | None = None
    last_error: str = ""

    def look(self, seconds: float) -> Snapshot | None:
        """The device now, or None while no daemon answers.

        Args:
            seconds: The time to note turn and use with.
        """
        try:
            snapshot = parse(self.ask())
        except Exception as error:  # the demonstration goes on without its table
            self.last_error = f"{type(error).__name__}: {error}"
            return None
        self.peak_used_bytes = max(self.peak_used_bytes, snapshot.used_bytes)
        self.peak_demoted_bytes = max(self.peak_demoted_bytes, snapshot.demoted_bytes)
        self.handovers = max(self.handovers, snapshot.handovers)
        if not self.turns or self.turns[-1][1] != snapshot.holder:
            self.turns.append((seconds, snapshot.holder))
        self.used.append((seconds, snapshot.used_bytes))
        for job in snapshot.jobs:  # a job that has ended is told with 0 iterations
            self.iterations[job.name] = max(job.iterations, self.iterations.get(job.name, 0))
        kept = [replace(job, iterations=self.iterations[job.name]) for job in snapshot.jobs]
        self.last = replace(snapshot, jobs=kept)
        return self.last


def parse(status: Status) -> Snapshot:
    """The few fields that are shown, out of an answer; a field that is missing counts as empty."""
    jobs = [_job(record) for record in status.get("jobs") or []]
    lanes = status.get("lanes") or []
    holders = [job.name for job in jobs if job.turn]
    return Snapshot(
        capacity_bytes=int(status.get("capacity") or 0),
        used_bytes=int(status.get("used") or 0),
        handovers=sum(int(lane.get("handovers") or 0) for lane in lanes),
        holder=holders[0] if holders else "",
        jobs=jobs,
    )


def _job(record: Mapping[str, Any]) -> JobLine:
    return JobLine(
        name=str(record.get("name") or "?"),
        state=str(record.get("state") or "?"),
        turn=bool(record.get("turn")),
        resident_bytes=int(record.get("resident") or 0),
        demoted_bytes=int(record.get("demoted") or 0),
        scratch_bytes=int(record.get("scratch_peak") or 0),
        iterations=int(record.get("iterations") or 0),
        steps_per_s=float(record.get("steps_per_s") or 0.0),
    )
