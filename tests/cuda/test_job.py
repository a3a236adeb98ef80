"""A job that uses CUDA and says nothing of us: the hook by itself, pauses, forks, what is shown."""

from __future__ import annotations

import pathlib
import subprocess
import time
from collections.abc import Iterator

import live_machine
import phantom_gpu
import phantom_machine
import pytest
from phantom_gpu import Runner

pytestmark = pytest.mark.slow

JOB = """
import torch, torchtide, torchtide.cuda as cuda
from torchtide import _core
MIB = 1 << 20
linear = torch.nn.Linear(64, 64)
def train(steps, device="cuda"):
    model = linear.to(device)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(steps):
        optimizer.zero_grad()
        model(torch.ones(4, 64, device=device)).sum().backward()
        optimizer.step()
"""


def test_the_first_use_of_cuda_in_a_job_enables_the_hook(run: Runner) -> None:
    script = """
@torchtide.job
def work():
    assert not cuda.enabled() and not torch.cuda.is_initialized()
    block = torch.ones(40 * MIB, dtype=torch.uint8, device="cuda")
    assert cuda.enabled()
    figures = cuda.report()
    assert figures["reserved"] == figures["torch_reserved"] >= 40 * MIB, figures
    assert all(s["is_expandable"] for s in torch.cuda.memory_snapshot())
    train(4)
    assert torchtide.report()["iterations"] >= 3
work()
"""
    run(JOB + script)


def test_a_job_without_cuda_has_no_context_on_any_device(run: Runner) -> None:
    script = """
import ctypes
driver = ctypes.CDLL("libcuda.so.1")
driver.phantomCallCount.restype = ctypes.c_uint64
def contexts(): return driver.phantomCallCount(b"cuDevicePrimaryCtxRetain")
torchtide.start()
train(4, "cpu")
assert torch.cuda.is_available() and torch.cuda.device_count() == 1
assert not torch.cuda.is_initialized() and not _core.cuda_started()
assert contexts() == 0
torch.ones(1, device="cuda")
assert contexts() > 0 and cuda.enabled()  # so that the count above means something
"""
    run(JOB + script)


@pytest.mark.parametrize(
    ("settings", "refusal"),
    [
        ({"TIDE_CUDA_HOOK": "off"}, ""),
        ({"TIDE_DISABLE": "1"}, ""),
        ({"TIDE_CUDA_HOOK": "fraction"}, "asks for no more"),
        ({"TIDE_CUDA_DRIVER": "libnone.so"}, "libnone.so"),
    ],
    ids=["off", "disabled", "no more than a fraction", "no driver"],
)
def test_without_the_hook_a_job_trains_on_and_hears_why_once(
    run: Runner, settings: dict[str, str], refusal: str
) -> None:
    script = """
import os
os.environ.update(GIVEN)
torchtide.start()
block = torch.ones(40 * MIB, dtype=torch.uint8, device="cuda")
train(4)
torch.ones(1, device="cuda")
assert not cuda.enabled()
assert not any(s["is_expandable"] for s in torch.cuda.memory_snapshot())
"""
    output = run(f"GIVEN = {settings!r}\n" + JOB + script, **settings)
    assert output.count("stays PyTorch's own") == (1 if refusal else 0), output
    assert refusal in output


@pytest.mark.parametrize("variable", ["PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF"])
@pytest.mark.parametrize("hooked", [True, False], ids=["hooked", "refused"])
def test_what_the_user_has_set_for_the_allocator_stays_set(
    run: Runner, variable: str, hooked: bool
) -> None:
    """Once only `expandable_segments` was left of it: PyTorch forgets what it is not told again."""
    script = """
import os
os.environ[VARIABLE] = (
    "garbage_collection_threshold:0.6,max_split_size_mb:64,roundup_power2_divisions:[256:1,>:8]")
if not HOOKED:
    import torchtide._cuda_ways
    torchtide._cuda_ways._self_test = lambda device: "as if it had failed"
torchtide.start()
train(3)
assert cuda.enabled() == HOOKED
settings = torch.cuda.memory._snapshot()["allocator_settings"]
assert round(settings["garbage_collection_threshold"], 3) == 0.6, settings
assert settings["max_split_size"] == 64 * MIB and settings["roundup_power2_divisions"]["2048"] == 8
assert settings["expandable_segments"] == HOOKED
"""
    run(f"VARIABLE, HOOKED = {variable!r}, {hooked}\n" + JOB + script)


