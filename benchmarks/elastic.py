"""Elastic training: a step against DDP, the price of a resize and of a kill, equal bits."""

from __future__ import annotations

import contextlib
import functools
import itertools
import os
import pathlib
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from typing import Any

from benchmarks import elastic_bodies as bodies
from benchmarks import estimates, slow_link, torchft, torchrun
from benchmarks.figure import Figure
from benchmarks.harness import Deadline, interleave
from benchmarks.workers import Worker, fleet, tide_environment

NOT_REACHED = "the processes could not connect"
MEGABYTES = 10
LINK_MEGABYTES = 40
STEPS = 5  # a round
TORCHFT = ("torchft_pause_s", "torchft_kill_recovery_s")
TORCHRUN = ("torchrun_gap_over_ours", "torchrun_gap_over_ours_150mb")


class Job:
    """The memory file of one elastic job and its processes."""

    def __init__(self, workers: int, target: int) -> None:
        """Creates the file; `start` adds processes."""
        from torchtide import _core

        self.workers = workers
        self.descriptor = _core.elastic_create(1, workers, target)
        self.group = _core.ElasticGroup(self.descriptor)

    def start(self, folder: pathlib.Path, megabytes: int, adam: bool = False) -> Worker:
        """One more process; it stands by until it is wanted."""
        return Worker(
            bodies.elastic,
            tide_environment(folder),
            place=(os.getpid(), self.descriptor),
            workers=self.workers,
            megabytes=megabytes,
            adam=adam,
        )


def connected(body: Any, size: int, workers: int, folder: pathlib.Path) -> list[Worker]:
    """Processes of one group of torch.distributed; each says when it is ready."""
    store = tempfile.mktemp(dir=folder)
    return [
        Worker(
            body,
            tide_environment(folder),
            rank=rank,
            size=size,
            store=store,
            workers=workers,
            megabytes=MEGABYTES,
            wait_first=False,
        )
        for rank in range(size)
    ]


@contextlib.contextmanager
def crews(
    size: int, workers: int, folder: pathlib.Path, gloo: bool = False
) -> Iterator[dict[str, list[Worker]]]:
    """Processes of ours and of DDP, warmed up."""
    job = Job(workers, size)
    if gloo:
        ours = connected(bodies.elastic_gloo, size, workers, folder)
    else:
        ours = [job.start(folder, MEGABYTES) for _ in range(size)]
    theirs = connected(bodies.ddp, size, workers, folder)
    with fleet(*ours, *theirs):
        for worker in [*theirs, *(ours if gloo else [])]:
            worker.receive()
        yield {"tide": ours, "ddp": theirs}
    os.close(job.descriptor)


def steps(crew: list[Worker], position: list[int]) -> float:
    """Seconds a step of the slowest process over one round."""
    position[0] += STEPS
    for worker in crew:
        worker.send(position[0])
    return max(worker.receive()["seconds"] for worker in crew) / STEPS


def over_ddp(
    figure: Figure,
    key: str,
    size: int,
    workers: int,
    folder: pathlib.Path,
    seconds: float,
    gloo: bool = False,
) -> estimates.Estimate:
    """Whole step of ours over DDP's, same processes, interleaved."""
    with crews(size, workers, folder, gloo) as crew:
        positions: dict[str, list[int]] = {name: [0] for name in crew}
        arms = {
            name: functools.partial(steps, crew[name], positions[name]) for name in ("tide", "ddp")
        }
        interleave(arms, 1, Deadline(0), rounds_min=1)  # warm up
        measured = interleave(arms, 200, Deadline(seconds))
    figure.values[f"step_ms_{key}"] = 1e3 * statistics.median(measured["tide"])
    figure.baselines[f"step_ms_{key}_ddp"] = 1e3 * statistics.median(measured["ddp"])
    figure.setting[f"rounds_{key}"] = len(measured["ddp"])
    return estimates.paired_ratio(measured["tide"], measured["ddp"])


def exchange(figure: Figure, folder: pathlib.Path, seconds: float) -> None:
    """Even and uneven divisions."""
    from torchtide import _core

    figure.put("exchange_over_ddp", over_ddp(figure, "m2", 2, 2, folder, seconds))
    figure.put("exchange_over_ddp_m4", over_ddp(figure, "m4", 4, 4, folder, seconds))
    over_gloo = over_ddp(figure, "gloo_m2", 2, 2, folder, seconds, gloo=True)
    figure.put("exchange_gloo_over_ddp", over_gloo)
    uneven, factors = {}, {}
    for workers, size in ((6, 2), (8, 3)):
        name = f"n{workers}_m{size}"
        uneven[name] = over_ddp(figure, name, size, workers, folder, seconds / 2).value
        factors[name] = _core.elastic_plan(workers, size)[1]
    figure.values["exchange_over_ddp_uneven"] = uneven
    figure.values["byte_factor"] = factors


