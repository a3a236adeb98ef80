"""Whole models train on the phantom GPU while limits move, pages leave and return, jobs pause."""

from __future__ import annotations

import os

import pytest
from phantom_gpu import Runner

pytestmark = pytest.mark.slow

#: All combinations instead of a fair sample of them.
ALL = os.environ.get("TIDE_TEST_PHANTOM") == "all"

TRAIN = """
import torch, torchtide, torchtide.cuda as cuda
from torchtide import _core, errors
from training import MIB, Training, ledger, paused
torchtide.start()
"""

# Kind, batch, mixed precision, GiB of the device.
MODELS = [
    ("vae", 64, False, 80),
    ("vae", 64, True, 8),
    ("resnet50", 32, False, 8),
    ("resnet50", 32, True, 80),
    ("gpt2", 4, True, 8),
    ("gpt2", 8, True, 80),
    ("gpt2", 2, False, 8),
]
SAMPLE = [MODELS[1], MODELS[3], MODELS[4]]


def name(model: tuple[str, int, bool, int]) -> str:
    kind, batch, amp, gib = model
    return f"{kind}-{batch}-{'amp' if amp else 'fp32'}-{gib}GiB"


@pytest.mark.parametrize("model", MODELS if ALL else SAMPLE, ids=name)
def test_a_model_trains_while_its_limit_shrinks_and_grows(
    run: Runner, model: tuple[str, int, bool, int]
) -> None:
    kind, batch, amp, gib = model
    script = """
job = Training(KIND, BATCH, amp=AMP)
cuda.keep_cold(job.optimizer)
peak = []
def cache():
    peak.append(torch.cuda.max_memory_reserved())
    cached = torch.cuda.memory_reserved() - torch.cuda.memory_allocated()
    torch.empty(cached + peak[0] // 8, dtype=torch.uint8, device="cuda")
    assert cuda.report()["device"] > peak[0]
def shrink():
    answer = cuda.set_limit(peak[0])
    assert answer["status"] == "applied" and answer["moved"] > 0, answer
def too_far():
    try:
        cuda.set_limit(peak[0] // 50)
        raise SystemExit("the parameters cannot have left")
    except errors.LimitConflict:
        assert cuda.report()["limit"] == peak[0] and cuda.report()["host_mapped"] == 0
def cold():
    torch.cuda.empty_cache()
    state = sum(v.nbytes for s in job.optimizer.state.values()
                for v in s.values() if torch.is_tensor(v) and v.is_cuda)
    cuda.set_limit(torch.cuda.memory_reserved() - state // 2)
    assert cuda.report()["host_mapped"] >= state // 2, (cuda.report(), state)
    job.kept.check()
    cuda.set_limit(None)
    assert cuda.report()["host_mapped"] == 0
job.run(7, {2: cache, 3: shrink, 4: too_far, 5: lambda: cuda.set_limit(None), 6: cold})
assert job.samples == 7 * 3
job.end()
"""
    given = f"KIND, BATCH, AMP = {kind!r}, {batch}, {amp}\n"
    run(TRAIN + given + script, TIDE_PHANTOM_MB=gib << 10, TIDE_PHANTOM_HOST_NUMA=1)


@pytest.mark.parametrize("early", [False, True])
def test_a_cold_optimizer_makes_room_for_an_iteration(run: Runner, *, early: bool) -> None:
    """What an iteration needs at its peak does not fit beside the state, which is read in place."""
    script = """
def trained(): return Training("gpt2", 8, amp=True, layers=2, words=4096, length=256)
job = trained()
job.run(3)
peak = cuda.report()["device"]
state = sum(v.nbytes for s in job.optimizer.state.values() for v in s.values() if v.is_cuda)
limit = peak - state // 2
if EARLY:  # the first iterations too
    job.end()
    cuda.set_limit(limit)
    job = trained()
    job.run(1)
else:
    cuda.set_limit(limit)
failed = 0
for _ in torchtide.iterations(range(3)):
    try:
        job.step(job.batches[0])
    except torch.OutOfMemoryError:
        failed += 1
        job.optimizer.zero_grad(set_to_none=True)
assert failed > 0, "it fits anyway"
cuda.keep_cold(job.optimizer)
for _ in range(2):
    job.run(3)
    assert 0 < cuda.report()["host_mapped"] <= state, cuda.report()
    with paused():  # which empties the cache
        job.run(2)
job.kept.check()
cuda.set_limit(None)
job.run(1)
assert cuda.report()["host_mapped"] == 0
job.end()
"""
    run(TRAIN + f"EARLY = {early}\n" + script, TIDE_PHANTOM_MB=8192, TIDE_PHANTOM_HOST_NUMA=1)


@pytest.mark.parametrize("gib", [8, 80] if ALL else [8])
def test_training_goes_on_after_pauses_and_after_memory_ran_out(run: Runner, gib: int) -> None:
    script = """
job = Training("gpt2", 4, amp=True, layers=3, words=8192, length=512)
cuda.keep_cold(job.optimizer)
job.run(3)
peak = torch.cuda.max_memory_reserved()
for _ in range(2):
    with paused():
        job.run(2)
torch.cuda.empty_cache()
cuda.keep_cold([])  # whose pages would make room
cuda.set_limit(torch.cuda.memory_reserved() + 40 * MIB)
for number in torchtide.iterations(range(4)):
    try:
        job.step(job.batches[0])
        assert number > 0
    except torch.OutOfMemoryError:
        assert number == 0 and "this job's limit" in cuda.last_oom, cuda.last_oom
        job.sample()
        job.optimizer.zero_grad(set_to_none=True)
        cuda.set_limit(None)
with paused():
    job.run(2)
assert torch.cuda.max_memory_reserved() < 2 * peak
job.end()
"""
    run(TRAIN + script, TIDE_PHANTOM_MB=gib << 10, TIDE_PHANTOM_HOST_NUMA=1)


