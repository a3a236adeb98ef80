"""`tide demo resize`: processes of a training are added, killed, taken away; the same bits."""

from __future__ import annotations

import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from torchtide.errors import TideError

NAME: Final = "demo"
#: Starting a process that imports torch takes seconds where the machine is busy.
DEADLINE_S: Final = 240.0


@dataclass
class Job:
    """A started training whose lines are shown and looked at."""

    process: subprocess.Popen[bytes]
    digest: str = ""
    sizes: list[int] = field(default_factory=list)
    _begun: bytes = b""

    def until(self, step: int = 0, processes: int = 0) -> None:
        """Reads until that step, or a step in so many processes.

        Raises:
            TideError: It ended before, or did not come that far in time.
        """
        end = time.monotonic() + DEADLINE_S
        while line := self._line(end):
            done, size = int(line[1]), int(line[3])
            if (step and done >= step) or (processes and size == processes):
                return
        raise TideError("the training did not come that far", advice="look at its lines above")

    def rest(self) -> int:
        """Reads to the end; the exit code."""
        end = time.monotonic() + DEADLINE_S
        while self._line(end):
            pass
        return self.process.wait(max(1.0, end - time.monotonic()))

    def _line(self, end: float) -> list[str]:
        """The words of the next line about a step; empty when none comes any more."""
        stream = self.process.stdout
        assert stream is not None
        while True:
            while b"\n" not in self._begun:
                left = max(0.0, end - time.monotonic())
                if not select.select([stream], [], [], left)[0]:
                    return []
                more = os.read(stream.fileno(), 1 << 16)
                if not more:
                    return []
                self._begun += more
            text, _, self._begun = self._begun.partition(b"\n")
            words = text.decode(errors="replace").split()
            if words[:1] == ["digest"]:
                self.digest = words[1]
            elif words[:1] == ["step"]:
                if not self.sizes or self.sizes[-1] != int(words[3]):
                    self.sizes.append(int(words[3]))
                    print("  " + " ".join(words), flush=True)
                return words


class Demo:
    """Both runs, in a runtime folder of their own."""

    def __init__(self, folder: Path, steps: int) -> None:
        self._folder = folder
        self._steps = steps
        self._environ = {
            **{k: v for k, v in os.environ.items() if not k.startswith("TIDE_")},
            "TIDE_RUNTIME_DIR": str(folder),
            "TIDE_DAEMON": "off",
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": os.pathsep.join(
                filter(None, [str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH")])
            ),
        }

    def alone(self) -> str:
        """The digest of the run in one process that nobody touches."""
        return self._finished(self._start([]))

    def moved(self) -> tuple[str, list[int]]:
        """The digest of the run that is moved about, and the sizes it had."""
        pipe = self._folder / "go"
        os.mkfifo(pipe)
        go = os.open(pipe, os.O_RDWR)
        job = self._start(["--processes", "1:3", "--name", NAME], TIDE_DEMO_PACE=str(pipe))
        try:
            job.until(step=1)
            more = 3 if job.sizes[-1] != 3 else 2
            self._resize(more)
            job.until(processes=more)
            self._kill_one(job)
            self._resize(1)
            job.until(processes=1)
            os.write(go, b"go")  # the rest at full speed
            return self._finished(job), job.sizes
        finally:
            os.close(go)
            if job.process.poll() is None:
                job.process.terminate()
                job.process.wait()

    def _start(self, words: list[str], **variables: str) -> Job:
        script = [sys.executable, "-m", "torchtide.demo.resize_job", "--steps", str(self._steps)]
        command = [*_TIDE, "run", *words, "--", *script] if words else script
        _tell([*("tide", "run", *words, "--"), *_shown(script)] if words else _shown(script))
        return Job(
            subprocess.Popen(
                command,
                env={**self._environ, **variables},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
            )
        )

    def _finished(self, job: Job) -> str:
        code = job.rest()
        if code != 0 or not job.digest:
            raise TideError(f"the training ended with code {code}", advice="see its lines above")
        return job.digest

    def _resize(self, processes: int) -> None:
        words = ["resize", NAME, str(processes), "--timeout", str(int(DEADLINE_S))]
        _tell(["tide", *words[:3]])
        subprocess.run([*_TIDE, *words], env=self._environ, check=True)

    def _kill_one(self, job: Job) -> None:
        pids = _group(self._environ).report()["pids"]
        _tell(["kill", "-9", str(pids[-1])])
        wanted = job.sizes[-1]
        os.kill(pids[-1], signal.SIGKILL)
        while job.sizes[-1] == wanted:  # the others go on at once, until one has taken its place
            job.until(step=1)
        print("  the others have repeated its part of the step", flush=True)


_TIDE: Final = (sys.executable, "-m", "torchtide")


def _group(environ: Mapping[str, str]) -> Any:
    from torchtide import _core
    from torchtide.cli import elastic

    _core.set_option("runtime_dir", environ["TIDE_RUNTIME_DIR"], "call")
    return elastic.open_group(NAME)


def _shown(script: list[str]) -> list[str]:
    return ["python", *script[1:]]


def _tell(words: list[str]) -> None:
    print("$ " + " ".join(words), flush=True)


def run(short: bool) -> dict[str, Any]:
    """Runs the demo; `ok` says whether both runs came out bit for bit the same."""
    folder = Path(tempfile.mkdtemp(prefix="tide-"))  # short: a socket's path has 107 characters
    try:
        demo = Demo(folder, 60 if short else 120)
        print("one process, from beginning to end:", flush=True)
        alone = demo.alone()
        print("\nthe same in processes that come and go:", flush=True)
        moved, sizes = demo.moved()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    equal = alone == moved
    print(
        f"\nprocesses: {' -> '.join(map(str, sizes))}; weights, optimizer and random states "
        f"{'are the same bit for bit' if equal else 'DIFFER'}\n  {alone}\n  {moved}"
    )
    return {"ok": equal, "sizes": sizes, "alone": alone, "moved": moved}
