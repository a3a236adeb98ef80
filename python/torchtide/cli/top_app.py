"""`tide top` in a terminal with textual: jobs to sort, filter, limit and pause, as in htop."""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Callable
from typing import Any, ClassVar, Final

from rich.text import Text
from textual import work
from textual.app import App, ComposeResult
from textual.binding import Binding, BindingType
from textual.widgets import DataTable, Footer, Static

from torchtide import errors
from torchtide.cli import jobs as orders
from torchtide.cli import render, text
from torchtide.cli.client import open_daemon
from torchtide.cli.edges import Edges
from torchtide.cli.events import sentence
from torchtide.cli.top import lane_line, memory_line, snapshot
from torchtide.cli.top_dialogs import Choice, Confirmation, Message, Prompt

Record = dict[str, Any]

#: Samples of used memory that are kept and drawn, one a picture.
_HISTORY: Final = 120
_BLOCKS: Final = "▁▂▃▄▅▆▇█"
_ASCII_BLOCKS: Final = " .:-=+*#"
_ORDER_TIMEOUT_S: Final = 60.0

#: What jobs can be sorted by: heading, key, and whether the largest comes first.
SORTS: Final[dict[str, tuple[Callable[[Record], Any], bool]]] = {
    "as the daemon lists them": (lambda job: 0, False),
    "name": (lambda job: str(job.get("name", "")), False),
    "resident memory": (lambda job: int(job.get("resident") or 0), True),
    "demoted memory": (lambda job: int(job.get("demoted") or 0), True),
    "limit": (lambda job: int(job.get("limit") or 0), True),
    "steps a second": (lambda job: float(job.get("steps_per_s") or 0), True),
    "iterations": (lambda job: int(job.get("iterations") or 0), True),
}

HELP: Final = """\
F1 h ?   this help              F10 q   quit
arrows   choose a job           Enter i why it is as it is
F4 /     filter by name         F6 s    sort by
I        invert the order       l       set a limit
F9 p     pause or resume        P       set a priority

running  it has the turn        waiting another job has it
loading  no batch is there yet  paused  by somebody
outside  no iteration is open   gone    it has ended

RESIDENT memory that it holds   DEMOTED in the file tier
SCRATCH  its use of the lane    SUSPEND how long a pause takes
"""


