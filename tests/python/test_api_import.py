"""Importing changes nothing, the off switch neither, and a torch we do not know is named."""

import pathlib

import checks
import pytest

pytest.importorskip("torch")

IMPORT_ALONE = """
import sys
import torchtide, torchtide.memory, torchtide.errors, torchtide.runtime
torchtide.iterations, torchtide.job, torchtide.set_limit
assert "torch" not in sys.modules
assert not torchtide.runtime._core.started()
@torchtide.job
def train(): pass
assert "torch" not in sys.modules and not torchtide.runtime._core.started()
print("clean")
"""

SWITCHED_OFF = """
import os, threading
import torch, torchtide as tide
from torch import nn
from torch.nn.modules import module
from torch.optim import optimizer
update = torch.amp.GradScaler.update
assert tide.start() is None
@tide.job(name="x")
def train():
    model = nn.Linear(4, 4)
    losses = []
    for batch in tide.iterations([torch.ones(2, 4)] * 3):
        losses.append(model(batch).sum().item())
        tide.runtime.boundary()
    assert not model._forward_pre_hooks
    return losses
assert len(train()) == 3
assert not tide.runtime._core.started()
assert not module._global_forward_pre_hooks and not optimizer._global_optimizer_post_hooks
assert torch.amp.GradScaler.update is update and threading.active_count() == 1
assert not os.path.exists(os.environ["TIDE_RUNTIME_DIR"])
print("off")
"""

UNKNOWN_TORCH = """
import torch, torchtide as tide
from torch.optim import optimizer
torch.__version__ = "1.4.0+cpu"
try:
    tide.start()
except ImportError as error:
    print(error)
assert not tide.runtime._core.started() and not optimizer._global_optimizer_post_hooks
assert torch.ones(1 << 20).sum().item() == 1 << 20
"""


def output(folder: pathlib.Path, code: str, **variables: str) -> str:
    ended = checks.python(folder, code, TIDE_LANE="-1", **variables)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


def test_importing_torchtide_neither_imports_torch_nor_starts_anything(
    tmp_path: pathlib.Path,
) -> None:
    assert output(tmp_path, IMPORT_ALONE) == "clean\n"


def test_the_off_switch_sets_no_hook_makes_no_file_and_starts_no_thread(
    tmp_path: pathlib.Path,
) -> None:
    assert output(tmp_path, SWITCHED_OFF, TIDE_DISABLE="1") == "off\n"


def test_a_torch_without_adapter_is_named_with_those_that_have_one(tmp_path: pathlib.Path) -> None:
    told = output(tmp_path, UNKNOWN_TORCH)
    assert "torch 1.4.0+cpu" in told and "2.11 to 2.15" in told and "from source" in told
