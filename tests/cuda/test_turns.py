"""Two jobs that do not fit a phantom device together run on it in turns, and lose nothing."""

from __future__ import annotations

import pathlib
import signal
import subprocess
import sys
import threading
import uuid
from collections.abc import Iterator

import live_machine
import phantom_gpu
import phantom_machine
import pytest

pytestmark = pytest.mark.slow

MIB_EACH = 320
SECONDS = 600  # after which a job that hangs is killed, and its test fails
JOB = f"""
import sys, threading
import torch, torchtide, torchtide.cuda as cuda
name, steps = sys.argv[1], int(sys.argv[2])
torchtide.start(name=name)
def obey():
    for line in sys.stdin:
        getattr(torchtide, line.strip())()
        print("obeyed", line, end="", flush=True)
threading.Thread(target=obey, daemon=True).start()
generator = torch.Generator().manual_seed(sum(map(ord, name)))
def filled(): return torch.randint(0, 256, (32 << 20,), dtype=torch.uint8, generator=generator)
host = [filled() for _ in range(3)]
blocks = []
def exact():
    return all(torch.equal(one.cpu(), host[i % 3]) for i, one in enumerate(blocks))
try:
    for step in torchtide.iterations(range(steps)):
        while len(blocks) * 32 < {MIB_EACH}:
            blocks.append(host[len(blocks) % 3].cuda())
        at = step % len(blocks)
        blocks[at].copy_(host[at % 3])
        torch.cuda.synchronize()
        print("step", step, flush=True)
except KeyboardInterrupt:
    print("interrupted", exact(), flush=True)
    sys.exit(0)
moved = cuda.report()["demoted_pages_total"]
print("exact", exact(), "moved", moved, flush=True)
"""


SETTINGS: dict[str, str | int] = {
    "TIDE_PHANTOM_MB": 512,
    "TIDE_CUDA_SWITCH_SHARE": "0.5",
    # Longer than the test: nothing may depend on a wait that ends in vain.
    "TIDE_NEED_WAIT_MS": 2_000 * SECONDS,
}


