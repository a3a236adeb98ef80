"""Records what PyTorch's CUDA allocator asks of the driver while models train.

    python tests/cuda/record_trace.py > tests/data/cuda_allocator.trace
    python tests/cuda/record_trace.py gpt2 > tests/data/cuda_allocator_gpt2.trace
    python tests/cuda/record_trace.py resnet50 > tests/data/cuda_allocator_resnet50.trace

Without a name two small models train one after the other. All train on the phantom GPU with
PyTorch's own table. `tests/cpp/pages/device_trace_test.cc` replays the calls without PyTorch. A
line of the trace is a call that succeeded:

    R reservation bytes        reserve addresses       F reservation        free them
    C handle bytes             create memory           L handle             release it
    M reservation offset bytes handle   map            U reservation offset bytes   unmap
    A reservation offset bytes          set access
"""

from __future__ import annotations

import pathlib
import subprocess
import sys
import tempfile
import uuid

import phantom_gpu

TRAIN = """
import torch
torch._C._accelerator_setAllocatorSettings("expandable_segments:True")
torch.manual_seed(0)
torch.backends.cuda.enable_cudnn_sdp(False)

class Gpt(torch.nn.Module):
    def __init__(self, width=384, layers=4, words=4096):
        super().__init__()
        self.embed = torch.nn.Embedding(words, width)
        layer = torch.nn.TransformerEncoderLayer(width, 6, 4 * width, 0.0, batch_first=True)
        self.body = torch.nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)
        self.head = torch.nn.Linear(width, words)
    def forward(self, tokens):
        return self.head(self.body(self.embed(tokens)))

def train(model, optimizer, batches):
    for batch in batches:
        with torch.autocast("cuda", dtype=torch.bfloat16):
            loss = model(batch).float().square().mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

tokens = torch.zeros(8, 512, dtype=torch.long, device="cuda")
lengths = [128, 256, 64, 512, 192, 384]
model = Gpt().cuda()
optimizer = torch.optim.AdamW(model.parameters())
train(model, optimizer, [tokens[:, :n] for n in lengths])
saved = {key: value.cpu() for key, value in model.state_dict().items()}
with torch.no_grad():
    for n in lengths:
        model(tokens[:, :n])
torch.cuda.empty_cache()
train(model, optimizer, [tokens[:4, :n] for n in reversed(lengths)])
del model, optimizer
torch.cuda.empty_cache()
picture = torch.zeros(16, 3, 96, 96, device="cuda")
linear, relu = torch.nn.Linear, torch.nn.ReLU
vae = torch.nn.Sequential(linear(27648, 512), relu(), linear(512, 64), linear(64, 27648)).cuda()
optimizer = torch.optim.SGD(vae.parameters(), lr=0.1, momentum=0.9)
for size in (16, 3, 16, 9):
    loss = (vae(picture[:size].flatten(1)) - picture[:size].flatten(1)).square().mean()
    loss.backward()
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    torch.cuda.empty_cache()
"""


#: A model in its published size, with mixed precision: three batches of two sizes, an evaluation
#: beside the training, and a cache that is emptied once.
PUBLISHED = """
import torch, training_models
torch._C._accelerator_setAllocatorSettings("expandable_segments:True")
torch.backends.cuda.enable_cudnn_sdp(False)
model, loss_of, batches = training_models.make(KIND, 8)
model.to_empty(device="cuda")
optimizer = torch.optim.AdamW(model.parameters())
scaler = torch.amp.GradScaler("cuda")

def train(batches):
    for batch in batches:
        batch = [tensor.cuda() for tensor in batch]
        with torch.autocast("cuda", dtype=torch.bfloat16):
            loss = loss_of(model, batch)
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        optimizer.step()
        scaler.update()
        optimizer.zero_grad(set_to_none=True)

train(batches)
with torch.no_grad():
    loss_of(model, [tensor[:3].cuda() for tensor in batches[0]])
torch.cuda.empty_cache()
train(batches[1:])
"""


def numbered(lines: list[str]) -> list[str]:
    """With small numbers for addresses and handles."""
    reservations: dict[int, tuple[int, int]] = {}  # address -> number, size
    handles: dict[int, int] = {}
    made = 0
    result = []

    def place(at: int) -> str:
        start = max(begin for begin in reservations if begin <= at)
        return f"{reservations[start][0]} {at - start:x}"

    for line in lines:
        call, *words = line.split()
        numbers = [int(word, 16) for word in words]
        if call == "reserve":
            made += 1
            reservations[numbers[0]] = (made, numbers[1])
            result.append(f"R {made} {numbers[1]:x}")
        elif call == "free":
            result.append(f"F {reservations.pop(numbers[0])[0]}")
        elif call == "create":
            made += 1
            handles[numbers[0]] = made
            result.append(f"C {made} {numbers[1]:x}")
        elif call == "release":
            result.append(f"L {handles.pop(numbers[0])}")
        elif call == "map":
            result.append(f"M {place(numbers[0])} {numbers[1]:x} {handles[numbers[2]]}")
        elif call == "unmap":
            result.append(f"U {place(numbers[0])} {numbers[1]:x}")
        elif call == "access":
            result.append(f"A {place(numbers[0])} {numbers[1]:x}")
    return result


def main() -> int:
    """Prints the trace."""
    kind = sys.argv[1] if len(sys.argv) > 1 else ""
    script = f"KIND = {kind!r}\n{PUBLISHED}" if kind else TRAIN
    name = f"trace{uuid.uuid4().hex[:8]}"
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder)
        environment = phantom_gpu.environment(
            name, path, TIDE_PHANTOM_MB=81920, TIDE_PHANTOM_TRACE=path / "trace"
        )
        try:
            subprocess.run([sys.executable, "-c", script], env=environment, check=True)
        finally:
            phantom_gpu.forget(name)
        print("\n".join(numbered((path / "trace").read_text().splitlines())))
    return 0


if __name__ == "__main__":
    sys.exit(main())