def test_a_user_who_wants_no_expandable_segments_gets_none_and_limits_all_the_same(
    run: Runner,
) -> None:
    script = """
import os
os.environ["PYTORCH_ALLOC_CONF"] = "expandable_segments:False"
torchtide.start()
block = torch.ones(40 * MIB, dtype=torch.uint8, device="cuda")
figures = cuda.report()
assert (figures["way"], figures["reserved"]) == ("malloc", 40 * MIB), figures
assert "PYTORCH_ALLOC_CONF turns expandable segments off" in figures["way_reason"], figures
assert not any(s["is_expandable"] for s in torch.cuda.memory_snapshot())
train(4)
assert torchtide.report()["iterations"] >= 3
"""
    assert "stays PyTorch's own" not in run(JOB + script)


def test_cold_tensors_may_be_named_before_they_are_on_a_device(run: Runner) -> None:
    script = """
model = torch.nn.Linear(4096, 4096)
optimizer = torch.optim.Adam(model.parameters())
assert cuda.keep_cold(optimizer) == 0  # no state yet
torchtide.start()
model.cuda()
for _ in range(3):
    optimizer.zero_grad()
    model(torch.ones(4, 4096, device="cuda")).sum().backward()
    optimizer.step()
states = [s["exp_avg"].cpu() for s in optimizer.state.values()]
torch.cuda.empty_cache()
answer = cuda.set_limit(cuda.report()["reserved"] - 50 * MIB)
assert cuda.report()["host_mapped"] >= 50 * MIB, (answer, cuda.report())
assert "MiB with cold tensors, 0 B others" in answer["reason"], answer
assert all(torch.equal(s["exp_avg"].cpu(), was)
           for s, was in zip(optimizer.state.values(), states))
"""
    run(JOB + script, TIDE_PHANTOM_HOST_NUMA=1)


def test_forked_loaders_and_their_end_touch_no_ledger(run: Runner) -> None:
    script = """
import os
class Rows(torch.utils.data.Dataset):
    def __len__(self): return 24
    def __getitem__(self, index):
        assert not _core.cuda_started() and not cuda.enabled()
        return torch.full((64,), float(index))
torchtide.start()
held = torch.arange(10 * MIB, dtype=torch.int32).cuda()
before = cuda.report()
loader = torch.utils.data.DataLoader(
    Rows(), batch_size=4, num_workers=2, pin_memory=True, multiprocessing_context="fork")
model = linear.cuda()
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
seen = 0
for _ in range(2):
    for batch in torchtide.iterations(loader):
        model(batch.cuda(non_blocking=True)).sum().backward()
        optimizer.step()
        seen += len(batch)
assert seen == 48
child = os.fork()
if child == 0:
    del held  # an allocator's free in a child that has no driver
    os._exit(0 if not _core.cuda_started() else 1)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
_core.cuda_validate()
assert torch.equal(held.cpu(), torch.arange(10 * MIB, dtype=torch.int32))
assert cuda.report()["used_by_jobs"] == cuda.report()["device"]
"""
    run(JOB + script)


def test_a_boundary_within_a_capture_leaves_the_capture_whole(run: Runner) -> None:
    script = """
torchtide.start()
train(3)
held = torch.arange(10 * MIB, dtype=torch.int32).cuda()
graph = torch.cuda.CUDAGraph()
static = torch.zeros(1 << 20, device="cuda")
with torch.cuda.graph(graph):
    result = static * 2 + 1
    begun = torchtide.report()["iterations"]
    torchtide.runtime.GATE.boundary(2)  # as a module's forward in a capture does
    assert cuda.boundary() == {"asked": 0, "given": 0}
    result = result + 1
    assert torchtide.report()["iterations"] > begun
graph.replay()
torch.cuda.synchronize()
torchtide.runtime.GATE.end()
torchtide.pause()
assert torchtide.report()["suspended"] and cuda.report()["device"] == 0
torchtide.resume()
graph.replay()
torch.cuda.synchronize()
assert torch.equal(held.cpu(), torch.arange(10 * MIB, dtype=torch.int32))
_core.cuda_validate()
"""
    run(JOB + script)


