"""What the extension modules show the rest of the process, in which other libraries live too."""

from __future__ import annotations

import re
import subprocess

import pytest
import source_tree as tree

MODULES = sorted((tree.ROOT / "python/torchtide").glob("_*.so"))
#: What another copy in the process could be taken for.
OURS = re.compile(r"\b(?:absl|tide|asio|httplib|sqlite3?)::|^sqlite3_")


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.name.partition(".")[0])
def test_nothing_that_is_linked_in_can_be_taken_for_another_copy(module: object) -> None:
    words = ["nm", "--dynamic", "--defined-only", "--demangle", "--format=posix", str(module)]
    listed = subprocess.run(words, capture_output=True, text=True, check=True).stdout
    # An instance of a standard template belongs to the standard library, whatever it is of.
    shown = [line for line in listed.splitlines() if OURS.search(line.partition("<")[0])]
    assert shown == []
    assert re.search(r"^PyInit_", listed, flags=re.M)


def test_there_are_modules_to_look_at() -> None:
    assert any(module.name.startswith("_core") for module in MODULES)
    assert any(module.name.startswith("_torch_") for module in MODULES)