@pytest.mark.parametrize(
    ("job", "resume"),
    [
        ('Training("vae", 32, pinned=True)', "whole"),
        ('Training("gpt2", 2, amp=True, layers=3, words=8192, length=128)', "layers"),
    ],
    ids=["vae-whole", "gpt2-layers"],
)
def test_a_job_that_is_suspended_at_each_boundary_loses_nothing(
    run: Runner, job: str, resume: str
) -> None:
    script = f"""
job = {job}
job.run(8)
assert _core.cuda_report(0)["promoted_pages_total"] >= 7
job.end()
"""
    settings = {"TIDE_CUDA_RESUME": resume, "TIDE_TEST_ALWAYS_SUSPEND": 1}
    run(TRAIN + script, TIDE_PHANTOM_MB=8192, **settings)


LATE = """
job = Training("vae", 64, pinned=True)
job.run(2)
side = torch.cuda.Stream()
pinned = torch.arange(4 * MIB, dtype=torch.int32).pin_memory()
moved = torch.zeros_like(pinned, device="cuda")
torch.cuda.synchronize()
def copy():
    with torch.cuda.stream(side):
        moved.copy_(pinned, non_blocking=True)
"""


def test_copies_that_are_under_way_arrive_before_their_pages_leave(run: Runner) -> None:
    script = """
torchtide.runtime.GATE.end()
copy()
with paused():  # at once, as between two iterations
    job.run(2)
pinned.zero_()  # the next batch
side.synchronize()
assert torch.equal(moved.cpu(), torch.arange(4 * MIB, dtype=torch.int32))
del moved
job.end()
"""
    run(TRAIN + LATE + script, TIDE_PHANTOM_MB=8192, TIDE_PHANTOM_DELAY=1)


@pytest.mark.one_torch
def test_a_pause_that_does_not_wait_for_the_device_is_seen_to_fail(run: Runner) -> None:
    """The control: what the test above looks for can be seen."""
    script = """
import ctypes
driver = ctypes.CDLL("libcuda.so.1")
torchtide.runtime.GATE.end()
copy()
NOTHING_DONE = -1
driver.phantomArmFault(b"cuCtxSynchronize", 0, 1000, NOTHING_DONE)
driver.phantomArmFault(b"cuStreamSynchronize", 0, 1000, NOTHING_DONE)
try:
    torchtide.pause()
except BaseException as error:
    print("refused:", error)
driver.phantomDisarmFaults()
try:
    side.synchronize()
    raise SystemExit("nobody has seen that a wait is missing")
except RuntimeError as error:
    assert "illegal memory access" in str(error), error
import os
os._exit(0)  # with a broken device there is no ordinary end
"""
    run(TRAIN + LATE + script, TIDE_PHANTOM_MB=8192, TIDE_PHANTOM_DELAY=1)


def test_a_driver_call_that_fails_anywhere_in_a_move_leaves_training_going_on(run: Runner) -> None:
    script = """
import ctypes, itertools
driver = ctypes.CDLL("libcuda.so.1")
driver.phantomCallCount.restype = ctypes.c_uint64
job = Training("vae", 8, canaries=(300, 3 * MIB))
cuda.keep_cold(job.optimizer)
job.run(2)
torch.cuda.empty_cache()
whole = cuda.report()["reserved"]
def shrink(): return cuda.set_limit(whole - 2 * MIB)["moved"] >= 2 * MIB
def grow():
    cuda.set_limit(None)
    return cuda.report()["host_mapped"] == 0
def leave():
    cuda.suspend()
    return cuda.report()["device"] == 0
def back(): return cuda.resume() is None
failures = {}
for there, again in ((shrink, grow), (leave, back)):
    for move, undo in ((there, again), (again, there)):
        if move is again: there()
        for position in itertools.count(step=STEP):
            assert position < 400
            before = driver.phantomCallCount(b"*")
            driver.phantomArmFault(b"*", position, 1, 999)
            try:
                worked = move()
            except (RuntimeError, MemoryError, OSError, errors.TideError):
                worked = False
            calls = driver.phantomCallCount(b"*") - before
            driver.phantomDisarmFaults()
            _core.cuda_validate()
            if not worked:
                failures[move.__name__] = failures.get(move.__name__, 0) + 1
                if not cuda.report()["suspended"]: job.kept.check()
                assert move(), (move, position)
            undo()
            if calls <= position: break
        if move is again: again()
assert len(failures) == 4, failures  # each move has failed
job.run(2)
job.end()
"""
    step = f"STEP = {1 if ALL else 3}\n"
    run(TRAIN + step + script, TIDE_PHANTOM_MB=8192, TIDE_PHANTOM_HOST_NUMA=1)
