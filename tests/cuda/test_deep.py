"""A pause that gives the contexts away too, by the driver's checkpoint of the job's process."""

from __future__ import annotations

import json
import pathlib
import select
import subprocess
import sys
import uuid
from collections.abc import Iterator

import phantom_gpu
import pytest
from phantom_gpu import Runner

CONTEXT_MB = 48
DEEP: dict[str, str | int] = {
    "TIDE_CUDA_PAUSE": "deep",
    "TIDE_PHANTOM_MB": 1024,
    "TIDE_PHANTOM_CONTEXT_MB": CONTEXT_MB,
    "TIDE_CUDA_PINNED_KEEP": "0",
}
JOB = f"""
import ctypes, os, signal, subprocess, sys, threading
import torch, torchtide, torchtide.cuda as cuda
from torchtide import _core
from training import Training, ledger
signal.alarm(120)  # ends a script that hangs
torchtide.start()
CONTEXT = {CONTEXT_MB} << 20
DRIVER = {str(phantom_gpu.DRIVER / "libcuda.so.1")!r}
def during(pause_does):
    '''A pause at the next boundary; a thread does something in it, then resumes the job.'''
    held = threading.Event()
    torchtide.runtime.GATE.on_held = lambda on: held.set() if on else None
    errors = []
    def do():
        try:
            assert held.wait(60), "the job was not held"
            pause_does()
        except BaseException as error:
            errors.append(repr(error))
        finally:
            os.environ.pop("TIDE_PHANTOM_FAULTS", None)  # read by helpers; this process has none
            torchtide.resume()
    torchtide.pause()
    thread = threading.Thread(target=do)
    thread.start()
    return thread, errors
def pauses(job, *each):
    '''One iteration for each, with a pause before it.'''
    for pause_does in each:
        thread, errors = [], []
        def begin():
            thread[:], errors[:] = zip(during(pause_does))
        job.run(2, between={{0: begin}})
        thread[0].join()
        assert errors == [[]], errors
        job.kept.check()
"""

OTHER = """
import ctypes, sys
driver = ctypes.CDLL(sys.argv[1])
context, figures, at = ctypes.c_void_p(), (ctypes.c_uint64 * 5)(), ctypes.c_uint64()
assert driver.cuInit(0) == 0
driver.phantomLedger(0, figures)
print(figures[1], flush=True)
assert driver.cuDevicePrimaryCtxRetain(ctypes.byref(context), 0) == 0
assert driver.cuCtxSetCurrent(context) == 0
driver.phantomLedger(0, figures)
assert driver.cuMemAlloc_v2(ctypes.byref(at), ctypes.c_size_t(figures[0] - figures[1])) == 0
driver.phantomLedger(0, figures)
assert figures[0] == figures[1], list(figures)
print("all of it is used", flush=True)
if len(sys.argv) > 2:
    sys.stdin.read()
"""


def test_a_deep_pause_leaves_a_device_to_others_whole_and_all_bytes_return(run: Runner) -> None:
    script = f"""
job = Training("mlp", 4, canaries=(300, 3 << 20))
job.run(2)
before = ledger()
assert before["used"] >= CONTEXT + cuda.report()["device"], before
def look():
    assert _core.cuda_frozen()
    figures = cuda.report()
    assert figures["deep"] == "its contexts are away" and figures["device"] == 0, figures
    assert cuda.memory_table() and "not asked" in figures["offers"]["shares"]
    assert ledger()["used"] == 0, ledger()
    other = subprocess.run([sys.executable, "-I", "-S", "-c", {OTHER!r}, DRIVER],
                           capture_output=True, text=True, timeout=60)
    assert other.stdout.split("\\n")[:2] == ["0", "all of it is used"], other
pauses(job, look)
assert not _core.cuda_frozen() and cuda.report()["deep"] == ""
assert ledger()["used"] >= before["used"] - (64 << 20), (before, ledger())
job.end()
"""
    run(JOB + script, **DEEP)


