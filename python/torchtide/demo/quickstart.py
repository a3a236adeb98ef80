"""Four real training jobs on a device too small for them: alone, as plain processes, under tide."""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from rich.console import Console

from torchtide.demo import confine, picture
from torchtide.demo.confine import Command, Report
from torchtide.demo.jobs import (
    JOBS,
    Job,
    Record,
    Solo,
    capacity_bytes,
    differences,
    fingerprint,
    load_solo,
    save_solo,
    solo_of,
)
from torchtide.demo.live import LiveStatus
from torchtide.demo.screen import Screen, gib
from torchtide.demo.summary import Comparison

TREE: Final = Path(__file__).resolve().parents[3]
#: The kernel charges a group for more than the ledger knows: page tables (0.2 %), pipes, sockets,
#: the cache of the files that a job reads and writes, the daemon itself.
CACHE_RESERVE_BYTES: Final = 256 << 20
#: The job that runs alone twice: the quickest one.
CONTROL: Final = "word_lstm"
#: What training imports; building an optimizer imports dynamo.
MODULES: Final = ("torch", "torch._dynamo", "sklearn.datasets")


@dataclass
class Plan:
    """What is to be run, and where its files go."""

    out: Path
    python: str
    versions: str
    quick: bool
    fresh: bool
    console: Console

    def steps(self, job: Job) -> int:
        """How long `job` runs."""
        return job.quick_steps if self.quick else job.steps

    def command(self, job: Job, kind: str) -> Command:
        """`job` as it is started for the run `kind`: "solo", "control", "plain" or "tide"."""
        record = self.record_path(job, kind)
        record.parent.mkdir(parents=True, exist_ok=True)
        record.unlink(missing_ok=True)
        argv = job.argv(self.python, script(job), self.steps(job), record)
        if kind == "tide":
            argv = [self.python, "-m", "torchtide", "run", "--name", job.name, "--", *argv]
        return Command(job.name, argv, record.with_suffix(".log"))

    def record_path(self, job: Job, kind: str) -> Path:
        """Where `job` writes its result in the run `kind`."""
        return self.out / kind / f"{job.name}.json"

    def records(self, kind: str) -> dict[str, Record]:
        """The results of the run `kind` of those jobs that lived to write one."""
        found = {job.name: Record.read(self.record_path(job, kind)) for job in JOBS}
        return {name: record for name, record in found.items() if record is not None}


def script(job: Job) -> Path:
    """The file that a job runs."""
    path = TREE / "examples" / f"{job.name}.py"
    if not path.is_file():
        raise SystemExit(f"quickstart: no {path}; it runs in a source tree: git clone, then there")
    return path


def measure_solos(plan: Plan) -> tuple[dict[str, Solo], list[str] | None]:
    """Each job alone, and one of them a second time: (measurements, what differed between the two).

    Measurements are kept and used again while script, steps and versions are the same.
    """
    prints = {job.name: fingerprint(script(job), plan.steps(job), plan.versions) for job in JOBS}
    kept = {job.name: plan.out / f"solo-{job.name}.json" for job in JOBS}
    solos: dict[str, Solo] = {}
    for name in () if plan.fresh else prints:
        solo = load_solo(kept[name], prints[name])
        if solo is not None:
            solos[name] = solo
    missing = [job for job in JOBS if job.name not in solos]
    if missing:
        confine.warm_page_cache(plan.python, MODULES)
    for job in missing:
        solos[job.name] = _run_alone(plan, job, "solo")
        save_solo(kept[job.name], solos[job.name], prints[job.name])
    if not missing:
        plan.console.print("solo runs: as measured before (--fresh measures again)")
    control = None if plan.quick else _control(plan, solos[CONTROL], prints[CONTROL])
    return {job.name: solos[job.name] for job in JOBS}, control


def _control(plan: Plan, solo: Solo, fingerprint: str) -> list[str]:
    """What differs between `solo` and a second run of the same job, of which nothing should."""
    kept = plan.out / "solo-control.json"
    again = None if plan.fresh else load_solo(kept, fingerprint)
    if again is None:
        again = _run_alone(plan, next(job for job in JOBS if job.name == CONTROL), "control")
        save_solo(kept, again, fingerprint)
    return differences(solo.record, again.record)


def _run_alone(plan: Plan, job: Job, kind: str) -> Solo:
    again = " once more, as a control" if kind == "control" else ""
    with Screen(plan.console, f"{job.name} alone{again}") as screen:
        report = confine.run(kind, [plan.command(job, kind)], None, on_tick=screen.show)
    record = Record.read(plan.record_path(job, kind))
    outcome = report.outcomes[job.name]
    if not outcome.finished or record is None:
        raise SystemExit(
            f"quickstart: {job.name} {outcome.sentence()} even alone: {outcome.last_line}\n"
            f"            its output: {plan.record_path(job, kind).with_suffix('.log')}"
        )
    solo = solo_of(report, record)
    plan.console.print(
        f"  {report.seconds:4.0f} s, peak {gib(solo.peak_bytes)} by the kernel: "
        f"{gib(solo.persistent_bytes)} stays between iterations, "
        f"{gib(solo.scratch_bytes)} is scratch"
    )
    return solo


