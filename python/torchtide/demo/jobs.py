"""The four jobs of the quickstart: commands, records, and the capacity that they must share."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Final

from torchtide.demo.confine import Report, Sample

#: The capacity is the larger of these shares: of the largest job alone, and of all jobs together.
#: With 0.65 of the sum no three of the four jobs fit beside each other as plain processes.
SHARE_OF_LARGEST: Final = 1.25
SHARE_OF_SUM: Final = 0.65


@dataclass(frozen=True)
class Job:
    """A script of examples/ and how long it runs here."""

    name: str
    steps: int
    quick_steps: int

    def argv(self, python: str, script: Path, steps: int, out: Path) -> list[str]:
        """Its command line."""
        return [python, "-u", str(script), "--steps", str(steps), "--out", str(out)]


#: Ordered by start. Batch sizes are the scripts' defaults, chosen so that much of a job's memory is
#: scratch (0.4 to 1.2 GiB) and an iteration takes about a second on two cores.
JOBS: Final = (
    Job("digits_cnn", steps=10, quick_steps=7),
    Job("char_gpt", steps=12, quick_steps=7),
    Job("word_lstm", steps=12, quick_steps=7),
    Job("wide_adam", steps=14, quick_steps=7),
)


@dataclass(frozen=True)
class Record:
    """What a job wrote about its result."""

    digests: dict[str, str]
    losses: list[str]
    times: list[float]
    state_bytes: int  # parameters, buffers and the optimizer's tensors
    parameter_bytes: int

    @staticmethod
    def read(path: Path) -> Record | None:
        """The record in `path`, or None when the job did not live to write it."""
        try:
            data: dict[str, Any] = json.loads(path.read_text())
        except (OSError, ValueError):
            return None
        return Record(**{field.name: data[field.name] for field in fields(Record)})

    @property
    def training_s(self) -> float:
        """From the start of the first iteration to the end of the last: imports are not in it."""
        return self.times[-1] - self.times[0]


def differences(one: Record, other: Record) -> list[str]:
    """The tensors and losses that are not the same bit for bit; empty means equal."""
    names = sorted(one.digests.keys() | other.digests.keys())
    found = [name for name in names if one.digests.get(name) != other.digests.get(name)]
    steps = range(max(len(one.losses), len(other.losses)))
    found += [f"loss {i + 1}" for i in steps if one.losses[i : i + 1] != other.losses[i : i + 1]]
    return found


def capacity_bytes(peaks: Sequence[int]) -> int:
    """What the jobs with these peaks must share, in whole MiB."""
    wanted = max(SHARE_OF_LARGEST * max(peaks), SHARE_OF_SUM * sum(peaks))
    return int(wanted) >> 20 << 20


@dataclass(frozen=True)
class Solo:
    """A job measured alone."""

    record: Record
    peak_bytes: int
    persistent_bytes: int
    seconds: float

    @property
    def scratch_bytes(self) -> int:
        """What it holds only inside an iteration."""
        return self.peak_bytes - self.persistent_bytes


def persistent_bytes(samples: Sequence[Sample], started: float, record: Record) -> int:
    """What a job alone holds between iterations: the smaller of two estimates.

    The least that it held after its second iteration is too much where the C library keeps what was
    freed; what it held before its first iteration plus the optimizer's state that came later is
    too little by what the loader's workers hold.

    Args:
        samples: Of a group with this job alone.
        started: The monotonic time that the samples count from.
        record: The job's own times.
    """
    begin, end = record.times[min(2, len(record.times) - 2)], record.times[-1]
    inside = [s.used_bytes for s in samples if begin <= started + s.seconds <= end]
    before = [s.used_bytes for s in samples if started + s.seconds <= record.times[0]]
    estimates = [min(inside)] if inside else []
    estimates += [max(before) + record.state_bytes - record.parameter_bytes] if before else []
    return min(estimates, default=0)


def solo_of(report: Report, record: Record) -> Solo:
    """The measurement of a run in which a job was alone."""
    persistent = persistent_bytes(report.samples, report.started, record)
    return Solo(record, report.peak_bytes, persistent, report.seconds)


def fingerprint(script: Path, steps: int, versions: str) -> str:
    """Changes when a measurement of `script` may no longer be used."""
    text = f"{steps}\n{versions}\n{script.read_text()}"
    return hashlib.sha256(text.encode()).hexdigest()


def save_solo(path: Path, solo: Solo, fingerprint: str) -> None:
    """Keeps a measurement for the next quickstart."""
    data = {
        "fingerprint": fingerprint,
        "peak_bytes": solo.peak_bytes,
        "persistent_bytes": solo.persistent_bytes,
        "seconds": solo.seconds,
        "record": vars(solo.record),
    }
    path.write_text(json.dumps(data))


def load_solo(path: Path, fingerprint: str) -> Solo | None:
    """The measurement that `save_solo` kept, or None when there is none or it is of other code."""
    try:
        data: dict[str, Any] = json.loads(path.read_text())
        if data.pop("fingerprint") != fingerprint:
            return None
        return Solo(**{**data, "record": Record(**data["record"])})
    except (OSError, ValueError, TypeError, KeyError):
        return None