def test_a_driver_that_fails_at_any_call_leaves_a_job_that_works(run: Runner) -> None:
    script = """
job = Training("mlp", 4, canaries=(300, 3 << 20))
job.run(2)
CALL = "cuCheckpointProcess"
def refused_at(step):
    def look():
        assert not _core.cuda_frozen()
        figures = cuda.report()
        assert figures["device"] == 0 and figures["free"] > 0, figures
        assert "stayed" in figures["deep"] and CALL + step in figures["deep"], figures
        assert "CUDA_ERROR_UNKNOWN (999)" in figures["deep"], figures
    return look
def fault(*steps):
    os.environ["TIDE_PHANTOM_FAULTS"] = ",".join(f"{CALL}{step}:0:999:100" for step in steps)
for step in ("Lock", "Checkpoint"):
    fault(step)
    pauses(job, refused_at(step))
def not_back(*steps):
    '''A resume that the driver refuses changes nothing, and the next one works.'''
    def look():
        assert _core.cuda_frozen()
        fault(*steps)
        try:
            torchtide.resume()
            _core.cuda_resume(0)
            raise AssertionError("it was resumed")
        except RuntimeError as error:
            assert CALL in str(error), error
        assert _core.cuda_frozen() and cuda.report()["device"] == 0
    return look
pauses(job, not_back("Restore"), not_back("Unlock"), not_back("GetState"))
# A checkpoint that fails and cannot be undone: until the resume the process stays locked.
fault("Checkpoint", "Unlock")
def locked():
    assert "may be away" in cuda.report()["deep"], cuda.report()["deep"]
    not_back("Unlock")()
pauses(job, locked)
pauses(job, lambda: None)
job.end()
"""
    run(JOB + script, **DEEP)


def test_a_thread_that_holds_pythons_lock_in_a_cuda_call_does_not_hold_the_job_for_ever(
    run: Runner,
) -> None:
    script = """
job = Training("mlp", 4, canaries=(300, 3 << 20))
job.run(2)
def call():
    torch.cuda.mem_get_info()  # once it did not come back: the job could hear nobody any more
    while _core.cuda_frozen():  # the helper has unlocked this process, and ends
        pass
    figures = cuda.report()
    assert "did not answer" in figures["deep"], figures
    assert figures["device"] == 0, figures
pauses(job, call, lambda: None)
job.end()
"""
    run(JOB + script, **DEEP)


def test_an_interrupt_of_a_deeply_paused_job_returns_its_memory(run: Runner) -> None:
    script = """
job = Training("mlp", 4, canaries=(300, 3 << 20))
job.run(2)
signal.signal(signal.SIGINT, signal.default_int_handler)
def interrupt():
    assert _core.cuda_frozen()
    os.kill(os.getpid(), signal.SIGINT)
    done.wait(60)
done = threading.Event()
found = []
try:
    job.run(2, between={0: lambda: found.append(during(interrupt))})
    raise SystemExit("it was not interrupted")
except KeyboardInterrupt:
    assert not _core.cuda_frozen() and cuda.report()["device"] > 0
    job.kept.check()
done.set()
found[0][0].join()
job.run(2)
job.end()
"""
    run(JOB + script, **DEEP)


ENDS = """
block = torch.ones(32 << 20, dtype=torch.uint8, device="cuda")
def train():
    for _ in torchtide.iterations(range(10**9)):
        torch.cuda.synchronize()
held = threading.Event()
torchtide.runtime.GATE.on_held = lambda on: held.set() if on else None
"""


@pytest.mark.parametrize(
    "how",
    [
        "sys.exit(0)",
        "ctypes.CDLL(None).exit(0)",  # as a library does it: nothing of Python's is run
        "os.kill(os.getpid(), signal.SIGTERM)",
    ],
    ids=["an ordinary end", "exit", "a signal"],
)
def test_a_process_that_ends_while_it_is_deeply_paused_does_not_hang(run: Runner, how: str) -> None:
    script = f"""
block = torch.ones(32 << 20, dtype=torch.uint8, device="cuda")
def stop(number, frame): sys.exit(0 if _core.cuda_frozen() else "it was not frozen")
signal.signal(signal.SIGTERM, stop)
for step in torchtide.iterations(range(2)):
    torch.cuda.synchronize()
    if step == 1:
        torchtide.runtime.GATE.end()
        torchtide.pause()
        assert _core.cuda_frozen()
        {how}
raise SystemExit("it went on")
"""
    run(JOB + script, **DEEP)


@pytest.mark.one_torch
def test_a_resume_waits_for_no_room_and_works_when_there_is_some(run: Runner) -> None:
    script = f"""
job = Training("mlp", 4, canaries=(300,))
job.run(2)
def no_room():
    other = subprocess.Popen([sys.executable, "-I", "-S", "-c", {OTHER!r}, DRIVER, "stay"],
                             stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert [other.stdout.readline() for _ in range(2)] == ["0\\n", "all of it is used\\n"]
    try:
        _core.cuda_resume(0)
        raise AssertionError("there was no room")
    except MemoryError as error:
        assert "Restore" in str(error) and _core.cuda_frozen(), error
    other.communicate()
pauses(job, no_room)
job.end()
"""
    run(JOB + script, **DEEP, TIDE_NEED_WAIT_MS=100)


