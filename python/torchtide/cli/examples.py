"""What `tide COMMAND --help` ends with: lines that can be typed as they stand."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

LINES: Final[Mapping[str, tuple[str, ...]]] = {
    "run": (
        "tide run -- python train.py --epochs 3",
        "tide run --limit 2GiB --priority opportunistic -- bash sweep.sh",
        "tide run --processes 1:4 -- python examples/elastic_digits.py",
        "tide run --on-signal USR1=pause --on-signal TERM=save-and-end -- python train.py",
    ),
    "ps": ("tide ps", "tide ps --json"),
    "top": ("tide top", "tide top --once"),
    "limit": (
        "tide limit train 2GiB",
        "tide limit train 60%",
        "tide limit train none",
        "tide limit train 40GiB --device 0",
    ),
    "pause": (
        "tide pause train",
        "tide pause train --timeout 300",
        "tide pause 'train[1]'",
        "tide pause train --deep",
    ),
    "resume": ("tide resume train",),
    "resize": ("tide resize elastic_digits 2",),
    "verify": ("tide verify run1.pt run2.pt",),
    "explain": ("tide explain train",),
    "events": ("tide events -f", "tide events --job train --since 10m"),
    "report": ("tide report -o night.html", "tide report --for 60", "tide report --last 2h"),
    "priority": ("tide priority train opportunistic",),
    "policy": ("tide policy", "tide policy rr", "tide policy 1 srtf"),
    "submit": (
        "tide submit --name sweep --devices 2 -- python train.py",
        "tide submit --name train --movable -- ./on_node tide run --on-signal TERM=save-and-end "
        "-- python train.py",
    ),
    "move": ("tide move train", "tide move train --to m2"),
    "drain": ("tide drain m1", "tide drain m1 --undo"),
    "cluster": ("tide cluster", "tide cluster --json"),
    "preview": ("tide preview sweep", "tide preview later --devices 4 --estimate 3600"),
    "reserve": ("tide reserve course --devices 4 --in 3600 --for 7200",),
    "simulate": ("tide simulate trace.csv -p fifo -p srtf --cluster 64",),
    "config": ("tide config --reasons",),
    "doctor": ("tide doctor", "tide doctor --gpu"),
    "demo": ("tide demo", "tide demo resize"),
    "shutdown": ("tide shutdown",),
}


def of(command: str) -> str:
    """The examples of a command; the mark in front keeps click from joining the lines."""
    return "\b\nExamples:\n" + "\n".join(f"  {line}" for line in LINES[command])
