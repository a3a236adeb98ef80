"""GPT-2 under `tide run` on the phantom GPU, with a daemon: a script that knows nothing of us."""

from __future__ import annotations

import importlib.metadata
import os
from pathlib import Path

import live_machine
import phantom_gpu
import phantom_machine
import pytest

pytestmark = pytest.mark.slow

TORCH = importlib.metadata.version("torch")
ALL = os.environ.get("TIDE_TEST_PHANTOM") == "all"

TRAIN = """
import pathlib, torch, training_models
torch.backends.cuda.enable_cudnn_sdp(False)
model, loss_of, batches = training_models.make("gpt2", 4, layers=2, words=4096, length=512)
model.to_empty(device="cuda")
# Kernels of the phantom do nothing: what is put here stays, to the byte.
kept = [(p.data, torch.randn(p.shape)) for p in model.parameters()]
for on_device, host in kept:
    on_device.copy_(host)
optimizer = torch.optim.AdamW(model.parameters())
while not pathlib.Path("stop").exists():
    for batch in batches:
        with torch.autocast("cuda", dtype=torch.bfloat16):
            loss = loss_of(model, [tensor.cuda() for tensor in batch])
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
exact = all(torch.equal(on_device.cpu(), host) for on_device, host in kept)
pathlib.Path("exact").write_text(str(exact))
"""


@pytest.mark.skipif(
    TORCH.startswith("2.11") and not ALL, reason="once is enough: with the default torch"
)
def test_gpt2_under_tide_run_is_limited_paused_and_resumed(
    zygote: phantom_gpu.Zygote, tmp_path: Path
) -> None:
    del zygote  # there is a phantom
    folder = Path(__file__).parent
    (tmp_path / "training_models.py").write_text((folder / "training_models.py").read_text())
    with phantom_machine.machine(tmp_path, TIDE_PHANTOM_MB=8192) as machine:
        (tmp_path / "train.py").write_text(TRAIN)
        command = phantom_machine.command("python", "train.py")
        job = machine.start("--name", "train", "--", *command)
        machine.until(
            lambda one: (
                int(one["iterations"]) > 3
                and bool(one.get("devices"))
                and one["devices"][0]["device"] > 400 << 20
            )
        )
        peak = machine.record()["devices"][0]["device"]
        machine.tide("limit", "train", str(peak + (64 << 20)), "--device", "0")
        begun = machine.record()["iterations"]
        machine.until(lambda one: int(one["iterations"]) > begun + 3)
        machine.until(lambda one: one["devices"][0]["device"] <= peak + (64 << 20))
        machine.tide("pause", "train")
        machine.until(lambda one: one["devices"][0]["away"] > 100 << 20)
        machine.until(lambda one: one["devices"][0]["device"] == 0)
        machine.tide("limit", "train", "none", "--device", "0")
        still = machine.record()["iterations"]
        machine.tide("resume", "train")
        machine.until(lambda one: int(one["iterations"]) > still + 3)
        (tmp_path / "stop").touch()
        assert job.wait(live_machine.DEADLINE_S) == 0, (tmp_path / "log").read_text()
        assert (tmp_path / "exact").read_text() == "True"
