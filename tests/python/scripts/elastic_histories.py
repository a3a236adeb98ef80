"""Trains one model over several histories of sizes and prints the digest of every step.

    elastic_histories.py '{"model": "gpt", "histories": [{"start": 1}, {"start": 2, ...}]}'

A history is {"start": M, "sizes": {step: M}, "kills": {step: [rank, moment]}, "broken": NAME,
"save": [step, path], "load": path}. All processes are forked from this one, which has imported
torch and computed nothing.
"""

import functools
import itertools
import json
import os
import random
import signal
import sys
import tempfile
import time
import traceback
from pathlib import Path

import numpy
import torch
import torch._dynamo  # the first optimizer of each process would import it
import torch.nn.functional as F
from torch import nn
from torchtide import _core
from torchtide.elastic import contexts
from torchtide.elastic.run import DESCRIPTOR, Released, Run

SAMPLES = 150  # no multiple of anything: the tail of an epoch is short


class Residual(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.norm1, self.norm2 = nn.BatchNorm2d(width), nn.BatchNorm2d(width)

    def forward(self, x):
        return F.relu(x + self.norm2(self.conv2(F.relu(self.norm1(self.conv1(x))))))


class ResNet(nn.Module):
    def __init__(self, width=8):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, width, 3, padding=1), nn.BatchNorm2d(width))
        self.blocks = nn.Sequential(Residual(width), Residual(width))
        self.head = nn.Linear(width, 10)

    def forward(self, x):
        if random.random() < 0.5:  # the worker's own streams
            x = x.flip(-1)
        x = x + torch.rand(1) * 0.1 + float(numpy.random.randn()) * 0.05
        return self.head(self.blocks(self.stem(x)).mean((2, 3)))


class GPT(nn.Module):
    def __init__(self, tied=False, width=32, words=64):
        super().__init__()
        self.token = nn.Embedding(words, width)
        self.position = nn.Parameter(torch.zeros(64, width))
        layer = functools.partial(
            nn.TransformerEncoderLayer,
            width,
            4,
            4 * width,
            0.1,
            F.gelu,
            batch_first=True,
            norm_first=True,
        )
        self.blocks = nn.ModuleList([layer() for _ in range(2)])
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, words, bias=False)
        self.register_buffer("mask", torch.full((64, 64), float("-inf")).triu(1))
        if tied:
            self.head.weight = self.token.weight

    def forward(self, x):
        hidden = self.token(x) + self.position[: x.shape[1]]
        for block in self.blocks:
            hidden = block(hidden, src_mask=self.mask[: x.shape[1], : x.shape[1]])
        return self.head(self.norm(hidden)).flatten(0, 1)


class Reader(nn.Module):
    def __init__(self, width=32, words=64, sparse=False):
        super().__init__()
        self.token = nn.Embedding(words, width, sparse=sparse)
        self.lstm = nn.LSTM(width, width, 2, dropout=0.2, batch_first=True)
        self.head = nn.Linear(width, words)

    def forward(self, x):
        return self.head(self.lstm(self.token(x))[0]).flatten(0, 1)


class Bag(nn.Module):
    """Most rows of its table are touched by few logical workers."""

    def __init__(self, width=16, words=400):
        super().__init__()
        self.token = nn.EmbeddingBag(words, width, sparse=True)
        self.head = nn.Linear(width, 48)

    def forward(self, x):
        return self.head(F.dropout(self.token(x), 0.2))


class Noisy(torch.utils.data.Dataset):
    """Images with noise that is drawn anew in every epoch."""

    def __init__(self):
        generator = torch.Generator().manual_seed(5)
        self.x = torch.randn(SAMPLES, 3, 12, 12, generator=generator)
        self.y = torch.randint(0, 10, (SAMPLES,), generator=generator)

    def __len__(self):
        return SAMPLES

    def __getitem__(self, index):
        return self.x[index] + 0.1 * torch.randn(3, 12, 12), self.y[index]


def texts(length=48):
    words = torch.randint(0, 64, (SAMPLES, length + 1), generator=torch.Generator().manual_seed(6))
    return torch.utils.data.TensorDataset(words[:, :-1], words[:, 1:])


class Words(torch.utils.data.IterableDataset):
    """A stream of random sentences; draws on, from where it is."""

    def __init__(self):
        self.at = 0

    def __iter__(self):
        info = torch.utils.data.get_worker_info()
        while self.at < 40:
            self.at += 1
            if self.at % info.num_workers == info.id:
                words = torch.randint(0, 64, (25,))
                yield words[:-1], words[1:]

    def state_dict(self):
        return {"at": self.at}

    def load_state_dict(self, state):
        self.at = state["at"]


def bags():
    """Each sample has words of its own, so that its worker alone touches their rows."""
    words = torch.randint(0, 400, (SAMPLES, 6), generator=torch.Generator().manual_seed(7))
    return torch.utils.data.TensorDataset(words, words[:, 0] % 48)


