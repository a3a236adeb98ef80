"""A guaranteed job beside an opportunistic one on two cores, under each law of pace.

`protected_loss` is the share of its steps a second that the guaranteed job loses beside the other
one, against itself alone in the same round. `harvest` is the other one's steps a second over those
it makes alone. `reaction_ms` is the time from the moment at which the other one, idle until then,
begins to train to the moment at which its pace was lowered. Each law has its own pair of processes;
what the law `off` gives is the baseline. Each job has two threads; `*_one_thread` is our law where
each has one.
"""

from __future__ import annotations

import contextlib
import pathlib
import statistics
import tempfile
import time
from typing import Any

from benchmarks import pace_bodies
from benchmarks.figure import Figure
from benchmarks.workers import Worker, tide_environment

LAWS = ("aimd", "tgs", "antman", "off")
#: Of each job: both cores, as torch itself would choose here, so that they are in each other's way.
THREADS = 2
#: Our law with one thread in each job: there is a core for each.
ROOMY = "one_thread"
WARM_UP = 12
QUICK = {"rounds": 2, "alone_s": 2.0, "shared_s": 4.0, "reactions": 1}
FULL = {"rounds": 9, "alone_s": 4.0, "shared_s": 12.0, "reactions": 9}
# Outside for longer than a second, the guaranteed job is one that does not train.
# Idle beside it, the other one's pace rises to 1 in about eight seconds.
GONE_S, BESIDE_S, DISTURB_S, SPARE_S = 1.5, 9.0, 1.5, 2.0
# A job that is slowed already, by the noise of the machine, has no pace to be lowered.
FREE_PACE = 0.5


class Pair:
    """The two jobs under one law."""

    def __init__(
        self, law: str, threads: int, folder: pathlib.Path, stack: contextlib.ExitStack
    ) -> None:
        """Starts both and lets the guaranteed one learn what it takes undisturbed."""
        folder.mkdir(mode=0o700)
        environment = tide_environment(folder, TIDE_PACE_LAW=law)
        self.protected = stack.enter_context(
            Worker(pace_bodies.protected, environment, threads=threads, warm_up=WARM_UP)
        )
        self.guest = stack.enter_context(
            Worker(pace_bodies.guest, environment, threads=threads, warm_up=2)
        )
        self.beside(3.0)

    def alone(self, seconds: float) -> list[float]:
        """Seconds of the guaranteed job's steps while the other one waits."""
        steps: list[float] = self.protected.call(seconds)
        return steps

    def beside(self, seconds: float) -> tuple[list[float], dict[str, Any]]:
        """Both train: the guaranteed job's steps, and what the other one did."""
        self.protected.send(seconds)
        other = self.guest.call((0.0, seconds))
        return self.protected.receive(), other

    def reaction(self) -> dict[str, Any]:
        """The other one begins to disturb while it may run freely."""
        self.guest.send((GONE_S + BESIDE_S, DISTURB_S))
        time.sleep(GONE_S)
        self.protected.call(BESIDE_S + DISTURB_S + SPARE_S)
        answer: dict[str, Any] = self.guest.receive()
        return answer


def rate(steps: list[float]) -> float:
    """Steps a second."""
    return len(steps) / sum(steps)


def measure(quick: bool) -> Figure:
    """Runs the figure; about three minutes when quick."""
    plan = QUICK if quick else FULL
    figure = Figure("pace")
    losses: dict[str, list[float]] = {law: [] for law in (*LAWS, ROOMY)}
    shares: dict[str, list[float]] = {law: [] for law in (*LAWS, ROOMY)}
    reactions: dict[str, list[float | None]] = {law: [] for law in LAWS}
    paces: dict[str, list[float]] = {law: [] for law in LAWS}
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        root = pathlib.Path(folder)
        pairs = {law: Pair(law, THREADS, root / law, stack) for law in LAWS}
        pairs[ROOMY] = Pair("aimd", 1, root / ROOMY, stack)
        for _ in range(int(plan["rounds"])):
            both = {name: pairs[name].guest.call((0.0, plan["alone_s"])) for name in ("off", ROOMY)}
            for law, pair in pairs.items():
                guest_alone = both[ROOMY if law == ROOMY else "off"]["rate"]
                before = rate(pair.alone(plan["alone_s"]))
                steps, other = pair.beside(plan["shared_s"])
                losses[law].append(1 - rate(steps) / before)
                shares[law].append(other["rate"] / guest_alone)
        for _ in range(int(plan["reactions"])):
            for law in LAWS[:-1]:
                found = pairs[law].reaction()
                paces[law].append(found["pace_before"])
                if found["pace_before"] > FREE_PACE:
                    reactions[law].append(found["reaction_s"])
    for law in (*LAWS, ROOMY):
        suffix = "" if law == "aimd" else f"_{law}"
        table = figure.baselines if law == "off" else figure.values
        table[f"protected_loss{suffix}"] = statistics.median(losses[law])
        table[f"harvest{suffix}"] = statistics.median(shares[law])
        if law in ("off", ROOMY):
            continue
        seen = [seconds for seconds in reactions[law] if seconds is not None]
        if not reactions[law]:
            figure.missing(f"reaction_ms{suffix}", f"its pace did not rise above {FREE_PACE}")
        elif len(seen) * 2 > len(reactions[law]):
            table[f"reaction_ms{suffix}"] = 1e3 * statistics.median(seen)
        else:
            figure.missing(f"reaction_ms{suffix}", f"no cut within {DISTURB_S} s in most rounds")
        figure.setting[f"paces_before_reaction_{law}"] = [round(pace, 2) for pace in paces[law]]
    figure.setting |= plan | {"threads": THREADS}
    figure.setting["losses"] = {
        law: [round(one, 3) for one in found] for law, found in losses.items()
    }
    return figure
