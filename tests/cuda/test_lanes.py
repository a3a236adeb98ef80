"""Jobs of a lane on one phantom device share the memory that lives only in an iteration."""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import select
import signal
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import phantom_gpu
import pytest

pytestmark = pytest.mark.slow

DEVICE_MIB = 512
PAGE_MIB = 20
PERSISTENT_MIB = 60
SECONDS = 60

#: Forks a job for each line, so that PyTorch is imported once.
NURSERY = """
import json, os, signal, sys
import torch, torchtide, torchtide.cuda
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
print("ready", flush=True)
for line in sys.stdin:
    task = json.loads(line)
    child = os.fork()
    if child:
        print(child, flush=True)
        continue
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.environ.update(task["settings"])
    for stream, path, flags in ((0, task["input"], os.O_RDWR), (1, task["output"], os.O_RDWR),
                                (2, task["errors"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)):
        os.dup2(os.open(path, flags, 0o600), stream)
    sys.stdin, sys.stdout = os.fdopen(0), os.fdopen(1, "w")
    sys.argv = task["argv"]
    exec(compile(task["script"], "<job>", "exec"), {"__name__": "__main__"})
    break
"""

#: Trains until it is told to stop. In each iteration: scratch, of which it writes both ends of each
#: page and which it gives back, and a batch that the next iteration looks at; with "late" also, now
#: and then, a block of scratch that lives on into the next iteration. Tells its figures after each.
#: With "faulty" a driver call fails at each boundary: each of those that move pages. With "stuck"
#: an iteration does not end until it is told to go on.
JOB = f"""
import itertools, json, sys, threading
import torch, torchtide, torchtide.cuda as cuda
from torchtide import _core
MIB = 1 << 20
name, scratch, late = sys.argv[1], int(sys.argv[2]), "late" in sys.argv
torchtide.start(name=name)
stop, go_on = threading.Event(), threading.Event()
def obey():
    for line in sys.stdin:
        word = line.strip()
        if word == "stop":
            stop.set()
        elif word == "go_on":
            go_on.set()
        elif word:
            getattr(_core, word)(now=False)  # by the thread that trains, at its boundary
threading.Thread(target=obey, daemon=True).start()
generator = torch.Generator().manual_seed(sum(map(ord, name)))
def filled(mib):
    return torch.randint(0, 256, (mib * MIB,), dtype=torch.uint8, generator=generator)
host = filled({PAGE_MIB})
def written():
    block = torch.empty_like(host, device="cuda")
    for part in (slice(0, MIB), slice(-MIB, None)):
        block[part].copy_(host[part])
    return block
def exact(block):
    return all(torch.equal(block[part].cpu(), host[part])
               for part in (slice(0, MIB), slice(-MIB, None)))
kept, batch, batch_was, survivor = [], None, None, None
damaged = 0
faults = []
if "faulty" in sys.argv:
    import ctypes
    phantom = ctypes.CDLL("libcuda.so.1")
    phantom.phantomCallCount.restype = ctypes.c_uint64
armed, felt = None, 0
if "faulty" in sys.argv:
    faults = [(call, skip) for skip in range(1) for call in
              (b"cuMemUnmap", b"cuMemCreate", b"cuMemMap", b"cuMemSetAccess", b"cuMemRelease",
               b"cuMemAddressReserve", b"cuMemcpyDtoD")] * 2
for step in torchtide.iterations(itertools.count()):
    if not kept:
        kept = [host.cuda() for _ in range({PERSISTENT_MIB // PAGE_MIB})]
    damaged += not torch.equal(kept[step % len(kept)].cpu(), host)
    damaged += batch is not None and not torch.equal(batch.cpu(), batch_was)
    damaged += survivor is not None and not exact(survivor)
    del survivor
    if "faulty" in sys.argv:
        phantom.phantomDisarmFaults()
    if armed:
        call, skip, calls = armed
        if phantom.phantomCallCount(call) - calls > skip:
            felt += 1
            faults = [one for one in faults if one != (call, skip)]
    batch_was = filled(1)
    used = [written() for _ in range(scratch // {PAGE_MIB})]
    batch = batch_was.cuda()
    torch.cuda.synchronize()
    if "stuck" in sys.argv and step == 12:
        print(json.dumps({{"stuck": True}}), flush=True)
        go_on.wait()
        damaged += sum(not exact(one) for one in used)
    survivor = used[step % len(used)] if late and step % 3 == 0 else None
    del used
    _core.cuda_validate()
    said = cuda.report() | {{"step": step, "damaged": damaged}}
    print(json.dumps(said | {{"faults_left": len(faults), "felt": felt}}), flush=True)
    armed = None
    if faults and step > 8:
        call, skip = faults.pop(0)
        armed = call, skip, phantom.phantomCallCount(call)
        phantom.phantomArmFault(call, skip, 1, 999)
    if stop.is_set():
        break
print(json.dumps({{"ended": True, "damaged": damaged}}), flush=True)
"""