def make(name):
    """Model, optimizer, data and arguments of prepare."""
    torch.manual_seed(int.from_bytes(os.urandom(4), "little"))  # joiners begin elsewhere
    if os.getpid() == int(os.environ["ELASTIC_FIRST"]):
        torch.manual_seed(1)
    arguments = {"batch_size": 5, "epochs": 2}
    if name == "resnet":
        model = ResNet()
        optimizer = torch.optim.SGD(model.parameters(), 0.05, momentum=0.9, weight_decay=5e-4)
        arguments["scheduler"] = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 20)
        return model, optimizer, Noisy(), arguments
    if name in ("gpt", "tied"):
        model = GPT(tied=name == "tied")
        fused = {"fused": True} if name == "tied" else {"foreach": True}
        optimizer = torch.optim.AdamW(model.parameters(), 1e-3, **fused)
        return model, optimizer, texts(), arguments | {"max_norm": 1.0}
    if name == "stream":
        model = Reader()
        return (
            model,
            torch.optim.SGD(model.parameters(), 0.1),
            Words(),
            {
                "batch_size": 3,
                "steps": 14,
            },
        )
    if name == "readers":
        model = ResNet()
        optimizer = torch.optim.SGD(model.parameters(), 0.05)
        return model, optimizer, Noisy(), arguments | {"data_workers": 1}
    if name == "amp":  # bfloat16 by autocast, a scale that overflows and falls
        model = GPT()
        optimizer = torch.optim.AdamW(model.parameters(), 1e-3)
        arguments["scheduler"] = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, 40)
        arguments["scaler"] = torch.amp.GradScaler("cpu", 2.0**127, growth_interval=3)
        return model, optimizer, texts(), arguments | {"max_norm": 1.0}
    if name == "sparse":
        model = Reader(sparse=True)
        optimizer = torch.optim.Adagrad(model.parameters(), 0.02, lr_decay=1e-3)
        arguments["scheduler"] = torch.optim.lr_scheduler.StepLR(optimizer, 4, 0.5)
        return model, optimizer, texts(), arguments | {"max_norm": 1.0}
    if name == "bag":
        model = Bag()
        optimizer = torch.optim.SGD(model.parameters(), 0.5)
        return model, optimizer, bags(), arguments
    model = Reader()
    optimizer = torch.optim.Adam(model.parameters(), 2e-3)
    return model, optimizer, texts(), {"batch_size": 3, "epochs": 2, "accumulate": 2}


def break_it(run, how):
    """One thing done as usual instead of as it must be done."""
    if how == "order":  # gradients pile up in a process before anything is exchanged
        pile, fold = {}, run._exchange.fold

        def piled(worker, addresses):
            if worker == run._begin:
                pile.clear()
            parameters = run._training.parameters
            for index, (address, p) in enumerate(zip(addresses, parameters, strict=True)):
                view = p.grad.detach().clone() if address else torch.zeros_like(p)
                pile[index] = pile[index] + view if index in pile else view
            last = worker + 1 == run._end
            fold(worker, [pile[i].data_ptr() if last else 0 for i in range(len(addresses))])

        run._exchange = Patched(run._exchange, fold=piled)
        run._training.gradients._exchange = run._exchange
    elif how == "random":  # one stream a process
        contexts.Contexts.load = lambda self, slot: self._load_buffers(slot)
    elif how == "rows":  # a process steps the rows that it has touched itself
        gradients = run._training.gradients
        install, fold = gradients.install, gradients.fold
        mine = set()

        def folded(worker):
            mine.update(run.model.token.weight.grad.coalesce().indices()[0].tolist())
            fold(worker)

        def installed():
            install()
            for marks in gradients._marks.values():
                others = [row for row in range(len(marks) - 1) if row not in mine]
                marks[others] = 0
            mine.clear()

        gradients.fold, gradients.install = folded, installed
    elif how == "buffers":  # one set of running statistics a process
        contexts.Contexts._load_buffers = lambda self, slot: None


class Patched:
    """The exchange with some of its functions replaced."""

    def __init__(self, inner, **functions):
        self._inner = inner
        self.__dict__.update(functions)

    def __getattr__(self, name):
        return getattr(self._inner, name)


