"""What torch promises about CPU tensors, with private pages and with all demoted each time."""

import pathlib

import checks
import pytest

pytest.importorskip("torch")

SCRIPT = "memory_torch.py"
CONFIGURATIONS = {
    "private pages": {},
    "always spilled": {"TIDE_TEST_ALWAYS_SPILL": "1"},
    "always suspended": {"TIDE_TEST_ALWAYS_SUSPEND": "1"},
}
PLAIN = "private pages"
PARAMETERS = [
    pytest.param(name, marks=() if name == PLAIN else pytest.mark.slow, id=name.replace(" ", "-"))
    for name in CONFIGURATIONS
]


@pytest.fixture(scope="module", params=PARAMETERS)
def ended(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, str]:
    folder: pathlib.Path = tmp_path_factory.mktemp("memory")
    return checks.run(SCRIPT, folder, TIDE_LANE="-1", **CONFIGURATIONS[request.param])


@pytest.mark.parametrize("check", [*checks.names(SCRIPT), "exit"])
def test_promise_holds(ended: dict[str, str], check: str) -> None:
    checks.verify(ended, check)
