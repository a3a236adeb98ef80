"""The documentation as a site: every link holds, nothing is fetched, its C++ is C++."""

from __future__ import annotations

import pathlib
import re
import shutil
import subprocess

import pytest

pytest.importorskip("mkdocs")

ROOT = pathlib.Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    folder = tmp_path_factory.mktemp("site")
    command = [ROOT / "scripts" / "docs", "--site-dir", folder]
    ended = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return folder


def test_every_page_is_there_and_the_docstrings_are_filled_in(site: pathlib.Path) -> None:
    pages = {page.relative_to(ROOT / "docs") for page in (ROOT / "docs").rglob("*.md")}
    for page in pages:
        name = "index" if page.name == "README.md" else page.stem
        assert (site / page.parent / f"{name}.html").is_file(), page
    docstrings = (site / "reference" / "docstrings.html").read_text()
    for name in ("torchtide.runtime.iterations", "torchtide.notebook.Handle"):
        assert f'id="{name}"' in docstrings
    assert "budget in bytes or as text" in docstrings


def test_pages_outside_of_the_folder_join_and_are_linked(site: pathlib.Path) -> None:
    assert 'href="project/changelog.html"' in (site / "index.html").read_text()
    assert "Keep a Changelog" in (site / "project" / "changelog.html").read_text()


def test_nothing_is_fetched_from_elsewhere(site: pathlib.Path) -> None:
    for page in site.rglob("*.html"):
        fetched = re.findall(
            r'<(?:script|img|link)[^>]*(?:src|href)="(https?:[^"]*)"', page.read_text()
        )
        assert not fetched, (page, fetched)
    for picture in (ROOT / "docs" / "images").glob("*.svg"):
        assert not re.search(r"url\(.?http", picture.read_text()), picture


@pytest.mark.skipif(shutil.which("g++") is None, reason="no compiler")
def test_the_policy_of_the_guide_compiles(tmp_path: pathlib.Path) -> None:
    guide = (ROOT / "docs" / "guides" / "first-policy.md").read_text()
    [policy, *_] = re.findall(r"```cpp\n(.*?)```", guide, re.S)
    header = '#include "sched/turn_policies.h"\n'
    declared = (
        "namespace tide::sched {\n"
        "TurnDecision NextTurnBrief(absl::Span<const TurnMember>, const TurnState&);\n}\n"
    )
    source = tmp_path / "turn_brief.cc"
    source.write_text(policy.replace(header, header + declared))
    options = ["-std=c++20", "-Wall", "-Wextra", "-Werror", "-fsyntax-only"]
    subprocess.run(["g++", *options, f"-I{ROOT / 'csrc'}", source], check=True, timeout=120)
    for path in re.findall(r"`((?:csrc|tests|python|scripts)/[\w/.]+)`", guide):
        assert (ROOT / path).exists() or path == "csrc/sched/turn_brief.cc", path
