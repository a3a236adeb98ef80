"""Ways to PyTorch's memory besides its table of driver calls: whole segments, on the phantom."""

from __future__ import annotations

import importlib.metadata
import pathlib

import phantom_gpu
import pytest
from phantom_gpu import Runner
from torchtide.cli import checks_gpu

pytestmark = pytest.mark.slow

TORCH = importlib.metadata.version("torch")
BEGIN = """
import ctypes, threading
import torch, torchtide.cuda as cuda
from torchtide import _core, errors
MIB = 1 << 20
driver = ctypes.CDLL("libcuda.so.1")
def used():  # of the phantom device, by everybody
    ledger = (ctypes.c_uint64 * 5)()
    driver.phantomLedger(0, ledger)
    return ledger[1]
def filled(mib, seed=0):
    generator = torch.Generator().manual_seed(seed)
    host = torch.randint(0, 256, (mib * MIB,), dtype=torch.uint8, generator=generator)
    return host, host.cuda()
"""

MEMORY = """
answer = cuda.enable("job")
assert answer == ANSWER, answer
figures = cuda.report()
assert (figures["way"], figures["way_reason"]) == (WAY, ""), figures
# Another thread's allocations are ours too: backward has threads of its own.
pairs = [filled(60, 1)]
thread = threading.Thread(target=lambda: pairs.append(filled(40, 2)))
thread.start()
thread.join()
assert not any(s["is_expandable"] for s in torch.cuda.memory_snapshot())
figures = cuda.report()
assert figures["reserved"] == figures["torch_reserved"] == used() == 100 * MIB, (figures, used())
# A limit is an ordinary error, and the job recovers from it.
cuda.set_limit("160MiB")
try:
    torch.empty(100 * MIB, dtype=torch.uint8, device="cuda")
    raise SystemExit("the limit was ignored")
except torch.OutOfMemoryError:
    assert "limit is 160 MiB" in cuda.last_oom, cuda.last_oom
pairs.append(filled(40, 3))
cache = torch.empty(20 * MIB, dtype=torch.uint8, device="cuda")
del cache
assert cuda.set_limit("140MiB")["moved"] == 20 * MIB  # PyTorch's cache
try:
    cuda.set_limit("50MiB")
    raise SystemExit("no conflict")
except errors.LimitConflict:
    assert cuda.report()["limit"] == 140 * MIB
# Cold segments leave while the job runs, and come back.
assert cuda.keep_cold([pairs[1][1]]) == 40 * MIB
cuda.set_limit("100MiB")
assert cuda.report()["host_mapped"] == 40 * MIB and used() == 100 * MIB, cuda.report()
assert torch.equal(pairs[1][0], pairs[1][1].cpu())
cuda.set_limit(None)
assert cuda.report()["host_mapped"] == 0 and used() == 140 * MIB
# All of them leave, to pinned memory and to the file, and come back at their addresses.
addresses = [device.data_ptr() for _, device in pairs]
for to_file in (False, True):
    assert cuda.suspend(to_file=to_file) == 140 * MIB and used() == 0
    del addresses[-1], pairs[-1]  # freed while it is away
    cuda.resume()
    assert [device.data_ptr() for _, device in pairs] == addresses
    assert all(torch.equal(host, device.cpu()) for host, device in pairs)
    pairs.append(filled(40, 4))
    addresses.append(pairs[-1][1].data_ptr())
_core.cuda_validate()
del pairs
torch.cuda.synchronize()
_core.cuda_make_room(0, 1 << 40)
assert used() == 0 and cuda.report()["used_by_jobs"] == 0, cuda.report()
cuda.disable()
again = torch.ones(30 * MIB, device="cuda")
assert not cuda.enabled() and cuda.enable() == ANSWER
"""


WAYS = pytest.mark.parametrize(
    ("way", "answer"), [("malloc", "hooked through cudaMalloc"), ("pool", "pool")]
)


@WAYS
def test_limits_and_moves_work_by_whole_segments(run: Runner, way: str, answer: str) -> None:
    given = f"WAY, ANSWER = {way!r}, {answer!r}\n"
    settings = {"TIDE_PHANTOM_HOST_NUMA": 1, "TIDE_CUDA_SPARE_MAX": 0}
    run(given + BEGIN + MEMORY, TIDE_CUDA_HOOK=way, **settings)


TURNS = """
import itertools
import torchtide
from pair import Pair
MIB_EACH = 160
pair = Pair()
def train(mine):
    torchtide.start(name=("left", "right")[mine])
    host = [torch.randint(0, 256, (32 * MIB,), dtype=torch.uint8) for _ in range(2)]
    blocks = []
    def exact(): return all(torch.equal(one.cpu(), host[i % 2]) for i, one in enumerate(blocks))
    for step in torchtide.iterations(itertools.count()):
        while len(blocks) * 32 < MIB_EACH:
            blocks.append(host[len(blocks) % 2].cuda())
        assert exact()
        if pair.done(mine, step):
            break
    assert cuda.report()["way"] == WAY
    return cuda.report()["demoted_pages_total"]
pair.run(train)
assert driver.cuInit(0) == 0 and used() == 0
"""


