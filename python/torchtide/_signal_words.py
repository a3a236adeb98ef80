"""The words of `--on-signal`: which signals, which actions, and who ignores them."""

from __future__ import annotations

import signal
from typing import Final

from torchtide.errors import OptionError

#: What `tide run --on-signal` leaves for the job: "USR1=pause,TERM=save-and-end".
VARIABLE: Final = "TIDE_ON_SIGNAL"
NAMES: Final = ("USR1", "USR2", "TERM", "INT", "HUP", "TSTP", "CONT")
PAUSE: Final = "pause"
RESUME: Final = "resume"
SAVE: Final = "save"
END: Final = "save-and-end"
ACTIONS: Final = (PAUSE, RESUME, SAVE, END)
#: Those that call what the program gave to `tide.on_save`.
WRITING: Final = (SAVE, END)
#: A scheduler sends these to all processes; whoever is no job ignores them. A loader's worker that
#: stopped would keep the job from the boundary where it pauses.
WORDS: Final = ("USR1", "USR2", "TSTP")


def parse(text: str, asked: str) -> dict[str, str]:
    """Signal -> action of "USR1=pause,TERM=save-and-end"; names may begin with SIG.

    Raises:
        OptionError: A signal or an action is unknown, or a signal is named twice.
    """
    found: dict[str, str] = {}
    for entry in filter(None, (part.strip() for part in text.split(","))):
        name, _, action = (part.strip() for part in entry.partition("="))
        name = name.upper().removeprefix("SIG")
        if name not in NAMES:
            raise OptionError(
                f"{name or 'an empty word'} is not one of {', '.join(NAMES)}",
                asked=asked,
                advice="--on-signal USR1=pause",
            )
        if action not in ACTIONS:
            raise OptionError(
                f'"{action}" is not one of {", ".join(ACTIONS)}',
                asked=asked,
                advice=f"--on-signal {name}=pause",
            )
        if found.setdefault(name, action) != action:
            raise OptionError(
                f"{name} is to do two things", asked=asked, advice="name each signal once"
            )
    return found


def number_of(name: str) -> int:
    """The number of a signal of `NAMES`."""
    return int(getattr(signal, f"SIG{name}"))


def ignore(text: str) -> None:
    """Before `tide run` becomes the command: what is no job yet, or never, ignores the words.

    The default of SIGUSR1 is to end the process, and a scheduler sends it to all of them: a shell
    around the script, a launcher, the script before it has imported torch.
    """
    for name in parse(text, VARIABLE):
        if name in WORDS:
            signal.signal(number_of(name), signal.SIG_IGN)
