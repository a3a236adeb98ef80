"""A resume by layers: parameters come back in the order in which an iteration uses them first."""

from __future__ import annotations

import pytest
from phantom_gpu import Runner

pytestmark = pytest.mark.slow

BEGIN = """
import atexit, ctypes, faulthandler, threading
import torch, torchtide, torchtide.cuda as cuda
from torchtide import _core
faulthandler.dump_traceback_later(240, exit=True)
PAGE = 20 << 20
driver = ctypes.CDLL("libcuda.so.1")
assert cuda.enable() == "hooked"
atexit.register(driver.phantomHoldCall, None)
numbers = [torch.arange(PAGE // 4, dtype=torch.float32) + i for i in range(4)]
layers = [torch.nn.Parameter(one.cuda()) for one in numbers]  # one of PyTorch's pages each
optimizer = torch.optim.SGD(layers, momentum=0.9, lr=0.0)
ORDER = [3, 1, 0, 2]  # not that of their addresses
STATE = 4 * PAGE
x = torch.ones(PAGE // 4, device="cuda")
def use(layer):
    global x
    x = x * layers[layer]
    assert torch.equal(layers[layer].detach().cpu(), numbers[layer])
def end():
    global x
    x.sum().backward()
    optimizer.step()
    optimizer.zero_grad()
    x = torch.ones(PAGE // 4, device="cuda")
def coming():
    return cuda.report()["coming"]
def held():
    cuda.suspend()
    driver.phantomHoldCall(b"cuMemcpyHtoDAsync")  # none of the late pages gets through
    cuda.resume()
for layer in ORDER: use(layer)
end()  # makes the state
def learn():
    held()
    assert coming() == STATE, coming()  # the order is not known
    driver.phantomHoldCall(None)
    for layer in ORDER: use(layer)
    end()
"""


def layered(run: Runner, script: str, **settings: str | int) -> None:
    """Runs a script in a job that resumes by layers."""
    run(BEGIN + script + "\n_core.cuda_validate()\n", TIDE_CUDA_RESUME="layers", **settings)


def test_each_layer_is_used_when_it_has_arrived_in_the_order_that_was_learnt(run: Runner) -> None:
    script = """
learn()
for _ in range(2):
    held()
    assert coming() == STATE + 4 * PAGE
    for number, layer in enumerate(ORDER):
        driver.phantomLetThrough(1)  # of another layer, and this one would wait for ever
        use(layer)
        assert coming() == STATE + (3 - number) * PAGE, (number, coming())
    driver.phantomHoldCall(None)
    end()
    assert coming() == 0
"""
    layered(run, script)


def test_a_layer_that_is_used_earlier_than_was_learnt_comes_next(run: Runner) -> None:
    script = """
learn()
held()
waiting = threading.Thread(target=use, args=(2,))  # the last that was learnt
before = cuda.report()["late_waits_total"]
waiting.start()
while cuda.report()["late_waits_total"] == before: pass
driver.phantomLetThrough(2)  # the first was on its way
waiting.join()
assert coming() == STATE + 2 * PAGE, coming()
driver.phantomHoldCall(None)
for layer in ORDER: use(layer)
end()
"""
    layered(run, script)


@pytest.mark.parametrize(
    "touch",
    [
        "torch.cat([x[:4], layers[3].view(-1)[:4]])",
        "torch._foreach_norm([x, layers[3]])",
        "layers[3].view(2, -1)[:, torch.zeros(1, dtype=torch.long, device='cuda')]",
        "Own.apply(layers[3])",
        "torch.save(layers[3], io.BytesIO())",
        "layers[3].untyped_storage().cpu()",
        "layers[3].numel() and layers[3].tolist()",
        "copy.deepcopy(layers[3])",
    ],
)
def test_whatever_uses_a_layer_waits_for_it(run: Runner, touch: str) -> None:
    script = f"""
import copy, io
class Own(torch.autograd.Function):  # a kernel of the program's own
    @staticmethod
    def forward(ctx, weight):
        assert coming() == STATE + 3 * PAGE, coming()
        read = torch.empty(PAGE // 4)
        at = ctypes.c_uint64(weight.data_ptr())
        assert driver.cuMemcpyDtoH_v2(ctypes.c_void_p(read.data_ptr()), at, PAGE) == 0
        assert torch.equal(read, numbers[3])
        return weight
learn()
held()
driver.phantomLetThrough(1)
{touch}
assert coming() <= STATE + 3 * PAGE
driver.phantomHoldCall(None)
for layer in ORDER: use(layer)
end()
"""
    layered(run, script)


def test_what_is_not_seen_in_a_forward_returns_before_it(run: Runner) -> None:
    script = """
def read(layer):  # nobody sees that
    at, into = layers[layer].data_ptr(), torch.empty(PAGE // 4)
    into_at = ctypes.c_void_p(into.data_ptr())
    assert driver.cuMemcpyDtoH_v2(into_at, ctypes.c_uint64(at), PAGE) == 0
    assert torch.equal(into, numbers[layer])
def forward():
    read(0)
    for layer in ORDER:
        if layer != 0: use(layer)
for round in range(3):
    held()
    assert coming() == STATE + (3 * PAGE if round else 0), coming()
    read(0)
    driver.phantomHoldCall(None)
    forward()
    end()
# An iteration that ends without a step or a backward teaches nothing.
held()
driver.phantomHoldCall(None)
use(0)
held()
assert coming() == STATE + 3 * PAGE, coming()
driver.phantomHoldCall(None)
cuda.settle()
assert coming() == 0
# Compiled code launches its kernels past the dispatcher.
import torch._inductor.compile_fx
held()
assert coming() == STATE, coming()
driver.phantomHoldCall(None)
forward()
end()
"""
    layered(run, script)


def test_a_backward_waits_for_layers_and_not_for_the_state(run: Runner) -> None:
    script = """
learn()
held()
y = torch.ones(1, device="cuda", requires_grad=True)
loss = (y * 2).sum()
driver.phantomLetThrough(4)  # the layers, none of which this forward has used
loss.backward()
assert coming() == STATE, coming()
driver.phantomHoldCall(None)
for layer in ORDER: use(layer)
end()
"""
    layered(run, script)


def test_a_page_that_fails_once_is_brought_by_what_waits_for_it(run: Runner) -> None:
    script = """
learn()
held()
driver.phantomArmFault(b"cuMemcpyHtoDAsync", 0, 1, 999)
driver.phantomHoldCall(None)
for layer in ORDER: use(layer)
end()
assert coming() == 0
assert all(torch.equal(layers[i].detach().cpu(), numbers[i]) for i in range(4))
"""
    layered(run, script)


def test_a_job_that_is_suspended_at_every_boundary_keeps_its_values(run: Runner) -> None:
    script = """
torchtide.start()
for step in torchtide.iterations(range(4)):  # each begins with pages that are still on their way
    for layer in ORDER: use(layer)
    end()
assert all(torch.equal(layers[i].detach().cpu(), numbers[i]) for i in range(4))
"""
    # Copies happen when something waits for them: a wait that is missing is seen.
    layered(run, script, TIDE_PHANTOM_DELAY=1, TIDE_TEST_ALWAYS_SUSPEND=1)
