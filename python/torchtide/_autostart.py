"""What `tide run` does inside the user's process, once torch has been imported."""

from __future__ import annotations

import os


def install() -> None:
    """Starts the runtime with the options that `tide run` put into the environment."""
    if os.environ.get("TIDE_DISABLE") == "1":
        return
    from torchtide import runtime

    runtime.start()
