"""PyTorch's own CUDA allocator on our pages: figures, limits, moves, on the phantom GPU."""

from __future__ import annotations

from phantom_gpu import Runner

BEGIN = """
import torch, torchtide.cuda as cuda
from torchtide import _core, errors
MIB = 1 << 20
def filled(mib, seed=0):
    generator = torch.Generator().manual_seed(seed)
    host = torch.randint(0, 256, (mib * MIB,), dtype=torch.uint8, generator=generator)
    return host, host.cuda()
answer = cuda.enable("job")
assert answer == "hooked", answer
"""


def test_torchs_pages_are_ours_and_the_figures_agree(run: Runner) -> None:
    script = """
host, device = filled(100)
figures = cuda.report()
assert figures["reserved"] == figures["torch_reserved"] >= 100 * MIB, figures
assert torch.equal(device.cpu(), host)
assert all(s["is_expandable"] for s in torch.cuda.memory_snapshot())
del device
torch.cuda.empty_cache()
assert cuda.report()["reserved"] == torch.cuda.memory_reserved() == 0, cuda.report()
_core.cuda_validate()
cuda.disable()
again = torch.ones(30 * MIB, device="cuda")
assert not cuda.enabled() and cuda.enable() == "hooked"
"""
    run(BEGIN + script)


def test_a_limit_is_felt_as_an_ordinary_out_of_memory_error(run: Runner) -> None:
    script = """
cuda.set_limit("512MiB")
try:
    torch.empty(600 * MIB, dtype=torch.uint8, device="cuda")
    raise SystemExit("the limit was ignored")
except torch.OutOfMemoryError as error:
    assert issubclass(type(error), errors.OutOfMemory)
assert "limit is 512 MiB" in cuda.last_oom, cuda.last_oom
block = torch.empty(400 * MIB, dtype=torch.uint8, device="cuda")
del block
with torch.cuda.stream(torch.cuda.Stream()):  # needs the cached 400 MiB to be flushed first
    other = torch.empty(500 * MIB, dtype=torch.uint8, device="cuda")
assert torch.cuda.memory_stats()["num_alloc_retries"] >= 1
cuda.set_limit(None)
more = torch.empty(2000 * MIB, dtype=torch.uint8, device="cuda")
"""
    run(BEGIN + script)


def test_a_live_shrink_moves_cold_pages_and_values_stay_exact(run: Runner) -> None:
    script = """
cold_host, cold = filled(200, 1)
hot_host, hot = filled(100, 2)
assert cuda.keep_cold([cold]) == 200 * MIB
pointer = cold.data_ptr()
answer = cuda.set_limit("180MiB")
figures = cuda.report()
assert answer["status"] == "applied" and figures["device"] <= 180 * MIB, (answer, figures)
assert figures["host_mapped"] >= 120 * MIB
assert figures["torch_reserved"] == figures["reserved"]  # PyTorch counts what is away
assert cold.data_ptr() == pointer and torch.equal(cold.cpu(), cold_host)
cold[:4] = torch.tensor([1, 2, 3, 4], dtype=torch.uint8)  # a write while it is away
cold_host[:4] = torch.tensor([1, 2, 3, 4], dtype=torch.uint8)
cuda.set_limit(None)
assert cuda.report()["host_mapped"] == 0
assert torch.equal(cold.cpu(), cold_host) and torch.equal(hot.cpu(), hot_host)
_core.cuda_validate()
"""
    run(BEGIN + script, TIDE_PHANTOM_HOST_NUMA=1)


def test_without_mappable_host_memory_a_shrink_flushes_or_is_a_conflict(
    run: Runner,
) -> None:
    script = """
host, device = filled(100)
cache = torch.empty(300 * MIB, dtype=torch.uint8, device="cuda")
del cache
assert cuda.set_limit("200MiB")["moved"] >= 300 * MIB
try:
    cuda.set_limit("50MiB")
    raise SystemExit("no conflict")
except errors.LimitConflict as conflict:
    assert "no host memory that the device can map" in str(conflict), conflict
assert cuda.report()["limit"] == 200 * MIB and torch.equal(device.cpu(), host)
"""
    run(BEGIN + script)


def test_suspend_empties_the_device_and_resume_is_exact(run: Runner) -> None:
    script = """
import ctypes
driver = ctypes.CDLL("libcuda.so.1")
def used():
    ledger = (ctypes.c_uint64 * 5)()
    driver.phantomLedger(0, ledger)
    return ledger[1]
model = torch.nn.Sequential(*[torch.nn.Linear(1024, 1024) for _ in range(8)]).cuda()
before = {k: v.cpu() for k, v in model.state_dict().items()}
for to_file in (False, True):
    freed = cuda.suspend(to_file=to_file)
    assert freed >= 32 * MIB and used() == 0, (freed, used())
    assert cuda.report()["suspended"] and cuda.report()["device"] == 0
    cuda.resume()
    assert all(torch.equal(v.cpu(), before[k]) for k, v in model.state_dict().items())
_core.cuda_validate()
"""
    run(BEGIN + script)


def test_what_torch_does_with_memory_keeps_working(run: Runner) -> None:
    script = """
stream = torch.cuda.Stream()
with torch.cuda.stream(stream):
    block = torch.zeros(64 * MIB, dtype=torch.uint8, device="cuda")
block.record_stream(torch.cuda.current_stream())
del block
torch.cuda.synchronize()
graph = torch.cuda.CUDAGraph()
static = torch.zeros(1 << 20, device="cuda")
with torch.cuda.graph(graph):
    result = static * 2 + 1
for _ in range(3):
    graph.replay()
pinned = torch.arange(1 << 20, dtype=torch.int32).pin_memory()
moved = pinned.to("cuda", non_blocking=True)
torch.cuda.synchronize()
assert torch.equal(moved.cpu(), pinned)
pool = torch.cuda.MemPool()
with torch.cuda.use_mem_pool(pool):
    pooled = torch.ones(32 * MIB, dtype=torch.uint8, device="cuda")
figures = cuda.report()
assert figures["reserved"] == figures["torch_reserved"], figures
del graph, result, static, moved, pooled, pool
torch.cuda.synchronize()
torch.cuda.empty_cache()
_core.cuda_validate()
assert cuda.report()["reserved"] == torch.cuda.memory_reserved()
"""
    run(BEGIN + script)


def test_every_devices_memory_is_its_own(run: Runner) -> None:
    script = """
first = torch.ones(40 * MIB, dtype=torch.uint8, device="cuda:0")
second = torch.ones(80 * MIB, dtype=torch.uint8, device="cuda:1")
assert cuda.report(0)["reserved"] == torch.cuda.memory_reserved(0)
assert cuda.report(1)["reserved"] == torch.cuda.memory_reserved(1) >= 80 * MIB
assert cuda.report(0)["table_path"] != cuda.report(1)["table_path"]
cuda.set_limit("100MiB", device=1)
torch.ones(120 * MIB, dtype=torch.uint8, device="cuda:0")
try:
    torch.ones(120 * MIB, dtype=torch.uint8, device="cuda:1")
    raise SystemExit("the limit was ignored")
except torch.OutOfMemoryError:
    pass
"""
    run(BEGIN + script, TIDE_PHANTOM_DEVICES=2)