def test_a_job_suspended_at_every_boundary_keeps_all_values(run: Runner) -> None:
    script = """
torchtide.start()
held = torch.arange(10 * MIB, dtype=torch.int32).cuda()
train(6)
assert _core.cuda_report(0)["promoted_pages_total"] >= 5 * 2
assert torch.equal(held.cpu(), torch.arange(10 * MIB, dtype=torch.int32))
"""
    run(JOB + script, TIDE_TEST_ALWAYS_SUSPEND=1)


def test_a_turn_passes_when_the_device_has_finished_and_alone_nobody_waits(run: Runner) -> None:
    script = """
import ctypes, subprocess, sys, time
driver = ctypes.CDLL("libcuda.so.1")
driver.phantomCallCount.restype = ctypes.c_uint64
def waits(): return driver.phantomCallCount(b"cuCtxSynchronize")
torchtide.start()
train(2)
before = waits()
train(5)
assert waits() == before
loop = "import torchtide\\nwhile True: torchtide.runtime.boundary()"
neighbour = subprocess.Popen([sys.executable, "-c", loop])
try:
    deadline = time.monotonic() + 200
    while waits() == before:
        assert time.monotonic() < deadline and neighbour.poll() is None
        train(1)
    before, begun = waits(), torchtide.report()["iterations"]
    train(5)
    assert waits() - before >= torchtide.report()["iterations"] - begun >= 5
finally:
    neighbour.kill()
    neighbour.wait()
"""
    run(JOB + script)


def test_an_interrupt_in_a_pause_finds_the_device_memory_back(run: Runner) -> None:
    script = """
import os, signal, threading
torchtide.start()
held = torch.arange(10 * MIB, dtype=torch.int32).cuda()
train(2)
def interrupt():
    torchtide.runtime.GATE._paused_at.wait(60)
    os.kill(os.getpid(), signal.SIGINT)
gate = torchtide.runtime.GATE
gate._paused_at = threading.Event()
gate.on_held = lambda held: gate._paused_at.set() if held else None
signal.signal(signal.SIGINT, signal.default_int_handler)
gate.end()
torchtide.pause()
assert cuda.report()["device"] == 0
threading.Thread(target=interrupt, daemon=True).start()
try:
    train(2)
    raise SystemExit("the pause did not hold")
except KeyboardInterrupt:
    pass
assert torch.equal(held.cpu(), torch.arange(10 * MIB, dtype=torch.int32))
torchtide.resume()
train(2)
"""
    run(JOB + script)


# ---- a real daemon ----

HELD_BYTES = 80 << 20
DEVICE_MB = 512
CACHED_MB = 250  # by PyTorch, for nothing

TRAIN = f"""
import pathlib, torch
torch.empty({CACHED_MB} << 20, dtype=torch.uint8, device="cuda")
MIB = 1 << 20
held = [torch.randint(0, 256, (n * MIB,), dtype=torch.uint8) for n in (30, 50)]
on_device = [tensor.cuda() for tensor in held]
model = torch.nn.Linear(256, 256).cuda()
optimizer = torch.optim.Adam(model.parameters())
while not pathlib.Path("stop").exists():
    optimizer.zero_grad()
    model(torch.ones(4, 256, device="cuda")).sum().backward()
    optimizer.step()
exact = all(torch.equal(a, b.cpu()) for a, b in zip(held, on_device))
pathlib.Path("exact").write_text(str(exact))
"""


TAKE = """
import pathlib, torch
host = torch.randint(0, 256, (4 << 20,), dtype=torch.uint8)
block = torch.empty(300 << 20, dtype=torch.uint8, device="cuda")
block[-len(host):] = host
pathlib.Path("taken").write_text(str(torch.equal(block[-len(host):].cpu(), host)))
"""


def start(machine: live_machine.Machine, name: str, *settings: str) -> subprocess.Popen[bytes]:
    """`NAME.py` under `tide run` on the phantom."""
    command = phantom_machine.command(*settings, "python", f"{name}.py")
    return machine.start("--name", name, "--", *command)


