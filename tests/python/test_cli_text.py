"""Numbers, times and names as `tide` prints them."""

import datetime

import pytest
from torchtide.cli import text

NOON = datetime.datetime(2026, 3, 4, 12, 0, 0).timestamp()


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        (0, "0"),
        (999, "999"),
        (1000, "0.977K"),
        (812 << 20, "812M"),
        ((1 << 30) + (1 << 29), "1.5G"),
        (1023 << 20, "0.999G"),
        (5 << 40, "5T"),
    ],
)
def test_compact_sizes_have_a_unit_and_few_digits(size: int, expected: str) -> None:
    assert text.compact_bytes(size) == expected


def test_compact_sizes_and_counts_never_exceed_six_cells() -> None:
    for power in range(60):
        for delta in (-1, 0, 1):
            assert len(text.compact_bytes((1 << power) + delta)) <= 6
            assert len(text.compact_count(10 ** (power % 12) + delta)) <= 6


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (0, "-"),
        (float("nan"), "-"),
        (-1, "-"),
        (0.0001, "<.001"),
        (0.031, "0.031"),
        (12.42, "12.4"),
        (1820.4, "1820"),
        (99.96, "100"),
        (9.999, "10.0"),
    ],
)
def test_rates_are_short_and_say_when_they_are_unknown(value: float, expected: str) -> None:
    assert text.rate(value) == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (-1, "-"),
        (0.031, "31 us"),
        (140, "140 ms"),
        (999.6, "1.0 s"),
        (1240, "1.2 s"),
        (210_000, "3.5 min"),
    ],
)
def test_durations_choose_their_unit(value: float, expected: str) -> None:
    assert text.duration_ms(value) == expected


def test_control_characters_cannot_reach_the_terminal() -> None:
    assert text.clean("a\x1b[2Jb\nc\x9bd\u2028e") == "a [2Jb c d e"
    assert text.clean("naïve 模型 🚂") == "naïve 模型 🚂"


def test_events_of_another_day_show_their_date() -> None:
    assert text.local_time(NOON - 60, NOON) == "11:59:00"
    assert text.local_time(NOON - 86400, NOON) == "2026-03-03 12:00:00"


@pytest.mark.parametrize(
    ("written", "ago_s"),
    [
        ("90s", 90),
        ("10m", 600),
        ("1.5h", 5400),
        ("2d", 172800),
        ("11:00", 3600),
        ("13:00", 82800),
        ("2026-03-04T11:30", 1800),
        ("2026-03-03", 36 * 3600),
    ],
)
def test_since_understands_spans_clock_times_and_dates(written: str, ago_s: float) -> None:
    assert text.parse_since(written, NOON) == NOON - ago_s


@pytest.mark.parametrize("written", ["", "soon", "10x", "25:00", "m", "-5m"])
def test_since_refuses_what_is_no_moment(written: str) -> None:
    with pytest.raises(ValueError):
        text.parse_since(written, NOON)
