"""`tide report --last`: a run that is over, as the daemon remembers it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

from torchtide import errors
from torchtide.cli.client import Daemon
from torchtide.cli.report_record import GONE, Recording

#: Between two looks of the daemon, while it remembers all of them.
_INTERVAL_S: Final = 1.0
_UNITS: Final = {"": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


def span_s(words: str) -> float:
    """Seconds of "90", "45m", "2h", "1d"; "all" is as far as the daemon remembers.

    Raises:
        OptionError: It is none of these, or not above 0.
    """
    if words == "all":
        return float("inf")
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd]?)", words)
    seconds = float(found[1]) * _UNITS[found[2]] if found else 0.0
    if seconds <= 0:
        raise errors.OptionError(
            "not a span of time",
            asked=f"--last {words}",
            advice="--last 30m, --last 2h, --last all",
        )
    return seconds


def remembered(daemon: Daemon, now: float, last_s: float) -> Recording:
    """The last `last_s` seconds as if they had been watched; `now` in Unix seconds."""
    since = max(now - last_s, 0.0)
    looks = list(_looks(daemon, since))
    recording = Recording(looks[0][0] if looks else now, _INTERVAL_S)
    for moment, status in looks:
        recording.add(moment, status)
    standing = daemon.query("status")
    recording.capacity = int(standing.get("capacity") or 0)
    jobs = standing.get("jobs", [])
    for number in recording.records:
        if number not in {int(job.get("id") or 0) for job in jobs if job.get("state") != GONE}:
            recording.records[number]["state"] = GONE
    recording.ended(jobs)
    return recording


def _looks(daemon: Daemon, since: float) -> Iterator[tuple[float, Mapping[str, Any]]]:
    """What the daemon has seen after `since`, as (Unix seconds, answer to `status`)."""
    after = int(since * 1000)
    while True:
        answer = daemon.query("history", since=after)
        names = {int(job["id"]): job for job in answer.get("jobs", [])}
        for moment, used, jobs in answer.get("samples", []):
            after = max(after, int(moment))
            records = [_record(names.get(int(job[0]), {}), job) for job in jobs]
            yield moment / 1000, {"used": used, "jobs": records}
        if not answer.get("more") or not answer.get("samples"):
            return


def _record(told: Mapping[str, Any], job: list[Any]) -> dict[str, Any]:
    number, state, memory, demoted, iterations = job
    return {
        "id": max(int(number), 0),
        "pid": max(-int(number), 0),
        "name": told.get("name", "?"),
        "script": told.get("script", ""),
        "state": state,
        "resident": memory,
        "demoted": demoted,
        "iterations": iterations,
    }


__all__ = ["remembered", "span_s"]
