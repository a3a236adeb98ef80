"""What one allocation costs through the hook, against glibc, and a page of a (phantom) device."""

from __future__ import annotations

import functools
import pathlib
import tempfile

from benchmarks import bodies, estimates, phantom
from benchmarks.figure import Figure
from benchmarks.harness import Deadline, interleave
from benchmarks.workers import Worker, fleet, tide_environment

# the first is below every threshold: the cost of the call itself
SIZES = {"64B": 64, "1MiB": 1 << 20, "8MiB": 8 << 20, "64MiB": 64 << 20}
ARMS = ("plain", "tuned", "tide")
CALLS = 2000
PAGES = 20  # of one block on the phantom GPU


def measure(quick: bool) -> Figure:
    """Runs the figure; seconds when quick. Tensors are made and freed, not touched."""
    figure = Figure("hook", setting={"calls_a_round": CALLS})
    figure.values["alloc_ns"] = {}
    figure.baselines["alloc_ns"], figure.baselines["alloc_ns_tuned"] = {}, {}
    with tempfile.TemporaryDirectory() as name:
        environment = tide_environment(pathlib.Path(name))
        workers = {
            arm: Worker(bodies.allocating, environment, arm=arm, calls=CALLS) for arm in ARMS
        }
        with fleet(*workers.values()):
            for label, size in SIZES.items():
                arms = {
                    arm: functools.partial(worker.call, size) for arm, worker in workers.items()
                }
                interleave(arms, 2, Deadline(0), rounds_min=2)  # warm up
                seconds = interleave(arms, 15 if quick else 60, Deadline(20 if quick else 120))
                nanos = {arm: [1e9 * value for value in seconds[arm]] for arm in ARMS}
                figure.values["alloc_ns"][label] = estimates.median(nanos["tide"]).value
                figure.baselines["alloc_ns"][label] = estimates.median(nanos["plain"]).value
                figure.baselines["alloc_ns_tuned"][label] = estimates.median(nanos["tuned"]).value
                ratio = estimates.paired_ratio(nanos["tide"], nanos["plain"])
                figure.put(f"alloc_ratio_{label}", ratio)
    try:
        _segments(figure, quick)
    except phantom.NoPhantomError as error:
        figure.missing("segment_op_ns", str(error))
    return figure


def _segments(figure: Figure, quick: bool) -> None:
    """Pages of PyTorch's CUDA allocator on the phantom: through the hook and without it."""
    device = phantom.Phantom()
    spares = {"plain": "0", "tide": "0", "tide_spares": "1GiB"}
    with tempfile.TemporaryDirectory() as name:
        environment = tide_environment(pathlib.Path(name))
        workers = {
            arm: Worker(
                phantom.segments,
                environment | device.environment(TIDE_CUDA_SPARE_MAX=spare),
                fresh=True,
                arm=arm.partition("_")[0],
            )
            for arm, spare in spares.items()
        }
        with fleet(*workers.values()):
            arms = {arm: functools.partial(worker.call, PAGES) for arm, worker in workers.items()}
            interleave(arms, 2, Deadline(0), rounds_min=2)  # warm up
            seconds = interleave(arms, 10 if quick else 40, Deadline(15 if quick else 60))
    device.forget()
    nanos = {arm: [1e9 * value for value in values] for arm, values in seconds.items()}
    figure.values["segment_op_ns"] = estimates.median(nanos["tide"]).value
    figure.values["segment_op_ns_spares"] = estimates.median(nanos["tide_spares"]).value
    figure.baselines["segment_op_ns"] = estimates.median(nanos["plain"]).value
    figure.put("segment_op_ratio", estimates.paired_ratio(nanos["tide"], nanos["plain"]))