def run_plain(plan: Plan, capacity: int) -> Report:
    """All jobs at once as plain processes that share `capacity`."""
    with Screen(plan.console, f"all four as plain processes in {gib(capacity)}") as screen:
        report = confine.run(
            "plain",
            [plan.command(job, "plain") for job in JOBS],
            capacity,
            on_tick=screen.show,
            stop_at_first_failure=plan.quick,
        )
    _tell_outcomes(plan, report)
    return report


def run_tide(plan: Plan, capacity: int) -> tuple[Report, LiveStatus]:
    """The same under tide, with a daemon of its own."""
    ledger = LiveStatus()
    # A short path: the name of a Unix socket has at most 107 characters.
    runtime = Path(tempfile.mkdtemp(prefix="tide-"))
    # In our own environment too: the daemon is asked from here.
    os.environ["TIDE_RUNTIME_DIR"] = str(runtime)
    os.environ["TIDE_CAPACITY"] = str(capacity - CACHE_RESERVE_BYTES)
    os.environ["PYTHONPATH"] = os.pathsep.join(
        filter(None, [str(TREE / "python"), os.environ.get("PYTHONPATH")])
    )
    title = (
        f"the same under tide in {gib(capacity)}, of which {gib(CACHE_RESERVE_BYTES)} are left to "
        "the kernel for page tables and cache"
    )
    try:
        with Screen(plan.console, title) as screen:
            report = confine.run(
                "tide",
                [plan.command(job, "tide") for job in JOBS],
                capacity,
                on_tick=lambda report: screen.show(report, ledger.look(report.seconds)),
            )
    finally:
        shutil.rmtree(runtime, ignore_errors=True)
    _tell_outcomes(plan, report)
    if ledger.last is None:
        plan.console.print(f"  the daemon never answered: {ledger.last_error}")
    return report, ledger


def _tell_outcomes(plan: Plan, report: Report) -> None:
    for outcome in report.outcomes.values():
        why = outcome.last_line if outcome.exit_code and not outcome.killed_for_memory else ""
        plan.console.print(
            f"  {outcome.name}: {outcome.sentence()} after {outcome.seconds:.0f} s {why}",
            highlight=False,
            markup=False,
        )
    plan.console.print(f"  peak {gib(report.peak_bytes)}, confined by {report.kind}")


def versions_of() -> str:
    """The versions that a measurement depends on, without importing torch for it."""
    from importlib.metadata import version

    names = ("torch", "numpy", "scikit-learn")
    return " ".join([f"python {sys.version.split()[0]}"] + [f"{n} {version(n)}" for n in names])


def tide_missing() -> str:
    """Why the tide part cannot run here, or an empty text."""
    if importlib.util.find_spec("torchtide.cli") is None:
        return "torchtide's command line is not in this tree"
    if importlib.util.find_spec("torchtide._core") is None:
        return "torchtide is not built; scripts/setup builds it"
    return ""


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/quickstart", description=__doc__)
    parser.add_argument("--fresh", action="store_true", help="measure the solo runs again")
    parser.add_argument("--quick", action="store_true", help="fewer iterations, no control")
    parser.add_argument("--json", action="store_true", help="the last line is one JSON object")
    parser.add_argument("--until", choices=("solo", "plain", "tide"), default="tide")
    parser.add_argument("--out", type=Path, default=TREE / "quickstart-out", help="for results")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the quickstart; 0 only when all that it promises held."""
    arguments = _arguments(argv)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # through `finally`
    started = time.monotonic()
    out = arguments.out / "quick" if arguments.quick else arguments.out
    out.mkdir(parents=True, exist_ok=True)
    versions = versions_of()
    # Not a terminal: wide enough that no line of the log is broken.
    console = Console() if sys.stdout.isatty() else Console(width=120)
    plan = Plan(out, sys.executable, versions, arguments.quick, arguments.fresh, console)
    solos, control = measure_solos(plan)
    capacity = capacity_bytes([solo.peak_bytes for solo in solos.values()])
    found = Comparison(solos, control, CONTROL, capacity, versions)
    missing = ""
    if arguments.until != "solo":
        found.plain = run_plain(plan, capacity)
        found.plain_records = plan.records("plain")
    if arguments.until == "tide":
        missing = tide_missing()
        if not missing:
            found.tide, found.ledger = run_tide(plan, capacity)
            found.tide_records = plan.records("tide")
    _finish(plan, found, arguments.out, time.monotonic() - started)
    if missing:
        plan.console.print(f"under tide: not run; {missing}")
    if arguments.json:
        print(json.dumps({**found.json(), "seconds": time.monotonic() - started}), flush=True)
    if arguments.until != "tide":
        return 0 if not control else 1
    return 0 if found.held() else 1


def _finish(plan: Plan, found: Comparison, out: Path, seconds: float) -> None:
    plan.console.print(found.table())
    for sentence in found.sentences():
        plan.console.print(sentence, highlight=False)
    if found.plain is not None:
        path = out / "quickstart.png"
        records = {"plain": found.plain_records, "tide": found.tide_records}
        picture.draw(path, found.plain, found.tide, records, found.ledger)
        plan.console.print(f"picture: {path}", soft_wrap=True)
    plan.console.print(f"{seconds:.0f} s in all")


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit("quickstart: stopped; nothing that it started is left")