@pytest.fixture
def machine(zygote: phantom_gpu.Zygote, tmp_path: pathlib.Path) -> Iterator[live_machine.Machine]:
    """A daemon, and a job under `tide run` whose script knows nothing of us."""
    del zygote  # there is a phantom
    with phantom_machine.machine(tmp_path, TIDE_PHANTOM_MB=DEVICE_MB) as made:
        (tmp_path / "train.py").write_text(TRAIN)
        start(made, "train")
        made.until(
            lambda job: (
                int(job["iterations"]) > 2
                and any(one["device"] >= HELD_BYTES for one in job.get("devices", []))
            )
        )
        yield made


def test_tide_pause_and_resume_move_device_memory_and_all_values_stay(
    machine: live_machine.Machine,
) -> None:
    (device,) = machine.record()["devices"]
    assert device["index"] == 0 and device["limit"] == device["away"] == 0
    # There was no pause yet, and the host has next to nothing to move.
    assert 0 < device["predicted_suspend_ms"] <= machine.record()["predicted_suspend_ms"]
    assert device["predicted_resume_ms"] > 0
    assert "GPU AWAY" in machine.tide("ps")
    for deep in ((), ("--deep",)):
        said = machine.tide("pause", "train", *deep)
        assert said.startswith("pausing train: about ") and "about 0" not in said
        assert "train is paused" in said and ("Its contexts are away" in said) == bool(deep)
        machine.until(lambda job: job["devices"][0]["away"] >= HELD_BYTES)
        machine.until(lambda job: job["devices"][0]["device"] == 0)
        still = machine.record()["iterations"]
        assert "train goes on" in machine.tide("resume", "train")
        machine.until(lambda job, still=still: int(job["iterations"]) > still)  # type: ignore[misc]
    (machine.folder / "stop").touch()
    assert machine.jobs[0].wait(live_machine.DEADLINE_S) == 0, (machine.folder / "log").read_text()
    assert (machine.folder / "exact").read_text() == "True"


@pytest.mark.one_torch
def test_tide_limit_moves_what_a_job_has_on_a_device(machine: live_machine.Machine) -> None:
    limit = f"{HELD_BYTES + (100 << 20)}"  # an iteration takes some too
    said = machine.tide("limit", "train", limit, "--device", "0")
    assert "moved" in said and "off the device" in said  # PyTorch's cache
    machine.until(lambda job: job["devices"][0]["device"] <= int(limit))
    machine.until(lambda job: job["devices"][0]["limit"] == int(limit))
    said = machine.tide("limit", "train", "10MiB", "--device", "0", code=1)
    assert "the old limit stays" in said and "are in use" in said
    assert machine.record()["devices"][0]["limit"] == int(limit)
    assert "no memory of device 3" in machine.tide(
        "limit", "train", "1GiB", "--device", "3", code=1
    )
    machine.tide("limit", "train", "none", "--device", "0")
    machine.until(lambda job: job["devices"][0]["limit"] == 0)
    (machine.folder / "stop").touch()
    assert machine.jobs[0].wait(live_machine.DEADLINE_S) == 0, (machine.folder / "log").read_text()
    assert (machine.folder / "exact").read_text() == "True"


@pytest.mark.one_torch
def test_a_job_gives_others_what_its_cache_holds_at_its_own_boundaries(
    machine: live_machine.Machine,
) -> None:
    machine.until(lambda job: job["devices"][0]["device"] >= CACHED_MB << 20)
    (machine.folder / "take.py").write_text(TAKE)
    taker = start(machine, "take", "TIDE_NEED_WAIT_MS=60000")
    assert taker.wait(live_machine.DEADLINE_S) == 0, (machine.folder / "log").read_text()
    assert (machine.folder / "taken").read_text() == "True"
    (machine.folder / "stop").touch()
    assert machine.jobs[0].wait(live_machine.DEADLINE_S) == 0, (machine.folder / "log").read_text()
    assert (machine.folder / "exact").read_text() == "True"


@pytest.mark.one_torch
def test_a_job_on_the_cpu_has_no_columns_of_devices(machine: live_machine.Machine) -> None:
    (machine.folder / "stop").touch()
    assert machine.jobs[0].wait(live_machine.DEADLINE_S) == 0
    deadline = time.monotonic() + live_machine.DEADLINE_S
    while "devices" in machine.record() and time.monotonic() < deadline:
        pass
    assert "GPU" not in machine.tide("ps")
