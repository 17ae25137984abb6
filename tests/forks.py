"""One server that forks test processes: what they need is imported already.

multiprocessing has one such server a process, started with the environment of that moment; so its
preloads stand in one place, and a child is given the environment that it needs.
"""

from __future__ import annotations

import multiprocessing
import os

FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(
    [
        *("shards.__main__", "shards.deriving.diff", "shards.deriving.join"),
        *("shards.sources", "s3fs", "malicious"),
    ]
)


def command(environment: dict[str, str], arguments: tuple[str, ...]) -> None:
    """Run ``anchorft-shards`` in a child, which fails if it does."""
    from shards.__main__ import main

    os.environ.clear()
    os.environ.update(environment)
    assert main(arguments) == 0
