"""Numbers, times, names and sentences as people read them; no dependency."""

from __future__ import annotations

import datetime
import math
import shutil
import sys
import textwrap
import unicodedata
from typing import Final

_UNITS: Final = ("", "K", "M", "G", "T", "P")
_COUNT_UNITS: Final = ("", "k", "M", "G", "T", "P")


def clean(text: str) -> str:
    """The text without control characters, so that a name cannot move the cursor of a terminal."""
    return "".join(" " if unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp") else c for c in text)


def fold(sentence: str, indent: int = 0) -> str:
    """The sentence without control characters; on a terminal broken at spaces, not inside words.

    Args:
        sentence: What to print.
        indent: Cells that its further lines stand in from the left.
    """
    sentence = clean(sentence)
    if not sys.stdout.isatty():
        return sentence
    width = max(shutil.get_terminal_size().columns, indent + 20)
    margin = " " * indent
    return textwrap.fill(sentence, width, subsequent_indent=margin, break_on_hyphens=False)


def compact_bytes(size_bytes: int) -> str:
    """At most five characters in powers of 1024: "812M", "1.5G", "0"."""
    value, unit = float(size_bytes), 0
    while abs(value) >= 999.5 and unit + 1 < len(_UNITS):
        value /= 1024
        unit += 1
    digits = f"{value:.0f}" if unit == 0 or abs(value) >= 99.5 else f"{value:.3g}"
    return digits + _UNITS[unit]


def compact_count(count: int) -> str:
    """At most five characters in powers of 1000: "4211", "12.3k", "7.1M"."""
    if count < 10_000:
        return str(count)
    value, unit = float(count), 0
    while value >= 999.5 and unit + 1 < len(_COUNT_UNITS):
        value /= 1000
        unit += 1
    digits = 0 if value >= 99.95 else 1
    return f"{value:.{digits}f}{_COUNT_UNITS[unit]}"


def rate(per_second: float) -> str:
    """Steps a second in at most five characters: "12.4", "0.031", "1820"; "-" when unknown."""
    if not math.isfinite(per_second) or per_second <= 0:
        return "-"
    if per_second < 0.001:
        return "<.001"
    digits = (
        0 if per_second >= 99.95 else 1 if per_second >= 9.995 else 2 if per_second >= 0.1 else 3
    )
    return f"{per_second:.{digits}f}"


def duration_ms(milliseconds: float) -> str:
    """Such as "31 us", "140 ms", "1.2 s", "3.5 min"; "-" when unknown."""
    if not math.isfinite(milliseconds) or milliseconds < 0:
        return "-"
    if milliseconds < 1:
        return f"{milliseconds * 1000:.0f} us"
    if milliseconds < 999.5:
        return f"{milliseconds:.0f} ms"
    seconds = milliseconds / 1000
    return f"{seconds:.1f} s" if seconds < 99.95 else f"{seconds / 60:.1f} min"


def local_time(unix_s: float, now_s: float) -> str:
    """Clock of the user's time zone, with the date unless it is today's: "18:32:04"."""
    moment = datetime.datetime.fromtimestamp(unix_s)
    today = datetime.datetime.fromtimestamp(now_s).date()
    return moment.strftime("%H:%M:%S" if moment.date() == today else "%Y-%m-%d %H:%M:%S")


def parse_since(text: str, now_s: float) -> float:
    """Unix time of "10m", "2h", "1d" (ago), "14:30" (the last one) or an ISO date and time.

    Raises:
        ValueError: The text is none of these.
    """
    text = text.strip()
    unit = {"s": 1, "m": 60, "h": 3600, "d": 86400}.get(text[-1:].lower())
    if unit and text[:-1].replace(".", "", 1).isdigit():
        return now_s - float(text[:-1]) * unit
    now = datetime.datetime.fromtimestamp(now_s)
    try:
        clock = datetime.time.fromisoformat(text)
    except ValueError:
        return datetime.datetime.fromisoformat(text).timestamp()
    moment = datetime.datetime.combine(now.date(), clock)
    if moment > now:
        moment -= datetime.timedelta(days=1)
    return moment.timestamp()