#: A model with autograd's threads, a second stream and a graph that is captured on the way. Kernels
#: compute nothing here, so that every parameter and the graph's input stay what was copied to them.
TRAINING = """
import itertools, json, sys, threading
import torch, torchtide, torchtide.cuda as cuda
from torchtide import _core
from torchtide.gpu_check import job
MIB = 1 << 20
torchtide.start(name=sys.argv[1])
stop = threading.Event()
threading.Thread(target=lambda: sys.stdin.readline() and stop.set(), daemon=True).start()
torch.manual_seed(len(sys.argv[1]))
model = job.model_of(small=True)
was = [value.detach().clone() for value in model.parameters()]
graph, damaged, losses = None, 0, []
for step in torchtide.iterations(itertools.count()):
    if step == 0:
        model = model.cuda()
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
        side = torch.cuda.Stream()
    with torch.cuda.stream(side):  # a loader's: its memory is never moved
        ahead = torch.empty(8 * MIB, dtype=torch.uint8, device="cuda")
    batch = torch.randn(64, 64, 64).cuda()
    batch.record_stream(side)
    loss = model(batch).square().mean()
    loss.backward()
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    losses.append(loss.detach())  # small blocks that live on, wherever they are born
    if step == 10:
        numbers = torch.arange(MIB, dtype=torch.float32)
        given = torch.zeros(MIB, device="cuda")
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            inside = torch.empty(24 * MIB, dtype=torch.uint8, device="cuda")
            taken = given + 1
        given.copy_(numbers)
    if graph is not None:
        graph.replay()
        damaged += not torch.equal(given.cpu(), numbers)
    damaged += sum(not torch.equal(one.cpu(), then)
                   for one, then in zip(model.parameters(), was, strict=True))
    _core.cuda_validate()
    print(json.dumps(cuda.report() | {"step": step, "damaged": damaged}), flush=True)
    if stop.is_set():
        break
print(json.dumps({"ended": True, "damaged": damaged}), flush=True)
"""

Report = dict[str, Any]


class Job:
    """A training, its last report, and its ends of two pipes."""

    def __init__(self, name: str, pid: int, streams: list[int]) -> None:
        self.name, self.pid = name, pid
        self._to, self._from = streams
        self.report: Report = {}  # of its last iteration
        self.said: Report = {}  # everything else
        self._rest = ""

    def say(self, word: str) -> None:
        os.write(self._to, f"{word}\n".encode())

    def poll(self, seconds: float) -> None:
        """Reads what it has said meanwhile; waits at most so long for the first word."""
        if not select.select([self._from], [], [], seconds)[0]:
            return
        self._rest += os.read(self._from, 1 << 16).decode()
        *lines, self._rest = self._rest.split("\n")
        for one in map(json.loads, lines):
            if "step" in one:
                self.report = one
            else:
                self.said |= one

    def mib(self, key: str) -> int:
        return int(self.report.get(key, 0)) >> 20

    def kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)

    def end(self) -> None:
        """Whatever it does."""
        with contextlib.suppress(ProcessLookupError):
            self.kill()
        os.close(self._to)
        os.close(self._from)


