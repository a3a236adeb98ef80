"""What the runtime costs a job that is alone: step time, import time, the boundary itself."""

from __future__ import annotations

import functools
import pathlib
import statistics
import tempfile

from benchmarks import bodies, elastic_bodies, estimates
from benchmarks.figure import Figure
from benchmarks.harness import Deadline, interleave
from benchmarks.workers import Worker, fleet, tide_environment

MODELS = ("resnet", "gpt", "lstm")
ARMS = ("plain", "tuned", "tide")
WARM_UP_STEPS = 5  # lifetimes are learnt in iterations 2 and 3
THREADS = 1  # two threads on a shared machine measure the neighbours
GATE_ITERATIONS = 2000
RANKS = 2
RANK_MEGABYTES = 10  # of gradients
RANK_STEPS = 5  # a round
#: Variables that make two ranks a gang, or keep them from being one; None: without the runtime.
RANK_ARMS = {"gang": "1", "apart": "0", "plain": None}


def one_generation(
    model: str, deadline: Deadline, seed: int, folder: pathlib.Path
) -> dict[str, list[tuple[float, float]]]:
    """Wall and processor seconds of single steps, one process an arm, arms interleaved."""
    environment = tide_environment(folder)
    workers = {
        arm: Worker(bodies.training, environment, arm=arm, model=model, threads=THREADS)
        for arm in ARMS
    }
    with fleet(*workers.values()):
        for worker in workers.values():
            worker.call(WARM_UP_STEPS)
        arms = {arm: functools.partial(worker.call, 1) for arm, worker in workers.items()}
        return interleave(arms, 10_000, deadline, seed=seed)


def step_ratios(figure: Figure, generations: int, budget: Deadline, folder: pathlib.Path) -> None:
    """Step time under the runtime over plain PyTorch with default and with tuned glibc.

    glibc returns memory to the kernel in some processes and not in others, so each arm is several
    processes one after another ("generations").
    """
    parts = [(generation, model) for generation in range(generations) for model in MODELS]
    steps: dict[str, dict[str, list[tuple[float, float]]]] = {
        model: {arm: [] for arm in ARMS} for model in MODELS
    }
    for done, (generation, model) in enumerate(parts):
        share = Deadline(budget.left / (len(parts) - done))
        measured = one_generation(model, share, generation, folder)
        for arm in ARMS:
            steps[model][arm] += measured[arm]
    for model in MODELS:
        store(figure, model, steps[model])


def store(figure: Figure, model: str, steps: dict[str, list[tuple[float, float]]]) -> None:
    """Puts the ratios of one model, of wall time and of processor time."""
    wall = {arm: [seconds for seconds, *_ in steps[arm]] for arm in ARMS}
    processor = {arm: [seconds for _, seconds, *_ in steps[arm]] for arm in ARMS}
    for suffix, arm in (("", "plain"), ("_tuned", "tuned")):
        ratio = estimates.paired_ratio(wall["tide"], wall[arm])
        figure.put(f"step_ratio_{model}{suffix}", ratio)
        ratio = estimates.paired_ratio(processor["tide"], processor[arm])
        figure.put(f"step_processor_ratio_{model}{suffix}", ratio)
        figure.baselines[f"step_ms_{model}_{arm}"] = 1e3 * statistics.median(wall[arm])
    figure.values[f"step_ms_{model}"] = 1e3 * statistics.median(wall["tide"])
    figure.setting[f"rounds_{model}"] = len(wall["tide"])


def imports(figure: Figure, count: int, folder: pathlib.Path) -> None:
    """`import torchtide` beside an imported torch, each time in a new process."""
    seconds = []
    for _ in range(count):
        with Worker(bodies.importing, tide_environment(folder)) as worker:
            seconds.append(worker.first)
    figure.put("import_seconds_added", estimates.median([imported for imported, _ in seconds]))
    figure.put("start_seconds", estimates.median([started for _, started in seconds]))


def gates(figure: Figure, count: int, folder: pathlib.Path) -> None:
    """An empty iteration with boundaries, less one without."""
    with Worker(bodies.gate, tide_environment(folder), iterations=GATE_ITERATIONS) as worker:
        pairs = [worker.call() for _ in range(count)]
    ours, plain = [pair[0] * 1e6 for pair in pairs], [pair[1] * 1e6 for pair in pairs]
    figure.put("gate_us_per_iteration", estimates.paired_difference(ours, plain))
    figure.baselines["empty_loop_us_per_iteration"] = statistics.median(plain)


def ranks_of(arm: str, folder: pathlib.Path) -> list[Worker]:
    """The two processes of a job of DDP, on a device of its own; each says when it is ready."""
    own = folder / arm
    own.mkdir(mode=0o700)
    return [
        Worker(
            elastic_bodies.ddp,
            tide_environment(
                own, TIDE_LANE_GANG=RANK_ARMS[arm] or "0", TIDE_GANG=f"1:{rank}:{RANKS}"
            ),
            rank=rank,
            size=RANKS,
            store=str(own / "meet"),
            workers=RANKS,
            megabytes=RANK_MEGABYTES,
            tide=RANK_ARMS[arm] is not None,
            wait_first=False,
        )
        for rank in range(RANKS)
    ]


def gang_ratios(figure: Figure, seconds: float, folder: pathlib.Path) -> None:
    """Step time of two ranks that are a gang and alone, over ranks that are none and over DDP."""
    crews = {arm: ranks_of(arm, folder) for arm in RANK_ARMS}
    until = dict.fromkeys(RANK_ARMS, 0)

    def train(arm: str, steps: int) -> float:
        until[arm] += steps
        for worker in crews[arm]:
            worker.send(until[arm])
        return max(float(worker.receive()["seconds"]) for worker in crews[arm]) / steps

    with fleet(*(worker for crew in crews.values() for worker in crew)):
        for arm, crew in crews.items():
            for worker in crew:
                worker.receive()
            train(arm, 20)  # lifetimes are learnt, and the gang forms
        arms = {arm: functools.partial(train, arm, RANK_STEPS) for arm in crews}
        measured = interleave(arms, 10_000, Deadline(seconds))
    for other in ("apart", "plain"):
        ratio = estimates.paired_ratio(measured["gang"], measured[other])
        figure.put(f"gang_step_ratio_{other}", ratio)
        figure.baselines[f"step_ms_ranks_{other}"] = 1e3 * statistics.median(measured[other])
    figure.values["step_ms_gang"] = 1e3 * statistics.median(measured["gang"])
    figure.setting["rounds_gang"] = len(measured["gang"])


def measure(quick: bool) -> Figure:
    """Runs the figure; at most 150 s when quick."""
    budget = Deadline(140 if quick else 1500)
    figure = Figure("overhead", setting={"threads": THREADS})
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        imports(figure, 5 if quick else 15, folder)
        gates(figure, 7 if quick else 15, folder)
        gang_ratios(figure, 20 if quick else 120, folder)
        step_ratios(figure, 2 if quick else 6, budget, folder)
    return figure