def over_slow_link(figure: Figure, seconds: float) -> None:
    """Whole step over DDP's between two hosts, with gradients that leave early and late."""
    position = dict.fromkeys(("early", "late", "ddp"), 0)

    def train(arm: str, crew: list[Worker]) -> float:
        position[arm] += 2
        for worker in crew:
            worker.send((arm, position[arm]))
        return max(float(worker.receive()["seconds"]) for worker in crew) / 2

    with contextlib.ExitStack() as stack:
        try:
            names = stack.enter_context(slow_link.slow_link())
        except (RuntimeError, OSError) as error:
            figure.missing("exchange_slow_link_over_ddp", f"no network namespaces: {error}")
            return
        given = {"size": 2, "workers": 2, "megabytes": LINK_MEGABYTES, "wait_first": False}
        crew = [
            Worker(slow_link.arms, {}, namespace=name, rank=rank, **given)
            for rank, name in enumerate(names)
        ]
        with fleet(*crew):
            for worker in crew:
                worker.receive()
            steps_of = {arm: functools.partial(train, arm, crew) for arm in position}
            interleave(steps_of, 1, Deadline(0), rounds_min=1)  # warm up
            measured = interleave(steps_of, 50, Deadline(seconds))
    early = estimates.paired_ratio(measured["early"], measured["ddp"])
    figure.put("exchange_slow_link_over_ddp", early)
    late = statistics.median(measured["late"])
    figure.values["slow_link_late_over_early"] = late / statistics.median(measured["early"])
    figure.baselines["step_ms_slow_link_ddp"] = 1e3 * statistics.median(measured["ddp"])
    figure.setting |= {"link": slow_link.RATE, "link_model_megabytes": LINK_MEGABYTES}


def context_switches(figure: Figure, folder: pathlib.Path) -> None:
    """Share of a step that loading and saving contexts takes."""
    with Worker(bodies.contexts, tide_environment(folder), steps=2) as worker:
        worker.call()
        rounds = [worker.call() for _ in range(5)]
    figure.put("context_switch_percent", estimates.median([100 * s / t for t, s in rounds]))


def memory(figure: Figure, folder: pathlib.Path) -> None:
    """Peak of eight logical workers over that of one, without the partial sums that are needed."""
    from benchmarks.workers import tide_environment as environment

    megabytes = 60
    with Worker(bodies.peak, environment(folder), workers=1, megabytes=megabytes) as worker:
        one, gradient = worker.first
    with Worker(bodies.peak, environment(folder), workers=8, megabytes=megabytes) as worker:
        eight, _ = worker.first
    figure.values["memory_beyond_partials_1_to_8"] = (eight - 2 * gradient) / one
    figure.values["memory_1_to_8"] = eight / one


def pause(ends: list[tuple[float, int, int]], sizes: tuple[int, int]) -> float:
    """Seconds between the last step at the old size and the first at the new, less a step's."""
    gaps = [(b[0] - a[0], a[1], b[1]) for a, b in itertools.pairwise(ends)]
    usual = statistics.median(gap for gap, _, after in gaps if after == sizes[1])
    return max(gap for gap, *size in gaps if tuple(size) == sizes) - usual


def resize(figure: Figure, folder: pathlib.Path, rounds: int) -> None:
    """Two processes become three, with 150 MB of state and a joiner that stands by."""
    pauses, totals = [], []
    for _ in range(rounds):
        job = Job(6, 2)
        crew = [job.start(folder, 50, adam=True) for _ in range(2)]
        with fleet(*crew):
            for worker in crew:
                worker.send(14)
            await_steps(job, 2)
            with job.start(folder, 50, adam=True) as joiner:
                joiner.send(14)
                await_ready(job)
                asked = time.monotonic()
                job.group.resize(3)
                ends = crew[0].receive()["ends"]
        os.close(job.descriptor)
        if not any(size == 3 for _, size, _ in ends):
            continue
        pauses.append(pause(ends, (2, 3)))
        totals.append(next(end for end, size, _ in ends if size == 3) - asked)
    if pauses:
        figure.put("resize_pause_s", estimates.median(pauses))
        figure.put("resize_total_s", estimates.median(totals))


def replicas(figure: Figure, quick: bool) -> None:
    """The same with torchft: a third replica comes, and is killed; 150 MB of state."""
    reason = torchft.missing()
    pauses: list[float] = []
    recoveries: list[float] = []
    try:
        for _ in range(0 if reason else 1 if quick else 5):
            with tempfile.TemporaryDirectory() as name:
                pause_s, recovery_s = torchft.gaps(pathlib.Path(name), 50, 60)
            pauses.append(pause_s)
            if isinstance(recovery_s, str):
                reason = recovery_s
            else:
                recoveries.append(recovery_s)
    except RuntimeError as error:
        reason = str(error)
    for key, found in zip(TORCHFT, (pauses, recoveries), strict=True):
        if found:
            figure.baselines[key] = statistics.median(found)
        else:
            figure.missing(key, reason)