class Crowd:
    """Jobs on one phantom device, all of one lane."""

    def __init__(self, nursery: subprocess.Popen[str], folder: pathlib.Path) -> None:
        self.nursery, self.folder = nursery, folder
        self.phantom = f"lanes{uuid.uuid4().hex[:8]}"
        self.jobs: list[Job] = []

    def start(
        self, name: str, scratch_mib: int, *words: str, script: str = JOB, **settings: str | int
    ) -> Job:
        usual: dict[str, str | int] = {
            "TIDE_PHANTOM_MB": DEVICE_MIB,
            "TIDE_CUDA_LANES": 1,
            "TIDE_NEED_WAIT_MS": 1000 * SECONDS,
        }
        given = phantom_gpu.environment(self.phantom, self.folder, **(usual | settings))
        paths = {key: str(self.folder / f"{name}.{key}") for key in ("input", "output", "errors")}
        os.mkfifo(paths["input"])
        os.mkfifo(paths["output"])
        # Both ways: neither end waits for the other to be opened, nor sees it closed.
        streams = [os.open(paths[key], os.O_RDWR) for key in ("input", "output")]
        changed = {key: value for key, value in given.items() if key.startswith("TIDE_")}
        argv = [name, name, str(scratch_mib), *words]
        task = {"settings": changed, "script": script, "argv": argv} | paths
        assert self.nursery.stdin is not None and self.nursery.stdout is not None
        self.nursery.stdin.write(json.dumps(task) + "\n")
        self.nursery.stdin.flush()
        self.jobs.append(Job(name, int(self.nursery.stdout.readline()), streams))
        return self.jobs[-1]

    def until(self, what: str, holds: Callable[[], bool]) -> None:
        """Reads what the jobs say until it holds of their last reports."""
        deadline = time.monotonic() + SECONDS
        while not holds():
            assert time.monotonic() < deadline, f"not reached: {what}\n{self.state()}"
            for job in self.jobs:
                job.poll(0.02)

    def stop(self) -> None:
        """All that live end, with all their bytes."""
        for job in self.jobs:
            job.say("stop")
        self.until("ended", lambda: all("ended" in job.said for job in self.jobs))
        assert [job.said["damaged"] for job in self.jobs] == [0] * len(self.jobs), self.state()

    def kill(self, job: Job) -> None:
        """It is dead and gone when this returns."""
        job.kill()
        deadline = time.monotonic() + SECONDS
        while pathlib.Path(f"/proc/{job.pid}").exists():
            assert time.monotonic() < deadline
            select.select([], [], [], 0.005)
        self.jobs.remove(job)
        job.end()

    def state(self) -> str:
        return "\n".join(
            f"{job.name}: {job.report}\n{(self.folder / f'{job.name}.errors').read_text()[-2000:]}"
            for job in self.jobs
        )

    def end(self) -> None:
        for job in self.jobs:
            job.end()
        phantom_gpu.forget(self.phantom)


@pytest.fixture(scope="module")
def nursery(tmp_path_factory: pytest.TempPathFactory) -> Iterator[subprocess.Popen[str]]:
    found = phantom_gpu.for_this_torch()
    if found.reason:
        pytest.skip(found.reason)
    process = phantom_gpu.start(NURSERY, "nursery", tmp_path_factory.mktemp("nursery"))
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    yield process
    process.kill()
    process.communicate()


@pytest.fixture
def crowd(nursery: subprocess.Popen[str], tmp_path: pathlib.Path) -> Iterator[Crowd]:
    tmp_path.chmod(0o700)
    made = Crowd(nursery, tmp_path)
    yield made
    made.end()


def all_of_its_scratch_is_shared(job: Job, mib: int) -> bool:
    return job.mib("lane_chunks") == mib and job.mib("lane") == mib


def test_two_jobs_whose_scratch_does_not_fit_the_device_twice_run_on_it(crowd: Crowd) -> None:
    left, right = crowd.start("left", 300), crowd.start("right", 200)
    assert 2 * PERSISTENT_MIB + 300 + 200 > DEVICE_MIB
    crowd.until(
        "both share",
        lambda: (
            all_of_its_scratch_is_shared(left, 300)
            and all_of_its_scratch_is_shared(right, 200)
            and right.mib("lanes_of_all") == 300
        ),
    )
    # Nobody has to move anything from here on.
    begun = {job.name: job.report for job in crowd.jobs}
    crowd.until(
        "ten hand-overs",
        lambda: all(job.report["step"] >= begun[job.name]["step"] + 10 for job in crowd.jobs),
    )
    for job in crowd.jobs:
        assert job.report["damaged"] == 0
        assert job.report["demoted_pages_total"] == begun[job.name]["demoted_pages_total"]
        for key in ("lane_pages_entered_total", "lane_pages_left_total"):
            assert job.report[key] == begun[job.name][key]
        # what it keeps, and pages on which a batch or PyTorch's small blocks lie
        assert PERSISTENT_MIB <= job.mib("device") <= PERSISTENT_MIB + 2 * PAGE_MIB + 4
    own = left.mib("device") + right.mib("device")
    assert right.mib("used_by_jobs") == own + max(300, 200)
    crowd.stop()


