"""The dialogs of `tide top`: a message, a question, a line to write, a choice."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical, VerticalScroll
from textual.screen import ModalScreen
from textual.widgets import Input, OptionList, Static

from torchtide.cli import text

_BOX = """
{name} {{ align: center middle; }}
{name} > * {{ width: auto; max-width: 96%; height: auto; max-height: 90%; padding: 0 1;
  border: round $primary; background: $surface; }}
{name} Input {{ width: 60; max-width: 90%; }}
{name} OptionList {{ width: 40; height: auto; max-height: 12; }}
{name} Static {{ width: auto; max-width: 100%; }}
"""


class Message(ModalScreen[None]):
    """Some lines of text; any of Escape, Enter, q and F1 closes them."""

    CSS = _BOX.format(name="Message")
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,enter,q,f1,f10,h,question_mark", "close", "Close"),
    ]

    def __init__(self, title: str, words: str) -> None:
        super().__init__()
        self._title, self._words = title, words

    def compose(self) -> ComposeResult:
        with VerticalScroll() as box:
            box.border_title = text.clean(self._title)
            lines = [text.clean(line) for line in self._words.splitlines()]
            yield Static(Text("\n".join(lines)))

    def action_close(self) -> None:
        """Goes back."""
        self.dismiss(None)


class Confirmation(ModalScreen[bool]):
    """A question that y answers with yes; n and Escape with no."""

    CSS = _BOX.format(name="Confirmation")
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("y", "answer(True)", "Yes"),
        Binding("n,escape,q", "answer(False)", "No"),
    ]

    def __init__(self, question: str) -> None:
        super().__init__()
        self._question = question

    def compose(self) -> ComposeResult:
        with Vertical() as box:
            box.border_title = "Sure?"
            yield Static(Text(text.clean(self._question) + "\n\ny yes   n no"))

    def action_answer(self, yes: bool) -> None:
        """Takes the answer back."""
        self.dismiss(yes)


class Prompt(ModalScreen[str | None]):
    """A line to write; Enter takes it, Escape leaves things as they are."""

    CSS = _BOX.format(name="Prompt")
    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape", "cancel", "Cancel")]

    def __init__(self, title: str, value: str) -> None:
        super().__init__()
        self._title, self._value = title, value

    def compose(self) -> ComposeResult:
        with Vertical() as box:
            box.border_title = text.clean(self._title)
            yield Input(self._value)

    def on_mount(self) -> None:
        self.query_one(Input).focus()

    def on_input_submitted(self, event: Input.Submitted) -> None:
        """Enter."""
        self.dismiss(event.value)

    def action_cancel(self) -> None:
        """Escape."""
        self.dismiss(None)


class Choice(ModalScreen[str | None]):
    """One of several words; Enter takes it, Escape leaves things as they are."""

    CSS = _BOX.format(name="Choice")
    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape,q", "cancel", "Cancel")]

    def __init__(self, title: str, words: Sequence[str]) -> None:
        super().__init__()
        self._title, self._words = title, list(words)

    def compose(self) -> ComposeResult:
        with Vertical() as box:
            box.border_title = text.clean(self._title)
            yield OptionList(*self._words)

    def on_mount(self) -> None:
        self.query_one(OptionList).focus()

    def on_option_list_option_selected(self, event: OptionList.OptionSelected) -> None:
        """Enter."""
        self.dismiss(self._words[event.option_index])

    def action_cancel(self) -> None:
        """Escape."""
        self.dismiss(None)