def kill(
    folder: pathlib.Path, rounds: int, size: int, megabytes: int, adam: bool = False
) -> tuple[estimates.Estimate, float]:
    """SIGKILL of one of `size` until the others have finished the step that it interrupted.

    Also the median of the steps after that: what a step of those who are left takes anyway.
    """
    seconds, usual = [], []
    for _ in range(rounds):
        job = Job(6, size)
        crew = [job.start(folder, megabytes, adam) for _ in range(size)]
        with fleet(*crew):
            for worker in crew:
                worker.send(40)
            await_steps(job, 5)
            killed = time.monotonic()
            os.kill(job.group.report()["pids"][1], signal.SIGKILL)
            victim = crew[0] if not crew[0].process.is_alive() else crew[1]
            ends = next(w for w in crew if w is not victim and w.process.is_alive()).receive()[
                "ends"
            ]
        os.close(job.descriptor)
        after = [end for end, left, _ in ends if left == size - 1]
        seconds.append(after[0] - killed)
        usual += [b - a for a, b in itertools.pairwise(after)]
    return estimates.median(seconds), statistics.median(usual)


def kills(figure: Figure, folder: pathlib.Path, quick: bool) -> None:
    """What a killed process costs here and under torchrun, which starts all processes again."""
    ours, _ = kill(folder, 3 if quick else 10, 3, MEGABYTES)
    same, usual = kill(folder, 1 if quick else 3, 2, 50, adam=True)  # torchrun's model and size
    figure.values["step_s_after_kill_150mb_m2"] = usual
    figure.put("kill_recovery_s", ours)
    figure.put("kill_recovery_150mb_m2_s", same)
    gaps = []
    try:
        for _ in range(1 if quick else 3):
            with tempfile.TemporaryDirectory() as name:
                gaps.append(torchrun.gap(pathlib.Path(name), 6, 50, 60 if quick else 200))
    except RuntimeError as error:
        print(error, file=sys.stderr)
        figure.require(TORCHRUN, str(error).splitlines()[0])
        return
    gap = statistics.median(gaps)
    figure.baselines["torchrun_gap_s"] = gap
    figure.values["torchrun_gap_over_ours"] = gap / ours.value
    figure.values["torchrun_gap_over_ours_150mb"] = gap / same.value


def await_steps(job: Job, count: int) -> None:
    """Until the job has committed so many."""
    end = time.monotonic() + 60
    while job.group.report()["steps"] < count and time.monotonic() < end:
        job.group.await_news(job.group.news(), 0.05)


def await_ready(job: Job) -> None:
    """Until a joiner stands by."""
    end = time.monotonic() + 60
    while not job.group.report()["standing_by"] and time.monotonic() < end:
        job.group.await_news(job.group.news(), 0.05)


def bits(figure: Figure, folder: pathlib.Path) -> None:
    """Digests after twelve steps in one process, in two, and in three of which one is killed."""
    digests = []
    for size in (1, 2, 3):
        job = Job(6, size)
        crew = [job.start(folder, 1, adam=True) for _ in range(size)]
        with fleet(*crew):
            for worker in crew:
                worker.send(12)
            if size == 3:
                await_steps(job, 3)
                os.kill(job.group.report()["pids"][-1], signal.SIGKILL)
            alive: list[Any] = []
            for worker in crew:
                with contextlib.suppress(Exception):  # the one that was killed
                    alive.append(worker.receive())
        os.close(job.descriptor)
        digests += [answer["digest"] for answer in alive]
    figure.values["bitwise_equal"] = len(digests) >= 5 and len(set(digests)) == 1


def measure(quick: bool) -> Figure:
    """Runs the figure; at most 170 s when quick."""
    setting = {"model_megabytes": MEGABYTES, "state_megabytes": 150, "threads": 1}
    figure = Figure("elastic", setting=setting)
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        bits(figure, folder)
        exchange(figure, folder, 8 if quick else 120)
        over_slow_link(figure, 8 if quick else 60)
        context_switches(figure, folder)
        memory(figure, folder)
        resize(figure, folder, 3 if quick else 10)
        kills(figure, folder, quick)
    replicas(figure, quick)
    figure.require(("exchange_gloo_over_ddp",), NOT_REACHED)
    figure.require(
        ("resize_pause_s", "resize_total_s"), "the training ended before the joiner came"
    )
    return figure
