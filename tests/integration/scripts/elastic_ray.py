"""An elastic job in Ray actors: started, resized, a process killed, stopped.

elastic_ray.py OUT PIPE: writes the results; each sample waits a little until the script itself
writes into the pipe.
"""

import json
import os
import pathlib
import select
import signal
import sys

import ray
import torch
import torchtide as tide
from torch import nn
from torchtide.errors import ResizeAborted, TideError
from torchtide.integrations import ray as tide_ray

OUT, PIPE = sys.argv[1:]
DEADLINE_S = 300.0


class Points(torch.utils.data.Dataset):
    def __init__(self, pipe):
        generator = torch.Generator().manual_seed(5)
        self.x, self.y = torch.randn(60, 8, generator=generator), torch.arange(60) % 3
        self.go = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK) if pipe else -1

    def __len__(self):
        return 60

    def __getitem__(self, index):
        if self.go >= 0:
            select.select([self.go], [], [], 0.1)
        return self.x[index] + 0.1 * torch.randn(8), self.y[index]


@tide.elastic(workers=4)
def train(run, pipe, epochs=8):
    torch.manual_seed(3)
    model = nn.Sequential(nn.Linear(8, 32), nn.Dropout(0.2), nn.BatchNorm1d(32), nn.Linear(32, 3))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    _, _, loader = run.prepare(model, optimizer, Points(pipe), batch_size=5, epochs=epochs)
    digests = {}
    for batch in run.iterations(loader):
        run.backward(nn.functional.cross_entropy(model(batch.x), batch.y))
        if run.step():
            digests[run.step_index] = run.digest()
    return digests


@tide.elastic(workers=2)
def broken(run):
    raise ValueError("this cannot be trained")


def await_steps(job, count):
    group = job._group
    while job.report()["steps"] < count:
        news = group.news()
        assert job._thread.is_alive()
        if job.report()["steps"] < count:
            group.await_news(news, 0.5)


found = {"alone": train("")}
ray.init(num_cpus=3, include_dashboard=False, object_store_memory=100 << 20, log_to_driver=False)
job = tide_ray.start(train, PIPE, processes=(1, 4), name="points")
found["name"] = job.name
await_steps(job, 1)
go = os.open(PIPE, os.O_RDWR)
found["first"] = len(job.report()["pids"])
found["sizes"] = [len(job.resize(size, DEADLINE_S)["pids"]) for size in (1, 3)]
try:
    job.resize(4, 2.0)  # Ray has three CPUs
except ResizeAborted as error:
    found["too_large"] = str(error)
steps = job.report()["steps"]
os.kill(job.report()["pids"][1], signal.SIGKILL)
await_steps(job, steps + 2)
found["after_kill"] = job.report()["generation"]
os.write(go, b"go")
found["moved"] = job.wait(DEADLINE_S)
job = tide_ray.start(broken, processes=(1, 1))
try:
    job.wait(DEADLINE_S)
except TideError as error:
    found["broken"] = f"{error}: {error.__cause__}"
job = tide_ray.start(train, "", processes=(1, 1), epochs=100000)
await_steps(job, 1)
job.stop()
try:
    job.wait()
except TideError as error:
    found["stopped"] = str(error)
ray.shutdown()
pathlib.Path(OUT).write_text(json.dumps(found))
