"""Adds up JUnit files of ctest and pytest; the last line is "N passed, N failed, N skipped"."""

import argparse
import pathlib
import sys
import xml.etree.ElementTree as ElementTree


def outcome(case: ElementTree.Element) -> str:
    """Returns "passed", "failed" or "skipped" for one <testcase> of either tool."""
    if case.find("failure") is not None or case.find("error") is not None:
        return "failed"
    if case.find("skipped") is not None or case.get("status") in ("notrun", "disabled"):
        return "skipped"
    return "failed" if case.get("status") == "fail" else "passed"


def main() -> int:
    """Prints the totals; exit status 1 when anything failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--broken", type=int, default=0, help="suites that left no result")
    parser.add_argument("files", nargs="*", type=pathlib.Path)
    arguments = parser.parse_args()
    counts = {"passed": 0, "failed": arguments.broken, "skipped": 0}
    if arguments.broken:
        print(f"{arguments.broken} suite(s) ended before they could report")
    for path in arguments.files:
        if not path.is_file():
            continue
        for case in ElementTree.parse(path).iter("testcase"):
            kind = outcome(case)
            counts[kind] += 1
            if kind == "failed":
                print(f"failed: {path.stem}: {case.get('classname')} {case.get('name')}")
    print(", ".join(f"{number} {kind}" for kind, number in counts.items()))
    return 1 if counts["failed"] else 0


if __name__ == "__main__":
    sys.exit(main())
