"""Puts the three runs side by side: a table for people, one JSON object for programs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from rich.table import Table
from rich.text import Text

from torchtide.demo.confine import Outcome, Report
from torchtide.demo.jobs import Record, Solo, differences
from torchtide.demo.live import LiveStatus
from torchtide.demo.screen import gib


@dataclass
class Comparison:
    """All that the quickstart found out. Runs that did not take place are None."""

    solos: Mapping[str, Solo]
    control_differences: list[str] | None  # None: no job ran alone twice
    control_name: str
    capacity_bytes: int
    versions: str
    plain: Report | None = None
    tide: Report | None = None
    plain_records: Mapping[str, Record] = field(default_factory=dict)
    tide_records: Mapping[str, Record] = field(default_factory=dict)
    ledger: LiveStatus = field(default_factory=LiveStatus)

    def different(self, name: str, records: Mapping[str, Record]) -> list[str] | None:
        """What differs from the job alone; None when it left no result."""
        record = records.get(name)
        return None if record is None else differences(self.solos[name].record, record)

    @property
    def bitwise_equal(self) -> bool | None:
        """Whether each job under tide came out as alone; None when they did not run."""
        if self.tide is None:
            return None
        return all(self.different(name, self.tide_records) == [] for name in self.solos)

    @property
    def bound_bytes(self) -> int:
        """What taking turns needs at least: all that persists, and the largest scratch."""
        solos = self.solos.values()
        return sum(s.persistent_bytes for s in solos) + max(s.scratch_bytes for s in solos)

    def held(self) -> bool:
        """Whether the promise was kept, and the plain attempt shows that it is one."""
        return (
            self.plain is not None
            and bool(self.plain.failed)
            and self.tide is not None
            and all(outcome.finished for outcome in self.tide.outcomes.values())
            and self.bitwise_equal is True
            and not self.control_differences
        )

    def json(self) -> dict[str, Any]:
        """One object; the keys that docs and benchmarks quote are here by these names."""
        control = self.control_differences
        sum_peaks = sum(solo.peak_bytes for solo in self.solos.values())
        serial = sum(solo.record.training_s for solo in self.solos.values())
        tide_s = makespan_s(self.tide_records) if self.tide is not None else None
        peak = self.tide.peak_bytes if self.tide is not None else None
        ledger = self.ledger.peak_used_bytes or None
        return {
            "jobs": [self._job(name) for name in self.solos],
            "bitwise_equal": self.bitwise_equal,
            "solo_equal": None if control is None else not control,
            "jobs_failed_plain": None if self.plain is None else len(self.plain.failed),
            "jobs_failed_tide": None if self.tide is None else len(self.tide.failed),
            "capacity_bytes": self.capacity_bytes,
            "sum_solo_peaks": sum_peaks,
            "bound_bytes": self.bound_bytes,
            "peak_kernel": peak,
            "peak_kernel_without_cache": (
                None if self.tide is None else self.tide.peak_without_cache_bytes
            ),
            "peak_kernel_plain": None if self.plain is None else self.plain.peak_bytes,
            "peak_ledger": ledger,
            "peak_over_sum": _ratio(peak, sum_peaks),
            "peak_over_bound": _ratio(peak, self.bound_bytes),
            "ledger_over_kernel": _ratio(ledger, peak),
            "makespan_serial_s": serial,
            "makespan_plain_s": makespan_s(self.plain_records),
            "makespan_tide_s": tide_s,
            "makespan_over_serial": _ratio(tide_s, serial),
            "handovers": self.ledger.handovers,
            "demoted_bytes_max": self.ledger.peak_demoted_bytes,
            "confined_by": self.plain.kind if self.plain is not None else None,
            "versions": self.versions,
            "held": self.held(),
        }

    def _job(self, name: str) -> dict[str, Any]:
        solo = self.solos[name]
        different = self.different(name, self.tide_records)
        return {
            "name": name,
            "steps": len(solo.record.losses),
            "solo_peak_bytes": solo.peak_bytes,
            "persistent_bytes": solo.persistent_bytes,
            "scratch_bytes": solo.scratch_bytes,
            "state_bytes": solo.record.state_bytes,
            "solo_s": solo.seconds,
            "solo_training_s": solo.record.training_s,
            "plain": _end(self.plain, name),
            "tide": _end(self.tide, name),
            "tide_s": self.tide.outcomes[name].seconds if self.tide is not None else None,
            "bitwise_equal": None if different is None else not different,
            "differences": (different or [])[:10],
        }

    def table(self) -> Table:
        """Alone, plain and under tide, a row a job."""
        table = Table(title="the same jobs three times", title_justify="left")
        columns = ("job", "alone", "peak", "scratch", "plain", "under tide", "result")
        for column in columns:
            table.add_column(column, justify="right" if column in columns[1:4] else "left")
        for name, solo in self.solos.items():
            table.add_row(
                name,
                f"{solo.seconds:.0f} s",
                gib(solo.peak_bytes),
                gib(solo.scratch_bytes),
                _outcome(self.plain, name),
                _outcome(self.tide, name),
                self._result(name),
            )
        return table

    def _result(self, name: str) -> Text:
        different = self.different(name, self.tide_records)
        if different is None:
            return Text("-")
        if different:
            return Text(f"{len(different)} tensors differ: {different[0]}", style="red")
        return Text("bitwise as alone", style="green")

    def sentences(self) -> list[str]:
        """The figures below the table, each with its unit."""
        data = self.json()
        lines = [
            f"capacity {gib(self.capacity_bytes)}; alone the jobs peak at "
            f"{gib(data['sum_solo_peaks'])} in sum; what persists plus the largest scratch is "
            f"{gib(self.bound_bytes)}"
        ]
        if self.control_differences:
            first = self.control_differences[0]
            lines.append(f"two solo runs of {self.control_name} differ already, first in {first}")
        elif self.control_differences is not None:
            lines.append(f"control: two solo runs of {self.control_name} are bitwise equal")
        if self.tide is not None:
            lines.append(
                f"tide: peak {gib(self.tide.peak_bytes)} by the kernel, "
                f"{gib(self.ledger.peak_used_bytes)} by the ledger; {self.ledger.handovers} "
                f"hand-overs; at most {gib(self.ledger.peak_demoted_bytes)} demoted"
            )
        if data["makespan_over_serial"] is not None:
            lines.append(
                f"training: {data['makespan_serial_s']:.0f} s one after another, "
                f"{data['makespan_tide_s']:.0f} s together under tide "
                f"({data['makespan_over_serial']:.2f})"
            )
        return lines


def makespan_s(records: Mapping[str, Record]) -> float | None:
    """From the first iteration of any job to the last of any; None without records."""
    if not records:
        return None
    times = [record.times for record in records.values()]
    return max(t[-1] for t in times) - min(t[0] for t in times)


def _ratio(one: float | None, other: float | None) -> float | None:
    return None if one is None or not other else round(one / other, 4)


def _end(report: Report | None, name: str) -> str | None:
    return None if report is None else report.outcomes[name].sentence()


def _outcome(report: Report | None, name: str) -> Text:
    if report is None:
        return Text("-")
    outcome: Outcome = report.outcomes[name]
    text = outcome.sentence()
    if outcome.finished:
        return Text(f"{text}, {outcome.seconds:.0f} s", style="green")
    return Text(text, style="" if outcome.stopped else "red")