def train(name, workers, history, out):
    """One process; a line a step in `out`."""
    broken = history.get("broken")
    kills = {int(step): value for step, value in history.get("kills", {}).items()}
    sizes = {int(step): size for step, size in history.get("sizes", {}).items()}
    group = _core.ElasticGroup(int(os.environ[DESCRIPTOR])) if DESCRIPTOR in os.environ else None
    # Two threads where one process is alone, one where there are two.
    threads = 2 if broken == "threads" and history["start"] == 1 else 1
    with Run(workers, (1, workers), threads=threads) as run, Path(out).open("a") as lines:
        model, optimizer, dataset, arguments = make(name)
        if "epochs" in history:
            arguments["epochs"] = history["epochs"]
        model, optimizer, loader = run.prepare(model, optimizer, dataset, **arguments)
        if "load" in history:
            run.load(history["load"])
        if broken == "forget":  # what a usual checkpoint has: one random state, one set of buffers
            run._restored = [run._restored[0]] * workers
        break_it(run, broken)
        for batch in run.iterations(loader):
            generation, rank = run.generation, run._place()["rank"]
            at = kills.get(run.step_index)
            doomed = at is not None and generation == at[2] and rank == at[0]
            if doomed and at[1] == "forward":
                os.kill(os.getpid(), signal.SIGKILL)
            with torch.autocast("cpu", torch.bfloat16, enabled=name == "amp"):
                loss = F.cross_entropy(model(batch.x), batch.y.flatten())
            run.backward(loss)
            if doomed and at[1] == "backward":
                os.kill(os.getpid(), signal.SIGKILL)
            stepped = run.step()
            if not stepped:
                continue
            print(run.step_index, run.processes, run.digest(), file=lines, flush=True)
            if run.is_main and history.get("save", [0])[0] == run.step_index:
                run.save(history["save"][1])
            size = sizes.get(run.step_index)
            if size is not None and run.is_main:
                await_ready(group, size)
                group.resize(size)


def await_ready(group, size):
    """Until there are enough to make a job of `size`."""
    while True:
        news, report = group.news(), group.report()
        if len(report["pids"]) + len(report["standing_by"]) >= size:
            return
        group.await_news(news, 0.05)


def await_first_step(group):
    """Until the job has begun: who comes now is a joiner."""
    end = time.monotonic() + 60
    while group.report()["steps"] == 0 and time.monotonic() < end:
        group.await_news(group.news(), 0.05)


def child(function, *arguments):
    """Forks; returns the pid."""
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        function(*arguments)
        code = 0
    except Released:
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


def play(name, workers, history, folder):
    """Runs one history; returns [[step, sizes, digests], ...] of all its processes."""
    start = history["start"]
    sizes = [start, *[size for _, size in sorted(history.get("sizes", {}).items(), key=by_step)]]
    alone = history.get("alone", False)
    joiners = sum(max(0, b - a) for a, b in itertools.pairwise(sizes))
    count = 1 if alone else start + joiners
    if not alone:
        descriptor = _core.elastic_create(1, workers, start)
        os.environ[DESCRIPTOR] = str(descriptor)
    outs = [str(Path(folder) / f"{history['index']}-{i}") for i in range(count)]
    pids = [child(begin, name, workers, history, outs[i], i) for i in range(count)]
    if "random_kills" in history:
        kill_and_replace(name, workers, history, folder, pids, outs)
    codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]
    if not alone:
        os.close(descriptor)
        del os.environ[DESCRIPTOR]
    steps = {}
    for out in filter(os.path.exists, outs):
        for line in Path(out).read_text().splitlines():
            step, size, digest = line.split()
            found = steps.setdefault(int(step), [set(), set()])
            found[0].add(int(size))
            found[1].add(digest)
    shown = [[step, sorted(found[0]), sorted(found[1])] for step, found in sorted(steps.items())]
    return {"codes": codes, "steps": shown, "killed": history.get("killed", 0)}


def begin(name, workers, history, out, index):
    founder = index < history["start"]
    os.environ["ELASTIC_FIRST"] = str(os.getpid()) if founder else "0"
    if not founder:
        await_first_step(_core.ElasticGroup(int(os.environ[DESCRIPTOR])))
    train(name, workers, history, out)


def kill_and_replace(name, workers, history, folder, pids, outs):
    """Kills processes at random moments; each is replaced by a joiner."""
    source = random.Random(history["seed"])
    group = _core.ElasticGroup(int(os.environ[DESCRIPTOR]))
    for number in range(history["random_kills"]):
        before, end = group.report()["steps"], time.monotonic() + 60
        # Two that have the model: a joiner has none until a peer has handed it over.
        while group.report()["steps"] < before + 1 or len(group.report()["with_state"]) < 2:
            if time.monotonic() > end:
                return
            group.await_news(group.news(), 0.05)
        for _ in range(source.randrange(12)):  # somewhere among the events of a step
            group.await_news(group.news(), 0.005)
        report = group.report()
        if len(report["with_state"]) < 2:
            continue  # it has changed meanwhile
        if report["finished"]:
            break
        victim = source.choice([pid for pid in sorted(report["pids"]) if pid in pids])
        os.kill(victim, signal.SIGKILL)
        os.waitpid(victim, 0)
        pids.remove(victim)
        outs.append(str(Path(folder) / f"{history['index']}-replacement-{number}"))
        pids.append(child(begin, name, workers, history, outs[-1], history["start"]))
        history["killed"] = history.get("killed", 0) + 1


def by_step(item):
    return int(item[0])


def main():
    wish = json.loads(sys.argv[1])
    with tempfile.TemporaryDirectory() as folder:
        results = []
        for index, history in enumerate(wish["histories"]):
            history["index"] = index
            results.append(play(wish["model"], wish["workers"], history, folder))
    print(json.dumps(results))


if __name__ == "__main__":
    main()