class Job:
    """One of the two processes."""

    def __init__(self, name: str, phantom: str, folder: pathlib.Path, steps: int) -> None:
        environment = phantom_gpu.environment(
            phantom,
            folder,
            **SETTINGS,
        )
        self.process = subprocess.Popen(
            [sys.executable, "-c", JOB, name, str(steps)],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

        self._deadline = threading.Timer(SECONDS, self.process.kill)
        self._deadline.start()

    def end(self) -> None:
        """Whatever it does."""
        self._deadline.cancel()
        self.process.kill()
        self.process.communicate()

    def say(self, word: str) -> None:
        """An order, which it obeys at its next boundary."""
        assert self.process.stdin is not None
        self.process.stdin.write(word + "\n")
        self.process.stdin.flush()

    def until(self, word: str) -> list[str]:
        """The words of the next line that begins with `word`."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith(word):
                return line.split()
        raise AssertionError(self.process.communicate()[1][-4000:])


@pytest.fixture
def pair(zygote: phantom_gpu.Zygote, tmp_path: pathlib.Path) -> Iterator[list[Job]]:
    """Two jobs, of which each has five eighths of the device."""
    phantom = f"turns{uuid.uuid4().hex[:8]}"
    tmp_path.chmod(0o700)
    jobs = [Job(name, phantom, tmp_path, 25) for name in ("left", "right")]
    yield jobs
    for job in jobs:
        job.end()
    phantom_gpu.forget(phantom)


def test_two_jobs_of_five_eighths_of_a_device_both_end_with_all_values(
    zygote: phantom_gpu.Zygote, tmp_path: pathlib.Path
) -> None:
    """A daemon hears that their turns are longer than the lane would have them."""
    del zygote  # there is a phantom
    (tmp_path / "job.py").write_text(JOB)
    names = ("left", "right")
    with phantom_machine.machine(tmp_path, **SETTINGS) as machine:
        for name in names:
            command = phantom_machine.command("python", "job.py", name, "25")
            machine.start("--name", name, "--", *command)
        codes = [job.wait(live_machine.DEADLINE_S) for job in machine.jobs]
        log = (tmp_path / "log").read_text()
        assert codes == [0, 0], log
        ends = [line.split() for line in log.splitlines() if line.startswith("exact")]
        assert [end[1] for end in ends] == ["True", "True"], log
        assert max(int(end[3]) for end in ends) > 0, "nobody had to step aside"
        said = [machine.tide("events", "--job", name, "-n", "0") for name in names]
        # A step copies 32 MiB, and five times as much has to move for it.
        assert max(text.count("keeps its turns for") for text in said) == 1, said


@pytest.mark.one_torch
def test_when_one_is_killed_the_other_has_its_pages_and_goes_on(pair: list[Job]) -> None:
    killed, left = pair
    killed.until("step 3")
    killed.process.kill()
    assert left.until("exact")[1] == "True"


@pytest.mark.one_torch
def test_an_interrupted_job_finds_all_its_values(pair: list[Job]) -> None:
    first, second = pair
    first.until("step 2")
    first.process.send_signal(signal.SIGINT)
    assert first.until("interrupted")[1] == "True"
    assert second.until("exact")[1] == "True"


@pytest.mark.one_torch
def test_a_paused_job_goes_on_though_the_other_has_the_device_by_then(pair: list[Job]) -> None:
    paused, busy = pair
    paused.until("step 3")
    paused.say("pause")
    paused.until("obeyed pause")
    busy.until("step 12")
    paused.say("resume")
    paused.until("obeyed resume")
    assert paused.until("exact")[1] == "True"
    assert busy.until("exact")[1] == "True"


BOTH = """
child = os.fork()
if child == 0:
    other()
    sys.exit(0)
waiter()
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
"""
RACE = """
import ctypes, itertools, mmap, os, sys, threading, time
import torch, torchtide, torchtide.cuda as cuda
driver = ctypes.CDLL("libcuda.so.1")
driver.phantomCallCount.restype = ctypes.c_uint64
WAITER_RAN, OTHER_IN, OTHER_MAY_GO, OTHER_OUT = range(4)
flags = memoryview(mmap.mmap(-1, 64)).cast("q")
def until(condition):
    deadline = time.monotonic() + 300
    while not condition():
        assert time.monotonic() < deadline
def waiter():
    torchtide.start(name="waiter")
    main = threading.get_ident()
    def waits(): return sys._current_frames()[main].f_code.co_name == "begin"
    def pause_and_resume():
        until(lambda: flags[OTHER_IN] and waits())
        driver.phantomHoldCall(b"cuMemcpyDtoH")  # the suspension lasts until it is let go
        begun = driver.phantomCallCount(b"cuCtxSynchronize")
        threading.Thread(target=torchtide.pause, daemon=True).start()
        until(lambda: driver.phantomCallCount(b"cuCtxSynchronize") > begun)
        flags[OTHER_MAY_GO] = 1
        until(lambda: flags[OTHER_OUT])  # the turn is the waiter's now
        driver.phantomHoldCall(None)
        until(lambda: torchtide.report()["suspended"])
        torchtide.resume()
    helper = threading.Thread(target=pause_and_resume, daemon=True)
    helper.start()
    host, block = torch.arange(8 << 20), None
    for _ in torchtide.iterations(itertools.count()):
        block = host.cuda() if block is None else block
        assert torch.equal(block.cpu(), host)
        flags[WAITER_RAN] += 1
        if not helper.is_alive():
            return
def other():
    until(lambda: flags[WAITER_RAN] > 2)
    torchtide.start(name="other")
    for _ in torchtide.iterations(range(1)):
        flags[OTHER_IN] = 1
        until(lambda: flags[OTHER_MAY_GO])
    flags[OTHER_OUT] = 1
"""


def test_a_turn_that_comes_while_a_job_is_being_paused_is_given_back(
    run: phantom_gpu.Runner,
) -> None:
    """Once it ran its iteration with its pages away: the wait ended with the turn."""
    run(RACE + BOTH)


PREFETCH = """
import itertools, mmap, os, sys, time
import torch, torchtide, torchtide.cuda as cuda
FILLED, OTHER_IN, OTHER_OUT, AWAY = range(4)
AGAIN = {again}
flags = memoryview(mmap.mmap(-1, 64)).cast("q")
def until(condition):
    deadline = time.monotonic() + 100
    while not condition():
        assert time.monotonic() < deadline
        os.sched_yield()
def waiter():
    torchtide.start(name="waiter")
    generator = torch.Generator().manual_seed(1)
    host = [torch.randint(0, 256, (32 << 20,), dtype=torch.uint8, generator=generator)
            for _ in range(8)]
    for _ in torchtide.iterations(range(1)):
        blocks = [one.cuda() for one in host]
    flags[FILLED] = 1
    until(lambda: flags[OTHER_IN])
    for _ in torchtide.iterations(range(1)):
        assert flags[OTHER_OUT]
        assert all(torch.equal(one.cpu(), copy) for one, copy in zip(blocks, host))
    report = cuda.report()
    print(report)
    came, took = report["prefetched_bytes_total"], report["prefetch_overlap_ns_total"]
    if AGAIN:  # what had come was needed before the turn
        assert came == took == 0 and report["demoted_pages_total"] > 8
    else:
        assert 0 < came <= flags[AWAY] / 4 and took > 0
def other():
    until(lambda: flags[FILLED])
    torchtide.start(name="other")
    def waiters():
        report = cuda.report()
        return report["used_by_jobs"] - report["device"]
    deadline = time.monotonic() + 100
    for step in torchtide.iterations(itertools.count()):
        assert time.monotonic() < deadline
        flags[OTHER_IN] = 1
        if step == 0:
            one = torch.empty(1, device="cuda")
            full = least = waiters()
            block = torch.empty(460 << 20, dtype=torch.uint8, device="cuda")
        elif step == 1:
            del block  # there is room for the waiter now, whose turn it is not
            torch.cuda.empty_cache()
        elif waiters() > least:
            flags[AWAY] = full - least
            if AGAIN:
                block = torch.empty(460 << 20, dtype=torch.uint8, device="cuda")
            flags[OTHER_OUT] = 1
            return
        least = min(least, waiters())
"""


@pytest.mark.parametrize("again", [False, True], ids=["used", "given back"])
def test_who_waits_has_pages_back_before_its_turn_where_there_is_room(
    run: phantom_gpu.Runner, again: bool
) -> None:
    """Their values too, also where the other one wants the room again."""
    # A turn lasts as long as its holder wants it.
    run(PREFETCH.format(again=again) + BOTH, **SETTINGS, TIDE_LANE_QUANTUM_MS=1_000 * SECONDS)
