"""Several processes on one phantom device: budgets, requests among them, death of a neighbour."""

from __future__ import annotations

import os
import pathlib
import select
import time
import uuid
from collections.abc import Iterator

import phantom_gpu
import pytest

pytestmark = pytest.mark.slow

JOB = """
import os, sys
import torch, torchtide.cuda as cuda
from torchtide import _core
MIB = 1 << 20
assert cuda.enable(sys.argv[0]) == "hooked"
held = {}
def say(*words): print(*words, flush=True)
say("ready")
for line in sys.stdin:
    word, *numbers = line.split()
    if word == "take":
        name, mib = numbers
        host = torch.randint(0, 256, (int(mib) * MIB,), dtype=torch.uint8)
        try:
            held[name] = (host, host.cuda())
            say("ok")
        except torch.OutOfMemoryError:
            say("oom", cuda.last_oom.count("(pid"))
    elif word == "drop":
        del held[numbers[0]]
        say("ok")
    elif word == "exact":
        say(all(torch.equal(host, device.cpu()) for host, device in held.values()))
    elif word == "boundary":
        answer = cuda.boundary()
        say("asked", answer["asked"] // MIB, "given", answer["given"] // MIB)
    elif word == "cold":
        cuda.keep_cold([device for _, device in held.values()])
        say("ok")
    elif word == "suspend":
        say("freed", cuda.suspend() // MIB)
    elif word == "resume":
        try:
            cuda.resume()
            say("ok")
        except MemoryError:
            say("full")
    elif word == "figures":
        figures = cuda.report()
        _core.cuda_validate()
        say(*(figures[key] // MIB for key in ("device", "used_by_jobs", "host_mapped")))
"""


class Job:
    """One process that does what it is told."""

    def __init__(self, name: str, runtime_dir: pathlib.Path, **settings: str | int) -> None:
        self.process = phantom_gpu.start(JOB, name, runtime_dir, TIDE_PHANTOM_MB=512, **settings)

    def tell(self, line: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()

    def answer(self) -> str:
        assert self.process.stdout is not None
        line = self.process.stdout.readline().strip()
        assert line, self.process.communicate()[1][-4000:]
        return line

    def ask(self, line: str) -> str:
        self.tell(line)
        return self.answer()


@pytest.fixture
def pair(
    zygote: phantom_gpu.Zygote, tmp_path: pathlib.Path, request: pytest.FixtureRequest
) -> Iterator[tuple[Job, Job]]:
    """Two jobs on one device of 512 MiB with host memory that it can map."""
    name = f"pair{uuid.uuid4().hex[:8]}"
    runtime_dir = tmp_path / "run"
    runtime_dir.mkdir(mode=0o700)
    settings = {"TIDE_PHANTOM_HOST_NUMA": 1, "TIDE_NEED_WAIT_MS": request.param}
    jobs = [Job(name, runtime_dir, **settings) for _ in range(2)]
    assert [job.answer() for job in jobs] == ["ready", "ready"]
    yield jobs[0], jobs[1]
    for job in jobs:
        job.process.kill()
        job.process.communicate()
    phantom_gpu.forget(name)


PATIENCE_MS = 3000


@pytest.mark.parametrize("pair", [PATIENCE_MS], indirect=True, ids=["patient"])
def test_who_needs_memory_gets_cold_pages_of_others_and_all_values_stay(
    pair: tuple[Job, Job],
) -> None:
    first, second = pair
    assert first.ask("take a 300") == "ok"
    assert first.ask("cold") == "ok"
    second.tell("take b 300")  # waits in its allocation until the first job has answered
    assert second.process.stdout is not None
    asked = given = 0
    deadline = time.monotonic() + 300
    # a boundary an iteration of 20 ms, until the second job has its answer
    while not select.select([second.process.stdout], [], [], 0.02)[0]:
        assert time.monotonic() < deadline
        begun = time.monotonic()
        words = first.ask("boundary").split()
        # Once the first job waited here for others, to have its pages back from who got them.
        assert time.monotonic() - begun < PATIENCE_MS / 1000
        asked += int(words[1])
        given += int(words[3])
    assert second.answer() == "ok"
    assert given >= asked > 0
    assert first.ask("exact") == second.ask("exact") == "True"
    device, used, away = (int(word) for word in first.ask("figures").split())
    assert away > 0 and used <= 512 and device < 300


@pytest.mark.one_torch
@pytest.mark.parametrize("pair", [100], indirect=True, ids=["impatient"])
def test_a_suspended_job_makes_room_and_returns_when_there_is_some(
    pair: tuple[Job, Job],
) -> None:
    first, second = pair
    assert first.ask("take a 350") == "ok"
    assert int(first.ask("suspend").split()[1]) >= 350
    assert second.ask("take b 350") == "ok"
    assert first.ask("resume") == "full"
    assert second.ask("exact") == "True"
    second.process.kill()  # a neighbour that dies gives everything back
    second.process.wait(timeout=30)
    assert first.ask("resume") == "ok"
    assert first.ask("exact") == "True"


@pytest.mark.one_torch
def test_the_process_that_forks_the_scripts_ends_whoever_else_holds_its_input(
    zygote: phantom_gpu.Zygote, tmp_path: pathlib.Path
) -> None:
    """Data workers that a test had left behind kept the session's last minute waiting."""
    del zygote  # there is a phantom
    started = phantom_gpu.Zygote(tmp_path, imports="time")
    told, teller = os.pipe()
    holder = os.fork()
    if holder == 0:
        os.close(teller)
        os.read(told, 1)
        os._exit(0)
    try:
        started.end()
    finally:
        os.close(teller)
        os.waitpid(holder, 0)
        os.close(told)


@pytest.mark.one_torch
def test_a_script_that_does_not_end_is_killed_and_the_next_one_runs(
    zygote: phantom_gpu.Zygote, tmp_path: pathlib.Path
) -> None:
    del zygote  # there is a phantom
    started = phantom_gpu.Zygote(tmp_path, imports="time")
    endless = "import threading; print('it waits', flush=True); threading.Event().wait()"
    try:
        with pytest.raises(AssertionError, match="had not ended after 5 s; it said\\nit waits"):
            started.run(endless, {}, tmp_path / "endless.out", deadline_s=5)
        assert started.run("raise SystemExit(3)", {}, tmp_path / "short.out") == 3
    finally:
        started.end()