class TopApp(App[int]):
    """The machine, its jobs and the last events, until q."""

    CSS = """
    #head { height: auto; }
    #jobs { height: 1fr; min-height: 3; scrollbar-size: 1 1; }
    #jobs > .datatable--cursor {
      color: ansi_default; background: ansi_default; text-style: reverse;
    }
    OptionList > .option-list--option-highlighted {
      color: ansi_default; background: ansi_default; text-style: reverse;
    }
    #tail { height: auto; max-height: 3; color: $text-muted; }
    #said { height: auto; max-height: 4; text-style: bold; }
    """
    ENABLE_COMMAND_PALETTE = False
    TITLE = "tide top"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("f1,h,question_mark", "help", "Help", key_display="F1"),
        Binding("f4,slash", "filter", "Filter", key_display="F4"),
        Binding("f6,s", "sort", "Sort", key_display="F6"),
        Binding("I", "invert", "Invert", show=False),
        Binding("l", "limit", "Limit"),
        Binding("P", "priority", "Prio"),
        Binding("f9,p", "pause", "Pause", key_display="F9"),
        Binding("i", "explain", "Why", priority=False),
        Binding("f10,q", "quit", "Quit", key_display="F10"),
    ]

    def __init__(self, edges: Edges, interval_s: float = 1.0) -> None:
        super().__init__(ansi_color=True)  # the terminal's own colours, or none with NO_COLOR
        self.theme = "ansi-dark"
        self._edges = edges
        self._interval_s = interval_s
        self._state: Record = {}
        self._used: deque[int] = deque(maxlen=_HISTORY)
        self._sort = next(iter(SORTS))
        self._inverted = False
        self._filter = ""
        self._columns: list[tuple[str, int]] = []

    def compose(self) -> ComposeResult:
        yield Static(id="head")
        yield DataTable(id="jobs", cursor_type="row", zebra_stripes=False, cell_padding=0)
        yield Static(id="said")
        yield Static(id="tail")
        yield Footer(compact=True)

    def on_mount(self) -> None:
        """Looks at once, and then again and again."""
        self.query_one(DataTable).focus()
        self._look()
        self.set_interval(self._interval_s, self._look)

    def on_resize(self) -> None:
        self._draw()

    # -- the daemon ------------------------------------------------------------------------

    @work(thread=True, exclusive=True, group="look", exit_on_error=False)
    def _look(self) -> None:
        try:
            with open_daemon(self._edges.connect) as daemon:
                state = snapshot(daemon)
        except errors.TideError as error:
            gone = isinstance(error, errors.DaemonUnavailable)
            note = "no daemon; jobs train on with their last limits" if gone else str(error)
            self.call_from_thread(self._seen, {}, note)
            return
        self.call_from_thread(self._seen, state, "")

    def _seen(self, state: Record, note: str) -> None:
        if note:
            self.query_one("#head", Static).update(Text(text.clean(note), style="bold"))
            return
        self._state = state
        self._used.append(int(state.get("used") or 0))
        self._draw()

    @work(thread=True, group="order", exit_on_error=False)
    def _order(self, told: str, order: Callable[[], str]) -> None:
        """Sends an order and says what came of it; may wait for the job's next boundary."""
        self.call_from_thread(self._say, told)
        try:
            said = order()
        except errors.TideError as error:
            said = f"{error.available}" + (f"; {error.advice}" if error.advice else "")
        self.call_from_thread(self._say, said)
        self.call_from_thread(self._look)

    def _say(self, words: str) -> None:
        self.query_one("#said", Static).update(Text(text.clean(words)))

    # -- the picture -----------------------------------------------------------------------

    def _draw(self) -> None:
        if not self._state:
            return
        width = self.size.width
        head = [memory_line(self._state), *map(lane_line, self._state.get("lanes", []))]
        lines = [render.fitted(line, width) for line in head]
        history = sparkline(self._used, int(self._state.get("capacity") or 0), width - 14)
        lines.insert(1, Text(f"used so far   {history}", no_wrap=True))
        self.query_one("#head", Static).update(Text("\n").join(lines))
        now = self._edges.now()
        events = [render.fitted(sentence(e, now), width) for e in self._state.get("events", [])]
        self.query_one("#tail", Static).update(Text("\n").join(events))
        self._fill(self.shown(), width)

    def shown(self) -> list[Record]:
        """The jobs that pass the filter, in the order chosen."""
        wanted = self._filter.lower()
        found = [j for j in self._state.get("jobs", []) if wanted in str(j.get("name", "")).lower()]
        key, largest_first = SORTS[self._sort]
        return sorted(found, key=key, reverse=largest_first != self._inverted)

    def _fill(self, shown: list[Record], width: int) -> None:
        table = self.query_one(DataTable)
        chosen, at_top = self._chosen_id(), table.cursor_row == 0
        columns, widths, short = render.fitting_columns(shown, width - 4)
        gap = 1 if short else 2
        layout = [
            (column.header, cells + gap) for column, cells in zip(columns, widths, strict=True)
        ]
        table.clear(columns=layout != self._columns)
        if layout != self._columns:
            self._columns = layout
            for column, (header, cells) in zip(columns, layout, strict=True):
                table.add_column(_placed(Text(header), column.right, cells, gap), width=cells)
        for job in shown:
            texts = [render.cell(column, job, short) for column in columns]
            placed = [
                _placed(words, column.right, cells, gap)
                for words, column, (_, cells) in zip(texts, columns, layout, strict=True)
            ]
            table.add_row(*placed, key=str(job.get("id")))
        for row, job in enumerate(shown):
            # One that has ended, at the top, was not chosen: the jobs that live come above it.
            if str(job.get("id")) == chosen and not (at_top and job.get("state") == "gone"):
                table.move_cursor(row=row, animate=False)

    def _chosen_id(self) -> str:
        """Number of the job; those that have ended may share a name."""
        table = self.query_one(DataTable)
        if not table.row_count:
            return ""
        return str(table.coordinate_to_cell_key(table.cursor_coordinate).row_key.value)

    def _chosen(self) -> Record | None:
        number = self._chosen_id()
        found = next((j for j in self._state.get("jobs", []) if str(j.get("id")) == number), None)
        if found is None:
            self._say("no job is chosen")
        return found

    # -- keys ------------------------------------------------------------------------------

    def action_help(self) -> None:
        """Shows the keys and what the columns mean."""
        self.push_screen(Message("Keys", HELP))

    def action_filter(self) -> None:
        """Asks for a part of a name."""

        def chosen(words: str | None) -> None:
            if words is not None:
                self._filter = words.strip()
                self._say(f"only jobs with {self._filter} in their name" if self._filter else "")
                self._draw()

        self.push_screen(Prompt("Show only jobs with", self._filter), chosen)

    def action_sort(self) -> None:
        """Asks what to sort by."""

        def chosen(name: str | None) -> None:
            if name is not None:
                self._sort = name
                self._draw()

        self.push_screen(Choice("Sort by", list(SORTS)), chosen)

    def action_invert(self) -> None:
        """Turns the order round."""
        self._inverted = not self._inverted
        self._draw()

    def action_limit(self) -> None:
        """Asks for a limit of the chosen job and sets it."""
        job = self._chosen()
        if job is None:
            return
        name = str(job["name"])

        def chosen(size: str | None) -> None:
            if size:
                self._order(
                    f"limit of {name}: asked, takes effect at its next iteration",
                    lambda: orders.order_limit(self._edges, name, size, _ORDER_TIMEOUT_S),
                )

        self.push_screen(Prompt(f'Limit of {name} (2GiB, 60%, "none")', ""), chosen)

    def action_priority(self) -> None:
        """Asks for a priority of the chosen job and sets it."""
        job = self._chosen()
        if job is None:
            return
        name = str(job["name"])

        def chosen(level: str | None) -> None:
            if level is not None:
                self._order(
                    f"priority of {name}: asked",
                    lambda: orders.order_priority(self._edges, name, level, _ORDER_TIMEOUT_S),
                )

        levels = ["guaranteed", "normal", "opportunistic"]
        self.push_screen(Choice(f"Priority of {name}", levels), chosen)

    def action_pause(self) -> None:
        """Pauses the chosen job after a question, or resumes a paused one."""
        job = self._chosen()
        if job is None:
            return
        name, paused = str(job["name"]), job.get("state") == "paused"
        took = text.duration_ms(float(job.get("predicted_suspend_ms") or -1))
        question = f"Resume {name}?" if paused else f"Pause {name}? It takes about {took}."
        order = orders.order_resume if paused else orders.order_pause

        def chosen(yes: bool | None) -> None:
            if yes:
                self._order(
                    f"{'resuming' if paused else 'pausing'} {name}",
                    lambda: order(self._edges, name, _ORDER_TIMEOUT_S),
                )

        self.push_screen(Confirmation(question), chosen)

    def on_data_table_row_selected(self) -> None:
        """Enter on a job asks why it is as it is."""
        self.action_explain()

    def action_explain(self) -> None:
        """Shows the daemon's words about the chosen job."""
        job = self._chosen()
        if job is not None:
            self._explain(str(job["name"]))

    @work(thread=True, group="order", exit_on_error=False)
    def _explain(self, name: str) -> None:
        try:
            words = "\n".join(orders.explanation(self._edges, name)[1])
        except errors.TideError as error:
            words = str(error)
        self.call_from_thread(self.push_screen, Message(f"Why: {name}", words))


def _placed(words: Text, right: bool, cells: int, gap: int) -> Text:
    """Words in a column of so many cells, the gap to the next one among them."""
    words.truncate(cells - gap, overflow="ellipsis")
    words.align("right" if right else "left", cells - gap)
    words.append(" " * gap)
    return words


def sparkline(values: deque[int], top: int, width: int) -> str:
    """The last `width` values as blocks of eight heights; `top` is a full one."""
    encoding = (getattr(sys.__stdout__, "encoding", None) or "ascii").lower().replace("-", "")
    blocks = _BLOCKS if encoding.startswith("utf") else _ASCII_BLOCKS
    shown = list(values)[-max(width, 1) :]
    ceiling = max([top, *shown, 1])
    return "".join(blocks[min(len(blocks) - 1, value * len(blocks) // ceiling)] for value in shown)


def run_top(edges: Edges, interval_s: float) -> int:
    """Shows the machine until q; the exit code is 0."""
    return TopApp(edges, interval_s).run(mouse=False) or 0
