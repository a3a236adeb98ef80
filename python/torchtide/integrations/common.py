"""What the adapters share: the missing package, the schedule with what travels, the mean loss."""

from __future__ import annotations

import contextlib
import importlib
import random
import sys
from collections.abc import Callable, Iterator
from typing import Any

from torchtide.errors import OptionError


def require(package: str, extra: str) -> Any:
    """Imports a package. Raises ImportError with the command that installs it."""
    try:
        return importlib.import_module(package)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] != package.partition(".")[0]:
            raise  # it is there, and misses something itself
        raise ImportError(
            f'torchtide.integrations.{extra} needs {package}: pip install "torchtide[{extra}]"',
            name=package,
        ) from error


def refuse_set(asked: str, reasons: dict[str, tuple[bool, str]]) -> None:
    """Raises OptionError for the first option of `reasons` that is set."""
    for name, (is_set, reason) in reasons.items():
        if is_set:
            raise OptionError(f"{name} does not go with elastic training: {reason}", asked=asked)


def refuse_overridden(instance: object, base: type, names: dict[str, str]) -> None:
    """Raises OptionError for a method that a subclass replaced and that would not be called."""
    for name, advice in names.items():
        if getattr(type(instance), name) is not getattr(base, name):
            raise OptionError(
                f"{type(instance).__name__}.{name} would not be called in elastic training",
                asked="fit" if base.__module__.startswith("lightning") else "train",
                advice=advice,
            )


class Travelling:
    """Stands in for the scheduler of a `Run`: what it says of itself reaches joiners and files."""

    def __init__(
        self,
        scheduler: Any,
        step: Callable[[], None],
        save: Callable[[], dict[str, Any]],
        load: Callable[[dict[str, Any]], None],
    ) -> None:
        """`save` and `load` are of plain values that are equal in all processes after each step."""
        self._scheduler, self.step, self._save, self._load = scheduler, step, save, load

    def state_dict(self) -> dict[str, Any]:
        """Of the scheduler, and what `save` returns."""
        inner = None if self._scheduler is None else self._scheduler.state_dict()
        return {"schedule": inner, "trainer": self._save()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """What `state_dict` returned elsewhere."""
        if self._scheduler is not None:
            self._scheduler.load_state_dict(state["schedule"])
        self._load(state["trainer"])


class MeanLoss:
    """The mean loss of this process's batches since it was last asked."""

    def __init__(self) -> None:
        self._step: tuple[int, int] | None = None
        self._pending: list[float] = []
        self._sum, self._count = 0.0, 0

    def add(self, step: int, generation: int, loss: float) -> None:
        """A batch; what a step had added that is repeated with other workers is forgotten."""
        if self._step != (step, generation):
            self._step, self._pending = (step, generation), []
        self._pending.append(loss)

    def commit(self) -> None:
        """The step is done."""
        self._sum += sum(self._pending)
        self._count += len(self._pending)
        self._pending = []

    def take(self) -> float | None:
        """The mean; None when there was no batch."""
        mean = self._sum / self._count if self._count else None
        self._sum, self._count = 0.0, 0
        return mean


@contextlib.contextmanager
def undisturbed() -> Iterator[None]:
    """Whatever is drawn inside leaves torch's, Python's and NumPy's random states as they were."""
    torch, numpy = sys.modules["torch"], sys.modules.get("numpy")
    before = torch.get_rng_state(), random.getstate()
    drawn = None if numpy is None else numpy.random.get_state()
    try:
        yield
    finally:
        torch.set_rng_state(before[0])
        random.setstate(before[1])
        if numpy is not None:
            numpy.random.set_state(drawn)