@pytest.mark.one_torch
def test_memory_that_another_process_shares_makes_it_an_ordinary_pause(run: Runner) -> None:
    script = """
shared = torch.ones(4 << 20, dtype=torch.uint8, device="cuda")
shared.untyped_storage()._share_cuda_()
job = Training("mlp", 4, canaries=(300,))
def look():
    assert not _core.cuda_frozen() and "shared with another" in cuda.report()["deep"]
pauses(job, look)
"""
    run(JOB + script, **DEEP)


@pytest.mark.one_torch
def test_a_word_that_is_no_way_to_pause_is_refused_where_the_job_starts(run: Runner) -> None:
    script = """
from torchtide.errors import OptionError
try:
    cuda.enable()
    raise SystemExit("it was taken")
except OptionError as error:
    assert "'deeply'" in str(error) and "TIDE_CUDA_PAUSE=deep" in str(error), error
"""
    job = "import torch, torchtide, torchtide.cuda as cuda\n"
    run(job + script, TIDE_CUDA_PAUSE="deeply", TIDE_CUDA_HOOK="off")


# ---- the phantom itself, which must refuse what a driver refuses ----

TARGET = """
import ctypes, sys
driver = ctypes.CDLL(sys.argv[1])
assert driver.cuInit(0) == 0
print("here", flush=True)
for line in sys.stdin:
    print(driver.cuCtxSynchronize(), flush=True)
"""
ILLEGAL_STATE, INVALID_VALUE, NOT_INITIALIZED = 401, 1, 3
RUNNING, LOCKED, CHECKPOINTED = 0, 1, 2
ASKER = """
import ctypes, json, sys
driver = ctypes.CDLL(sys.argv[1])
for line in sys.stdin:
    step, pid = json.loads(line)
    state = ctypes.c_int(-1)
    if step == "cuInit":
        print(json.dumps([driver.cuInit(0), -1]), flush=True)
        continue
    result = getattr(driver, "cuCheckpointProcess" + step)(pid, None)
    driver.cuCheckpointProcessGetState(pid, ctypes.byref(state))
    print(json.dumps([result, state.value]), flush=True)
"""


@pytest.fixture
def phantom(zygote: phantom_gpu.Zygote, tmp_path: pathlib.Path) -> Iterator[str]:
    del zygote  # there is a phantom
    name = f"deep{uuid.uuid4().hex[:8]}"
    yield name
    phantom_gpu.forget(name)


def talker(script: str, phantom: str, folder: pathlib.Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", script, str(phantom_gpu.DRIVER / "libcuda.so.1")],
        env=phantom_gpu.environment(phantom, folder) | {"LD_PRELOAD": ""},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def ask(process: subprocess.Popen[str], words: str) -> str:
    assert process.stdin is not None and process.stdout is not None
    process.stdin.write(words + "\n")
    process.stdin.flush()
    return process.stdout.readline().strip()


@pytest.mark.one_torch
def test_the_phantom_goes_through_the_states_of_cuda_h_and_no_others(
    phantom: str, tmp_path: pathlib.Path
) -> None:
    with talker(TARGET, phantom, tmp_path) as target, talker(ASKER, phantom, tmp_path) as asker:
        assert target.stdout is not None and target.stdout.readline() == "here\n"

        def step(name: str, pid: int = target.pid) -> list[int]:
            answer: list[int] = json.loads(ask(asker, json.dumps([name, pid])))
            return answer

        assert step("Lock") == [NOT_INITIALIZED, -1]
        assert step("cuInit") == [0, -1]
        assert step("Lock", asker.pid) == [INVALID_VALUE, -1]  # itself
        assert step("Lock", 1 << 22) == [INVALID_VALUE, -1]  # nobody
        allowed = {
            (RUNNING, "Lock"): LOCKED,
            (LOCKED, "Checkpoint"): CHECKPOINTED,
            (CHECKPOINTED, "Restore"): LOCKED,
            (LOCKED, "Unlock"): RUNNING,
        }
        state = RUNNING
        for right in ("Lock", "Checkpoint", "Restore", "Unlock"):
            for name in ("Lock", "Checkpoint", "Restore", "Unlock"):
                if (state, name) not in allowed:
                    assert step(name) == [ILLEGAL_STATE, state], (state, name)
            state = allowed[state, right]
            assert step(right) == [0, state]
        assert step("Lock") == [0, LOCKED]
        target.stdin.write("\n")  # type: ignore[union-attr]
        target.stdin.flush()  # type: ignore[union-attr]
        ready, _, _ = select.select([target.stdout], [], [], 0)
        assert not ready, "a call of a locked process has returned"
        assert step("Unlock") == [0, RUNNING]
        assert target.stdout.readline().strip() == "201"  # it has no context
