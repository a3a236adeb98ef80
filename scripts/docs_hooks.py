"""For mkdocs: pages outside of docs/ join the site, and links to other files become their names."""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File

ROOT = Path(__file__).resolve().parents[1]
#: Pages of the repository that the site shows as well, by the name they have there.
PAGES = {
    "CHANGELOG.md": "project/changelog.md",
    "CONTRIBUTING.md": "project/contributing.md",
    "third_party/README.md": "project/dependencies.md",
    "examples/README.md": "project/examples.md",
}
LINK = re.compile(r"(?<!!)\[([^\]]*)\]\(([^)\s:#]+)((?:#[^)\s]*)?)\)")


def on_files(files: Any, config: Any) -> Any:
    """Adds the pages."""
    for source, target in PAGES.items():
        files.append(File.generated(config, target, content=(ROOT / source).read_text()))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Turns links so that they hold on the site."""
    here = page.file.src_uri
    origin = next((source for source, target in PAGES.items() if target == here), f"docs/{here}")

    def turned(link: re.Match[str]) -> str:
        words, target, anchor = link.groups()
        path = posixpath.normpath(posixpath.join(posixpath.dirname(origin), target))
        if not (ROOT / path).exists():
            return link.group()  # the strict build complains
        inside = path.removeprefix("docs/") if path.startswith("docs/") else None
        place = PAGES.get(path, inside)
        if place is None:
            return words if words.startswith("`") else f"{words} (`{path}`)"
        return f"[{words}]({posixpath.relpath(place, posixpath.dirname(here) or '.')}{anchor})"

    return LINK.sub(turned, markdown)