@WAYS
def test_two_jobs_of_five_eighths_of_a_device_take_turns(
    run: Runner, way: str, answer: str
) -> None:
    del answer
    settings = {"TIDE_PHANTOM_MB": 256, "TIDE_CUDA_SWITCH_SHARE": "0.5"}
    # Longer than the test: nothing may depend on a wait that ends in vain.
    settings["TIDE_NEED_WAIT_MS"] = 600_000
    run(f"WAY = {way!r}\n" + BEGIN + TURNS, TIDE_CUDA_HOOK=way, **settings)


REFUSED = """
from torchtide import _adapter
adapter = _adapter.load()
class Refusing:  # an adapter that finds some ways blocked
    def __getattr__(self, name):
        return (lambda api: REFUSED[name]) if name in REFUSED else getattr(adapter, name)
_adapter.load = Refusing
"""
BLOCKED = {
    "install_cuda_slots": "no table",
    "redirect_cuda_malloc": "two places",
    "serve_pool": "old",
}


@pytest.mark.parametrize(
    ("blocked", "wanted", "answer"),
    [
        (1, "auto", "hooked through cudaMalloc: no table"),
        (2, "auto", "pool: no table; two places"),
        (3, "auto", "fraction: no table; two places; old"),
        (1, "table", "fraction: no table"),
        (0, "fraction", "fraction: TIDE_CUDA_HOOK=fraction asks for no more"),
    ],
)
def test_the_first_way_that_fits_is_taken_and_the_answer_says_why_not_an_earlier_one(
    run: Runner, blocked: int, wanted: str, answer: str
) -> None:
    refused = dict(list(BLOCKED.items())[:blocked])
    script = """
assert cuda.enable() == ANSWER, cuda.enable()
way, _, reason = ANSWER.partition(": ")
figures = cuda.report()
assert figures["way"] == {"hooked through cudaMalloc": "malloc"}.get(way, way), figures
assert figures["way_reason"] == reason, figures
host, device = filled(40)
assert torch.equal(host, device.cpu()) and cuda.report()["torch_reserved"] == 40 * MIB
assert ("device" in figures) == cuda.enabled() == (way != "fraction")
if way == "fraction":
    assert cuda.set_limit("1GiB")["status"] == "fraction"
    try:
        torch.empty(2 << 30, dtype=torch.uint8, device="cuda")
        raise SystemExit("the fraction was ignored")
    except torch.OutOfMemoryError:
        pass
else:
    assert cuda.report()["device"] >= 40 * MIB
"""
    given = f"REFUSED, ANSWER = {refused!r}, {answer!r}\n"
    run(given + BEGIN + REFUSED + script, TIDE_CUDA_HOOK=wanted)


def test_a_way_whose_test_fails_is_taken_back_before_the_next_is_tried(run: Runner) -> None:
    script = """
from torchtide import _cuda_ways
real, tried = _cuda_ways._self_test, []
def self_test(device):
    tried.append(real(device))
    return "it is the second try" if len(tried) == 2 else "cuMemMap is not ours"
_cuda_ways._self_test = self_test
_cuda_ways.CHOSEN.name = ""
answer = cuda.enable()
said = ("cuMemMap is not ours", "it is the second try", "cuMemMap is not ours")
assert answer == "fraction: " + "; ".join(said), answer
assert tried == ["", "", ""], tried  # each of them works on this torch
before = cuda._core.cuda_report(0)["creates"]
host, device = filled(40)
assert torch.equal(host, device.cpu())
assert not any(s["is_expandable"] for s in torch.cuda.memory_snapshot())
assert cuda._core.cuda_report(0)["creates"] == before  # nothing of it came to us
"""
    run(BEGIN + script)


def test_blocks_that_another_stream_has_used_come_back_to_a_pool(run: Runner) -> None:
    """Before 2.13 PyTorch looks at no event while a route is open: it grew by a block a step."""
    script = """
cuda.enable("job")
optimizer = torch.optim.SGD([torch.zeros(4, device="cuda", requires_grad=True)], lr=0.1)
side = torch.cuda.Stream()
for step in range(8):
    with torch.cuda.stream(side):
        block = torch.zeros(20 * MIB, dtype=torch.uint8, device="cuda")
    block.record_stream(torch.cuda.current_stream())
    del block
    torch.cuda.synchronize()
    optimizer.step()
    held = torch.cuda.memory_reserved() // MIB
assert held <= 64, held  # of 160 in all
"""
    run(BEGIN + script, TIDE_CUDA_HOOK="pool")


def test_tide_doctor_tells_how_the_memory_of_the_gpu_is_reached(
    zygote: phantom_gpu.Zygote, tmp_path: pathlib.Path
) -> None:
    del zygote  # there is a phantom
    settings = phantom_gpu.environment("doctor", tmp_path, TIDE_CUDA_HOOK="malloc")
    hook, *offers = checks_gpu.examine(settings)
    phantom_gpu.forget("doctor")
    assert hook.level == "ok", hook
    assert hook.found.startswith("Phantom GPU: hooked through cudaMalloc"), hook
    said = {one.name: one.found for one in offers}
    assert said["device shares"] == "yes, of 132 multiprocessors", said
    newer = not TORCH.startswith("2.11")
    assert said["communicators leave"].startswith("yes" if newer else "no"), said
    assert said["driver's checkpoint"] == "yes, by the driver, and cuda.pause is pages", said
