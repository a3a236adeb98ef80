"""The pages say what exists: links, figures, errors and commands are checked against the code."""

from __future__ import annotations

import functools
import pathlib
import re
import subprocess
from collections.abc import Iterator

import pytest
from torchtide import errors

ROOT = pathlib.Path(__file__).resolve().parents[2]
SKIPPED = {
    ".git",
    ".venv",
    ".venv-2.11",
    ".venv-uv",
    "build",
    "build-2.11",
    "dist",
    ".pytest_cache",
}
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")


def pages() -> list[pathlib.Path]:
    """Every page of the repository; build trees and environments have pages of others."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "*.md"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if listed.returncode == 0:
        found = [ROOT / line for line in listed.stdout.splitlines()]
    else:  # an archive without git
        found = [p for p in ROOT.rglob("*.md") if not SKIPPED & set(p.relative_to(ROOT).parts)]
    return sorted(page for page in found if page.is_file())


def name(page: pathlib.Path) -> str:
    """The page as a test calls it."""
    return str(page.relative_to(ROOT))


def without_code(text: str) -> str:
    """The text without fenced blocks and code spans, where brackets mean something else."""
    return re.sub(r"`[^`\n]*`", "", re.sub(r"^```.*?^```", "", text, flags=re.M | re.S))


def anchor(heading: str) -> str:
    """The anchor that GitHub gives to a heading."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


def console_commands(text: str) -> Iterator[str]:
    """Lines of fenced console blocks that start a `tide`, without the prompt."""
    for block in re.findall(r"^```console\n(.*?)^```", text, flags=re.M | re.S):
        for line in block.splitlines():
            if re.match(r"\$ (?:[A-Z_]+=\S+ )*tide\b", line):
                yield line.removeprefix("$ ")


@functools.cache
def subcommands() -> frozenset[str]:
    """Names that `tide` knows."""
    from torchtide.cli.app import app

    return frozenset(
        command.name or command.callback.__name__
        for command in app.registered_commands
        if command.callback is not None
    )


@pytest.mark.parametrize("page", pages(), ids=name)
def test_every_relative_link_leads_somewhere(page: pathlib.Path) -> None:
    missing = []
    for target in LINK.findall(without_code(page.read_text(encoding="utf-8"))):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, part = target.partition("#")
        place = (page.parent / path).resolve() if path else page
        if not place.exists():
            missing.append(target)
        elif part:
            headings = re.findall(r"^#+ (.+)$", place.read_text(encoding="utf-8"), flags=re.M)
            if part not in map(anchor, headings):
                missing.append(target)
    assert not missing


def test_every_figure_of_report_is_explained() -> None:
    binding = (ROOT / "csrc/bind/core_runtime.cc").read_text(encoding="utf-8")
    body = binding[binding.index("py::dict Report()") :]
    keys = re.findall(r'dict\["(\w+)"\]', body[: body.index("return dict;")])
    explained = (ROOT / "docs/reference/stats.md").read_text(encoding="utf-8")
    assert len(keys) > 20
    assert [key for key in keys if f"| `{key}` |" not in explained] == []


def test_every_field_of_the_device_table_is_explained() -> None:
    layout = (ROOT / "csrc/shm/layout.h").read_text(encoding="utf-8")
    fields = re.findall(r"^\s*(?:std::atomic<\w+>)\s+(\w+)(?:\[[^;]*)?;", layout, flags=re.M)
    fields += re.findall(r"^\s*std::atomic<\w+>\n\s+(\w+);", layout, flags=re.M)
    explained = (ROOT / "docs/reference/stats.md").read_text(encoding="utf-8")
    assert len(fields) > 40
    assert [field for field in fields if f"`{field}`" not in explained] == []


def test_every_error_class_is_explained() -> None:
    explained = (ROOT / "docs/reference/errors.md").read_text(encoding="utf-8")
    classes = [public for public in errors.__all__ if public[0].isupper()]
    assert "TideError" in classes
    assert [public for public in classes if f"| `{public}` |" not in explained] == []


def test_every_command_is_in_the_reference() -> None:
    explained = (ROOT / "docs/reference/cli.md").read_text(encoding="utf-8")
    assert [known for known in sorted(subcommands()) if f"| `tide {known}" not in explained] == []


@pytest.mark.parametrize("page", pages(), ids=name)
def test_every_command_of_a_console_block_exists(page: pathlib.Path) -> None:
    unknown = []
    for line in console_commands(page.read_text(encoding="utf-8")):
        words = [word for word in line.split() if "=" not in word]
        if len(words) > 1 and not words[1].startswith("-") and words[1] not in subcommands():
            unknown.append(line)
    assert not unknown


def test_the_console_reader_finds_commands_and_only_those() -> None:
    text = "```console\n$ tide ps\nJOB\n$ TIDE_LANE=1 tide run -- x\n$ ls\n```\n\n    $ tide no\n"
    assert list(console_commands(text)) == ["tide ps", "TIDE_LANE=1 tide run -- x"]


def test_every_event_that_a_job_warns_of_is_explained() -> None:
    page = (ROOT / "docs" / "guides" / "failures.md").read_text().split("## What a job warns of")[1]
    explained = set(re.findall(r"`(\w+)`", "".join(re.findall(r"^\|[^|]*", page, flags=re.M))))
    warning = re.compile(
        r'(?:LogLevel::k(?:Warning|Error),\s*(?:absl::StrCat\(\s*)?"event=|'
        r'Log(?:Failure|Trouble)\("|\.warning\(\s*"event=)(\w+)'
    )
    elsewhere = ("coordinator", "sim", "sched")
    sources = [*(ROOT / "csrc").glob("*/*.cc"), *(ROOT / "python" / "torchtide").rglob("*.py")]
    said = {
        event
        for path in sources
        if path.parent.name not in elsewhere
        for event in warning.findall(path.read_text())
    }
    assert {"left_stuck_holder", "not_restored", "no_daemon"} <= said
    assert said - explained == set()
