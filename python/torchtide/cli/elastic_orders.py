"""`tide pause`, `resume`, `limit` and `explain` of an elastic job: all of its processes as one job.

The wish lies in the memory that the processes share; each follows it at the same boundary and says
so there. No daemon is needed.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from typing import Any, Final

from torchtide.cli import core, elastic, text
from torchtide.errors import LimitConflict, NoSuchJob, OptionError, Stale, SuspendTimeout, TideError

_TICK_S: Final = 0.1
_PROCESS: Final = re.compile(r"(.+)\[\d+\]$")


class ElasticJob:
    """A running elastic job, seen from another terminal."""

    def __init__(self, name: str, group: Any) -> None:
        """Use `find`."""
        self.name = name
        self._group = group

    def report(self) -> dict[str, Any]:
        """What the job says of itself."""
        found: dict[str, Any] = self._group.report()
        return found

    def pause(self, timeout_s: float) -> dict[str, Any]:
        """Pauses all processes before the same step; undone when they are not there in time.

        Raises:
            SuspendTimeout: The job did not come to a boundary in time; it goes on.
            TideError: The training ended first.
        """
        begin = time.monotonic()
        if _all_paused(self.report()):
            return {"job": self.name, "status": "already_paused", "took_ms": 0.0}
        self._wish(True, "pause")

        def late() -> None:
            self._group.pause(False)
            raise SuspendTimeout(
                f"it came to no boundary within {timeout_s:g} s, and goes on",
                asked=f"tide pause {self.name}",
                advice=f"`tide pause {self.name} --timeout 300`",
            )

        report = self._await(_all_paused, timeout_s, late, "pause")
        if not report["pausing"]:
            raise Stale("it was resumed meanwhile", asked=f"tide pause {self.name}")
        return self._told("done", begin, report)

    def resume(self, timeout_s: float) -> dict[str, Any]:
        """Lets all processes go on.

        Raises:
            SuspendTimeout: One of them did not in time; it does when it can.
        """
        begin = time.monotonic()
        before = self.report()
        if not before["pausing"]:
            return {"job": self.name, "status": "already_running", "took_ms": 0.0}
        self._wish(False, "resume")

        def late() -> None:
            raise SuspendTimeout(
                f"not all of its processes go on after {timeout_s:g} s",
                asked=f"tide resume {self.name}",
                advice=f"`tide explain {self.name}`",
            )

        report = self._await(_none_paused, timeout_s, late, "resume")
        return self._told("done", begin, report)

    def limit(self, total: int, timeout_s: float) -> dict[str, Any]:
        """Divides `total` bytes (0: no limit) equally among the processes, now and after resizes.

        Raises:
            LimitConflict: A process cannot run with its part; the limit before holds again.
            Stale: Another limit came later.
        """
        begin, before = time.monotonic(), self.report()
        asked = f"tide limit {self.name} {core.format_bytes(total) if total else 'none'}"
        word = self._limit_word(total, asked)
        pending: list[bool] = []
        report = self._await(
            lambda found: found["limit_word"] != word or _followed(found, word),
            timeout_s,
            lambda: pending.append(True),
            "limit",
        )
        if report["limit_word"] != word:
            raise Stale("a newer limit overtook this one", asked=asked)
        reasons = [m["limit_smallest"] for m in report["members"] if m["limit_done"] == word]
        if any(reason is None or reason > 0 for reason in reasons):
            self._group.limit(int(before["limit"]))
            raise self._refused(reasons, asked)
        processes = max(1, len(report["members"]))
        return {
            **self._told("pending" if pending else "applied", begin, report),
            "limit": int(report["limit"]),
            "previous": int(before["limit"]),
            "share": int(report["limit"]) // processes,
            "processes": processes,
            "moved_bytes": sum(int(m["limit_moved"]) for m in report["members"]),
        }

    def explain(self) -> list[str]:
        """Sentences about the job as a whole."""
        report = self.report()
        count = len(report["pids"])
        lines = [
            f"{self.name} is an elastic job: {report['workers']} logical workers in {count} "
            f"process{'' if count == 1 else 'es'} (between {report['low']} and {report['high']} "
            f"allowed), {report['steps']} steps done"
        ]
        if report["workers"] and count:
            _, factor, reason = core.module().elastic_plan(report["workers"], count)
            lines.append(
                f"divided so that {reason}; {factor:g} bytes exported for one of plain DDP"
            )
        if report["target"] != count:
            lines.append(
                f"{report['target']} processes are wanted since `tide resize`; the change comes "
                "when the new ones stand by, at the next step"
            )
        if _all_paused(report):
            lines.append(
                f"all processes wait before step {report['steps'] + 1}, paused by `tide pause`; "
                f"do: tide resume {self.name}"
            )
        elif report["pausing"]:
            lines.append("a pause was asked for; it takes effect when the step under way is done")
        if report["limit"] and count:
            share = core.format_bytes(report["limit"] // count)
            lines.append(f"limit {core.format_bytes(report['limit'])}: {share} for each process")
        return lines

    # --------------------------------------------------------------------------------------------

    def _wish(self, wanted: bool, what: str) -> None:
        try:
            self._group.pause(wanted)
        except RuntimeError as error:
            raise TideError(str(error), asked=f"tide {what} {self.name}") from error

    def _limit_word(self, total: int, asked: str) -> int:
        try:
            return int(self._group.limit(total))
        except ValueError as error:
            raise OptionError(str(error), asked=asked) from error
        except RuntimeError as error:
            raise TideError(str(error), asked=asked) from error

    def _refused(self, reasons: list[int | None], asked: str) -> TideError:
        if None in reasons:
            return OptionError(
                "its processes run without torchtide's memory (TIDE_DISABLE=1)", asked=asked
            )
        least = max(reason for reason in reasons if reason is not None) * len(reasons)
        return LimitConflict(
            f"{self.name} cannot run in less than {core.format_bytes(least)} in "
            f"{len(reasons)} processes; the old limit stays",
            asked=asked,
            advice=f"a higher limit, or fewer processes: tide resize {self.name} "
            f"{max(1, len(reasons) - 1)}",
        )

    def _await(
        self,
        done: Callable[[dict[str, Any]], bool],
        timeout_s: float,
        late: Callable[[], None],
        what: str,
    ) -> dict[str, Any]:
        """The report that is `done`, or the present one after `late`."""
        end = time.monotonic() + timeout_s
        while True:
            news = self._group.news()
            report = self.report()
            if done(report):
                return report
            if report["finished"]:
                raise TideError("the training ended first", asked=f"tide {what} {self.name}")
            if time.monotonic() > end:
                late()
                return report
            self._group.await_news(news, _TICK_S)

    def _told(self, status: str, begin: float, report: dict[str, Any]) -> dict[str, Any]:
        return {
            "job": self.name,
            "status": status,
            "took_ms": (time.monotonic() - begin) * 1e3,
            "step": report["steps"],
            "pids": report["pids"],
        }


def find(job: str) -> ElasticJob | None:
    """The elastic job of that name, or the one that a process called "train[1]" belongs to."""
    process = _PROCESS.fullmatch(job)
    for name in (job, process[1] if process else ""):
        if not name:
            continue
        try:
            return ElasticJob(name, elastic.open_group(name))
        except (NoSuchJob, OSError):
            continue
    return None


def limit_sentence(data: dict[str, Any]) -> str:
    """What came of a limit."""
    size = core.format_bytes(data["limit"]) if data["limit"] else "none"
    if data["status"] == "pending":
        return f"limit of {data['job']} will be {size} at its next boundary"
    each = f", {core.format_bytes(data['share'])} for each" if data["limit"] else ""
    return (
        f"limit of {data['job']} is {size} in {data['processes']} processes{each}: moved "
        f"{core.format_bytes(data['moved_bytes'])} in {text.duration_ms(data['took_ms'])}"
    )


def _all_paused(report: dict[str, Any]) -> bool:
    members = report["members"]
    return bool(members) and report["pausing"] and all(member["paused"] for member in members)


def _none_paused(report: dict[str, Any]) -> bool:
    return not any(member["paused"] for member in report["members"])


def _followed(report: dict[str, Any], word: int) -> bool:
    members = report["members"]
    return bool(members) and all(member["limit_done"] == word for member in members)
