"""A pipelined resume: the state of an optimizer comes back while the iteration already runs."""

from __future__ import annotations

import pytest
from phantom_gpu import Runner

pytestmark = pytest.mark.slow

BEGIN = """
import copy, ctypes, io, sys, threading, time
import torch, torchtide, torchtide.cuda as cuda
from torch.optim.optimizer import register_optimizer_step_pre_hook
from torchtide import _core
MIB = 1 << 20
driver = ctypes.CDLL("libcuda.so.1")
assert cuda.enable() == "hooked"
coming = []  # what a hook behind ours finds, where a step's kernels would be
register_optimizer_step_pre_hook(lambda *_: coming.append(cuda.report()["coming"]))
numbers = torch.arange(5 * MIB, dtype=torch.float32)
parameter = torch.nn.Parameter(numbers.cuda())  # one of PyTorch's pages
optimizer = OPTIMIZER([parameter])
def step():
    parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    parameter.grad = None
step()
state = optimizer.state[parameter]
large = [key for key, value in state.items() if value.numel() > 1]
exact = {key: numbers + i for i, key in enumerate(large)}
for key, value in exact.items():
    state[key].copy_(value)
weights = parameter.detach().cpu()
def let_go_when(main, name):
    deadline = time.monotonic() + 200
    while sys._current_frames()[main].f_code.co_name != name and time.monotonic() < deadline:
        pass
    driver.phantomHoldCall(None)
def held(use, waits_in):
    cuda.suspend()
    driver.phantomHoldCall(b"cuMemcpyHtoDAsync")  # none of the late pages gets through
    cuda.resume()
    assert cuda.report()["coming"] >= 20 * MIB * len(exact) and not cuda.report()["suspended"]
    assert torch.equal(parameter.detach().cpu(), weights)  # an iteration has begun
    caller = threading.get_ident()
    helper = threading.Thread(target=let_go_when, args=(caller, waits_in))
    helper.start()
    result = use()
    assert cuda.report()["coming"] == 0
    helper.join()
    assert all(torch.equal(state[key].cpu(), value) for key, value in exact.items())
    return result
"""


def test_an_iteration_begins_before_the_state_is_back_and_its_uses_wait_for_it(run: Runner) -> None:
    script = """
coming.clear()
held(step, "_before_step")
assert coming == [0], coming
for use in (optimizer.state_dict, lambda: copy.deepcopy(optimizer)):
    held(use, "settled")
held(cuda.settle, "settle")
held(cuda.boundary, "boundary")
assert torch.equal(optimizer.state_dict()["state"][0]["exp_avg"].cpu(), exact["exp_avg"])
_core.cuda_validate()
"""
    given = "import torch; OPTIMIZER = torch.optim.Adam\n"
    run(given + BEGIN + script, TIDE_CUDA_RESUME="pipelined")


@pytest.mark.parametrize("kind", ["foreign", "capturable"])
def test_whose_state_comes_late_and_whose_does_not(run: Runner, kind: str) -> None:
    given = """
import functools, torch
class Foreign(torch.optim.Optimizer):  # nobody knows when it touches its state
    def __init__(self, params):
        super().__init__(params, {})
    def step(self):
        for p in self.param_groups[0]["params"]:
            self.state[p].setdefault("momentum", torch.zeros_like(p))
OPTIMIZER = Foreign if KIND == "foreign" else functools.partial(torch.optim.Adam, capturable=True)
"""
    script = """
cuda.suspend()
cuda.resume()
assert cuda.report()["coming"] == 0
assert all(torch.equal(state[key].cpu(), value) for key, value in exact.items())
if KIND == "foreign":  # unless its owner says so
    cuda.keep_cold(optimizer)
    held(step, "_before_step")
    assert coming[-1] == 0, coming
"""
    run(f"KIND = {kind!r}\n" + given + BEGIN + script, TIDE_CUDA_RESUME="pipelined")


def test_a_job_that_is_suspended_at_every_boundary_keeps_its_state(run: Runner) -> None:
    script = """
torchtide.start()
for _ in torchtide.iterations(range(3)):  # each begins with pages that are still on their way
    assert torch.equal(parameter.detach().cpu(), weights)
    step()
    assert coming[-1] == 0, coming
    assert all(torch.equal(state[key].cpu(), value) for key, value in exact.items())
cuda.settle()
figures = cuda.report()
assert figures["promoted_pages_total"] == figures["demoted_pages_total"] >= 3 * 3, figures
_core.cuda_validate()
"""
    given = "import torch; OPTIMIZER = torch.optim.AdamW\n"
    settings = {"TIDE_CUDA_RESUME": "pipelined", "TIDE_TEST_ALWAYS_SUSPEND": 1}
    # Copies happen when something waits for them: a wait that is missing is seen.
    run(given + BEGIN + script, TIDE_PHANTOM_DELAY=1, **settings)


TURNS = """
import itertools
from pair import Pair
pair = Pair()
def train(mine):
    torchtide.start(name=("left", "right")[mine])
    numbers = torch.arange(5 * MIB, dtype=torch.float32) + mine
    model = None
    for step in torchtide.iterations(itertools.count()):
        if model is None:
            model = torch.nn.Parameter(numbers.cuda())
            optimizer = torch.optim.Adam([model])
        assert torch.equal(model.detach().cpu(), numbers)
        model.grad = torch.ones_like(model)
        optimizer.step()
        model.grad = None
        state = [optimizer.state[model][key] for key in ("exp_avg", "exp_avg_sq")]
        if step == 0:
            for one in state:
                one.copy_(numbers)
        assert all(torch.equal(one.cpu(), numbers) for one in state)
        if pair.done(mine, step):
            break
    return cuda.report()["demoted_pages_total"]
pair.run(train)
"""


@pytest.mark.parametrize("resume", ["pipelined", "layers"])
def test_two_jobs_in_turns_get_what_is_late_back_exact(run: Runner, resume: str) -> None:
    imports = "import torch, torchtide, torchtide.cuda as cuda\nMIB = 1 << 20\n"
    settings = {"TIDE_PHANTOM_MB": 160, "TIDE_CUDA_SWITCH_SHARE": "0.5"}
    settings["TIDE_NEED_WAIT_MS"] = 600_000  # nothing may depend on a wait that ends in vain
    run(imports + TURNS, TIDE_CUDA_RESUME=resume, **settings)
