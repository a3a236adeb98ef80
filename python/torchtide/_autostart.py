"""What `tide run` does inside the user's process, once torch has been imported."""

from __future__ import annotations

import functools
import logging
import os
from typing import Any

from torchtide import _launch


def install() -> None:
    """Starts the runtime with the options that `tide run` put into the environment."""
    if os.environ.get("TIDE_DISABLE") == "1":
        return
    from torchtide import runtime

    runtime.start()


def install_when_a_rank() -> None:
    """A spawned process becomes a job when it joins a process group, and else passes through.

    Only then is it known to be a rank, and which: `torch.multiprocessing.spawn` tells it to the
    function alone. Loader workers and helpers are spawned alike and never join a group.
    """
    import torch.distributed as distributed

    if not distributed.is_available():
        return
    join = distributed.init_process_group

    @functools.wraps(join)
    def joined(*args: Any, **kwargs: Any) -> None:
        join(*args, **kwargs)
        if distributed.init_process_group is joined:
            distributed.init_process_group = join
        try:
            world_size = distributed.get_world_size()
            _launch.claim_as_rank(distributed.get_rank(), world_size, os.environ)
            install()
        except Exception as error:  # the program runs without it
            logging.getLogger("torchtide").warning("event=not_hooked error=%r", str(error))

    distributed.init_process_group = joined