def test_members_are_killed_paused_and_join_and_the_ledger_follows(crowd: Crowd) -> None:
    creator, right = crowd.start("creator", 300), crowd.start("right", 200)
    crowd.until(
        "both share",
        lambda: (
            all_of_its_scratch_is_shared(creator, 300) and all_of_its_scratch_is_shared(right, 200)
        ),
    )
    crowd.kill(creator)
    crowd.until(
        "it is forgotten",
        lambda: (
            right.mib("lanes_of_all") == 200
            and right.mib("used_by_jobs") == right.mib("device") + 200
            and right.mib("outside") == 0
        ),
    )

    # A newcomer gets chunks from who has got them from the dead one, and makes the rest.
    third = crowd.start("third", 240)
    crowd.until(
        "all share",
        lambda: (
            all_of_its_scratch_is_shared(third, 240)
            and all_of_its_scratch_is_shared(right, 200)
            and third.mib("lanes_of_all") == 240
        ),
    )
    crowd.until(
        "a step later", lambda: third.report["used_by_jobs"] == right.report["used_by_jobs"]
    )
    assert third.mib("used_by_jobs") == third.mib("device") + right.mib("device") + 240
    assert third.mib("outside") == 0

    right.say("suspend")
    crowd.until(
        "nothing is left of the paused",
        lambda: third.mib("used_by_jobs") == third.mib("device") + 240,
    )
    step = right.report["step"]
    right.say("resume")
    crowd.until("resumed", lambda: right.report["step"] > step + 2)
    assert all_of_its_scratch_is_shared(right, 200)
    crowd.stop()


def test_what_lives_on_after_an_iteration_leaves_the_lane_in_time(crowd: Crowd) -> None:
    jobs = [crowd.start(name, 100, "late") for name in ("left", "right")]
    crowd.until(
        "pages that left",
        lambda: all(job.report.get("lane_pages_left_total", 0) > 2 for job in jobs),
    )
    crowd.stop()


@pytest.mark.one_torch
def test_who_is_stuck_in_an_iteration_is_left_with_its_scratch(crowd: Crowd) -> None:
    stuck = crowd.start("stuck", 100, "stuck", TIDE_LANE_GRACE_MS=100)
    right = crowd.start("right", 100, TIDE_LANE_GRACE_MS=100)
    crowd.until("it is stuck", lambda: "stuck" in stuck.said)
    step = right.report["step"]
    crowd.until("the other goes on", lambda: right.report["step"] > step + 3)
    crowd.until(
        "the old chunks are charged, and new ones",
        lambda: (
            right.mib("lane_chunks") == 100
            and right.mib("used_by_jobs") == stuck.mib("device") + right.mib("device") + 200
            and right.mib("outside") == 0
        ),
    )
    stuck.say("go_on")
    crowd.until(
        "both share again",
        lambda: (
            stuck.report["step"] > 14
            and all_of_its_scratch_is_shared(stuck, 100)
            and right.mib("used_by_jobs") == stuck.mib("device") + right.mib("device") + 100
        ),
    )
    crowd.stop()


def test_a_training_with_streams_threads_and_a_graph_keeps_all_its_values(crowd: Crowd) -> None:
    jobs = [crowd.start(name, 0, script=TRAINING) for name in ("left", "right")]
    crowd.until(
        "its graph has been replayed", lambda: all(job.report.get("step", 0) > 16 for job in jobs)
    )
    for job in jobs:
        assert job.report["lane_pages_entered_total"] > 0 and job.mib("lane_chunks") > 20
    crowd.stop()


@pytest.mark.one_torch
def test_a_driver_call_that_fails_at_a_boundary_costs_no_byte(crowd: Crowd) -> None:
    # On a device with room: PyTorch itself does not bear a failure while it empties its cache.
    roomy = {"TIDE_PHANTOM_MB": 1024}
    jobs = [crowd.start(name, 140, "late", "faulty", **roomy) for name in ("left", "right")]
    crowd.until(
        "all have failed", lambda: all(job.report.get("faults_left", 1) == 0 for job in jobs)
    )
    for job in jobs:
        assert job.report["felt"] >= 3 and job.report["lane_pages_left_total"] > 2
    crowd.until("they share as before", lambda: all(job.mib("lane_chunks") >= 60 for job in jobs))
    crowd.stop()


def test_without_that_it_would_be_lost(crowd: Crowd) -> None:
    """The control: with survivors left on the lane the jobs see other bytes than theirs."""
    settings = {"TIDE_TEST_SKIP_PRIVATISE": 1}
    jobs = [crowd.start(name, 100, "late", **settings) for name in ("left", "right")]
    crowd.until("damage", lambda: any(job.report.get("damaged", 0) > 0 for job in jobs))
