"""What others want of an elastic job as a whole; each process carries it out at a boundary.

`tide pause` and `tide limit` leave a wish in the memory that the processes share
(csrc/elastic/layout.h); all of them follow it before the same step. What the daemon orders one of
the processes to do becomes such a wish too (csrc/runtime/job_orders.h).
"""

from __future__ import annotations

import logging
from typing import Any

from torchtide import _core
from torchtide._gate import GATE

_LOG = logging.getLogger("torchtide")


class Orders:
    """The boundary of one process, after `exchange.advance` and before the next step."""

    def __init__(self, exchange: Any, descriptor: int) -> None:
        """The exchange has joined its group, which lies in the file behind `descriptor`."""
        exchange.take_orders(descriptor)
        self._exchange = exchange
        self._followed: tuple[int, int] | None = None  # word of the limit, processes
        self._processes = 1
        self._asked = self._said = False  # a pause of the wait for the turn, and that it is there
        GATE.on_held = exchange.hold
        GATE.while_waiting = self.while_waiting

    def obey(self, step: int, processes: int) -> bool:
        """Pauses and moves the limit when that is wanted.

        A pause takes effect in all processes before the same step: none of them waits in an
        exchange for one that is paused.

        Returns:
            True when the job may go on; False when its processes have changed meanwhile: enter
            the new generation and call again.

        Raises:
            KeyboardInterrupt: while it is paused.
        """
        self._processes = processes
        self._follow_limit(processes)
        if not self._exchange.pause_due(step):
            return True
        suspended = self._suspend()
        while self._exchange.pause_due(step):
            self._exchange.await_orders(step, self._exchange.limit()[0])
            self._follow_limit(processes)
            if self._exchange.regroup_due(step):
                break
        if suspended:
            _core.resume(True)
        return not self._exchange.regroup_due(step)

    def while_waiting(self) -> None:
        """Does the same in the middle of a step whose first iteration waits for its turn.

        A pause takes effect in all processes while all of them wait before that step; where one of
        them does not, it takes effect before the next one.
        """
        self._follow_limit(self._processes)
        wanted = self._exchange.pause_wanted()
        if wanted and not self._asked and _core.gang_waits():
            self._asked = True
            _core.suspend(False)
        elif self._asked and not wanted:
            self._asked = False
            _core.resume(False)
        paused = self._asked and bool(_core.report()["suspended"])
        if paused != self._said:
            self._said = paused
            self._exchange.say_paused(paused)

    def _suspend(self) -> bool:
        """Takes the memory away; a process that cannot spare it waits with it."""
        if not _core.started():
            return False
        GATE.end()
        try:
            _core.suspend(True)
        except Exception as error:  # no room in the file tier: the others are paused all the same
            _LOG.warning("event=elastic_pause_keeps_memory error=%r", str(error))
            return False
        return True

    def _follow_limit(self, processes: int) -> None:
        """This process's part of the limit; again when the number of processes has changed."""
        word, total = self._exchange.limit()
        if word == 0 or self._followed == (word, processes):
            return
        self._followed = word, processes
        if not _core.started():
            self._exchange.limit_done(word, None if total else 0, 0)
            return
        GATE.end()
        guaranteed = min(int(_core.report()["guaranteed"]), total // processes)
        answer = _core.set_limit(total // processes, guaranteed, True)
        smallest = 0
        if answer["status"] == "conflict":
            smallest = int(answer["parts"].get("smallest", 0)) or 1
            _LOG.warning("event=elastic_limit_not_followed text=%r", answer["text"])
        self._exchange.limit_done(word, smallest, int(answer.get("moved_bytes", 0)))
