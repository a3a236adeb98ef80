"""What `tide report` remembers of a run: samples of all jobs, thinned so that they stay few."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

#: More points than this no picture shows; every second one is then let go.
SAMPLES_MAX: Final = 2000
#: A rate is taken over so many samples, and this part of the run, at least: iterations are whole
#: numbers, and a curve of single ones shows nothing else.
_RATE_SAMPLES: Final = 4
_RATE_PART: Final = 1 / 40
GONE: Final = "gone"


@dataclass(frozen=True)
class JobSample:
    """A job at one moment. Sizes in bytes."""

    state: str
    memory: int  # resident and outside of pages
    demoted: int
    iterations: int


@dataclass(frozen=True)
class Sample:
    """The machine at one moment."""

    seconds: float  # since the recording began
    used: int
    jobs: Mapping[int, JobSample]  # by job number


@dataclass
class _Life:
    """What must not be lost when samples are let go."""

    first_s: float
    first_iterations: int
    last_s: float = 0.0
    iterations: int = 0
    memory_peak: int = 0
    demoted_peak: int = 0

    def take(self, seconds: float, job: JobSample) -> None:
        self.last_s = seconds
        self.iterations = job.iterations
        self.memory_peak = max(self.memory_peak, job.memory)
        self.demoted_peak = max(self.demoted_peak, job.demoted)


@dataclass
class Recording:
    """Samples of one run, from the first look on."""

    began: float  # Unix seconds
    interval_s: float
    capacity: int = 0
    samples: list[Sample] = field(default_factory=list)
    records: dict[int, dict[str, Any]] = field(default_factory=dict)
    """The newest record of each job that lived during the recording, by number."""
    used_peak: int = 0
    _lives: dict[int, _Life] = field(default_factory=dict)

    def add(self, now: float, status: Mapping[str, Any]) -> None:
        """Takes one answer to the query `status`.

        Args:
            now: Unix seconds.
            status: As docs/reference/protocol.md has it.
        """
        seconds = max(now - self.began, 0.0)
        self.capacity = max(self.capacity, int(status.get("capacity") or 0))
        jobs: dict[int, JobSample] = {}
        for record in status.get("jobs", []):
            number = _number(record)
            if record.get("state") == GONE and number not in self.records:
                continue  # had ended before
            self.records[number] = _kept(self.records.get(number), record)
            if record.get("state") != GONE:
                job = jobs[number] = _sample(record)
                life = self._lives.setdefault(number, _Life(seconds, job.iterations))
                life.take(seconds, job)
        used = int(status.get("used") or 0)
        self.used_peak = max(self.used_peak, used)
        self.samples.append(Sample(seconds, used, jobs))
        if len(self.samples) >= SAMPLES_MAX:
            self.samples = self.samples[::2]
            self.interval_s *= 2

    def ended(self, records: Sequence[Mapping[str, Any]]) -> None:
        """Takes over how jobs of the recording have ended since its last look."""
        for record in records:
            number = _number(record)
            if record.get("state") == GONE and number in self.records:
                self.records[number] = _kept(self.records[number], record)

    @property
    def seconds(self) -> float:
        """From the first look to the last."""
        return self.samples[-1].seconds if self.samples else 0.0

    def living(self) -> int:
        """Jobs at the last look."""
        return len(self.samples[-1].jobs) if self.samples else 0

    def names(self) -> dict[int, str]:
        """What to call each job, in order of appearance; its number too where names repeat."""
        names = {number: str(record.get("name", "?")) for number, record in self.records.items()}
        often = Counter(names.values())
        return {n: name if often[name] == 1 else f"{name} #{n}" for n, name in names.items()}

    def spans(self, number: int) -> Iterator[tuple[str, float, float]]:
        """The states of a job as (state, begin, end), each until the next look."""
        state, begin = "", 0.0
        for sample, after in itertools.pairwise(self.samples):
            job = sample.jobs.get(number)
            now = job.state if job else ""
            if now != state:
                if state:
                    yield state, begin, sample.seconds
                state, begin = now, sample.seconds
            if after is self.samples[-1] and state:
                yield state, begin, after.seconds

    def shares(self, number: int) -> dict[str, float]:
        """Part of its life here that a job was seen in each state; adds up to 1."""
        seconds: Counter[str] = Counter()
        for state, begin, end in self.spans(number):
            seconds[state] += end - begin  # type: ignore[assignment]
        total = sum(seconds.values())
        return {state: spent / total for state, spent in seconds.items()} if total else {}

    def rates(self, number: int) -> list[tuple[float, float]]:
        """Iterations a second as (seconds, rate), where the job lived."""
        points = [(s.seconds, s.jobs[number].iterations) for s in self.samples if number in s.jobs]
        found, start, span = [], 0, self.seconds * _RATE_PART
        for index in range(1, len(points)):
            after = points[index]
            while start + 1 < index - _RATE_SAMPLES and after[0] - points[start + 1][0] >= span:
                start += 1
            before = points[start]
            if after[0] > before[0]:
                rate = max(after[1] - before[1], 0) / (after[0] - before[0])
                found.append((after[0], rate))
        return found

    def figures(self, number: int) -> dict[str, Any]:
        """What the table says of a job; sizes in bytes."""
        record, life = self.records[number], self._lives[number]
        done = max(life.iterations - life.first_iterations, 0)
        length = life.last_s - life.first_s
        return {
            "script": str(record.get("script", "")),
            "end": _end(record),
            "iterations": done,
            "rate": done / length if length > 0 else 0.0,
            "memory_peak": life.memory_peak,
            "demoted_peak": life.demoted_peak,
            "shares": self.shares(number),
        }


def _number(record: Mapping[str, Any]) -> int:
    """The job's number; one of its own for a process that the daemon does not know."""
    return int(record.get("id") or 0) or -int(record.get("pid") or 0)


def _sample(record: Mapping[str, Any]) -> JobSample:
    def size(key: str) -> int:
        return int(record.get(key) or 0)

    memory = size("resident") + size("outside")
    return JobSample(str(record.get("state")), memory, size("demoted"), size("iterations"))


def _kept(before: dict[str, Any] | None, now: Mapping[str, Any]) -> dict[str, Any]:
    """The new record; an ended job has no figures any more, so the last ones stay."""
    if before is None or now.get("state") != GONE:
        return dict(now)
    return {**before, "state": GONE, "exit": now.get("exit")}


def _end(record: Mapping[str, Any]) -> str:
    """How a job stood at the end, in words."""
    if record.get("state") != GONE:
        return f"{record.get('state')} (goes on)"
    exited: Mapping[str, Any] = record.get("exit") or {}
    if exited.get("signal"):
        return f"killed by signal {exited['signal']}"
    code = exited.get("code")
    return "ended" if code is None else f"exit code {code}"


def reasons(events: Sequence[Mapping[str, Any]], began: float) -> list[tuple[float, str, str]]:
    """Events as (seconds since the recording began, job, sentence), in order."""
    return [
        (float(e.get("time", 0)) - began, str(e.get("job", "")), str(e.get("text", "")))
        for e in events
    ]
