"""torch.compile on the phantom GPU: Triton's kernels are compiled for real, loaded and launched.

A launch does nothing, as every kernel of the phantom, but the addresses that it is given must be
mapped when its turn comes. What is tested is memory: the buffers of compiled code, and the private
pools of CUDA graph trees, under limits and pauses, with work that happens as late as it may.
"""

from __future__ import annotations

import os
import pathlib

import pytest
from phantom_gpu import Runner

pytestmark = pytest.mark.slow

pytest.importorskip("triton")

#: A transformer compiles for a minute.
MODELS = ["mlp", "gpt2"] if os.environ.get("TIDE_TEST_PHANTOM") == "all" else ["mlp"]
TRAIN = """
import os
os.environ |= {"TORCHINDUCTOR_COMPILE_THREADS": "1", "TRITON_CACHE_DIR": f"{CACHE}/triton",
               "TORCHINDUCTOR_CACHE_DIR": f"{CACHE}/inductor"}
import ctypes
import torch, torchtide, torchtide.cuda as cuda
from torch._dynamo.utils import counters
from torchtide import _core
from training import MIB, Training, paused
driver = ctypes.CDLL("libcuda.so.1")
driver.phantomCallCount.restype = driver.phantomLookedAt.restype = ctypes.c_uint64
def loaded(): return driver.phantomCallCount(b"cuModuleLoadData")
def launched(): return driver.phantomCallCount(b"cuLaunchKernel")
def pools(): return [s for s in torch.cuda.memory_snapshot() if s["segment_pool_id"] != (0, 0)]
SIZES = {"gpt2": dict(layers=1, width=128, words=512, length=64), "mlp": {}}
torchtide.start()
"""


@pytest.mark.parametrize("kind", MODELS)
def test_a_compiled_model_trains_while_memory_leaves_and_returns(
    run: Runner, kind: str, tmp_path: pathlib.Path
) -> None:
    script = """
for mode in ("default", "reduce-overhead"):
    trees, fresh, looked_at = mode == "reduce-overhead", loaded(), driver.phantomLookedAt()
    job = Training(KIND, 4, **SIZES[KIND])
    job.batches = job.batches[:1]
    cuda.keep_cold(job.optimizer)
    job.net = torch.compile(job.model, mode=mode)
    job.run(4)
    assert bool(pools()) == trees, pools()
    compiled, before = loaded(), launched()
    # Kernels that both modes have in common may be loaded once.
    assert compiled > fresh or trees, (mode, compiled, fresh)
    with paused():
        job.run(2)
    torch.cuda.empty_cache()
    cuda.set_limit(cuda.report()["reserved"] - 2 * MIB)
    assert cuda.report()["host_mapped"] > 0
    job.kept.check()
    cuda.set_limit(None)
    with paused():
        job.run(2)
    assert loaded() == compiled, "it was compiled again"
    # A replay of a graph launches no kernel by itself.
    assert (launched() == before) == trees, (launched(), before)
    assert counters["inductor"]["cudagraph_skips"] == 0
    assert driver.phantomLookedAt() > looked_at, "no address of a kernel was seen"
    job.net = None
    torch._dynamo.reset()  # which drops the graphs and their pools
    job.end()
# The control: a move that does not wait for a compiled kernel is seen.
held = torch.ones(4 * MIB, device="cuda")
double = torch.compile(lambda x: x * 2 + 1)
double(held)
torch.cuda.synchronize()
del job
side = torch.cuda.Stream()  # waits for no other, so no copy waits for it
with torch.cuda.stream(side):
    result = double(held)
NOTHING_DONE = -1
for call in (b"cuCtxSynchronize", b"cuStreamSynchronize"):
    driver.phantomArmFault(call, 0, 1000, NOTHING_DONE)
try:
    cuda.suspend()
except RuntimeError as error:
    print("refused:", error)
driver.phantomDisarmFaults()
try:
    torch.cuda.synchronize()
    raise SystemExit("nobody has seen that a wait is missing")
except RuntimeError as error:
    assert "illegal memory access" in str(error), error
os._exit(0)  # with a broken device there is no ordinary end
"""
    run(
        f"KIND, CACHE = {kind!r}, {str(tmp_path)!r}\n" + TRAIN + script,
        TIDE_PHANTOM_MB=8192,
        TIDE_PHANTOM_HOST_NUMA=1,
        TIDE_PHANTOM_DELAY=1,
    )
