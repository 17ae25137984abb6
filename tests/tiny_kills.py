"""Run ``anchorft-shards`` in real processes that die at a chosen point, by SIGKILL.

The processes are forked from a server that has imported what they need, so that one costs
hundredths of a second.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path

from forks import FORKS

# What Python tells its audit hooks of: every file opened, made, renamed, listed or removed.
_EVENTS = {"open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.listdir", "os.scandir"}

Job = tuple[Callable[..., object], tuple[object, ...]]


def command(*arguments: object) -> Job:
    """A command of ``anchorft-shards``."""
    from shards.__main__ import main

    return main, ([str(argument) for argument in arguments],)


def writing(root: object) -> Job:
    """A small set, shard by shard and the manifest last."""
    return _write, (str(root),)


def _write(root: str) -> None:
    from tiny_sets import small_set

    small_set(root)


def run(job: Job, *, die_at: int | None = None, die_after: float | None = None) -> Ended:
    """Run a job in a process of its own.

    Args:
        job: what; a function that returns None or 0 where all went well.
        die_at: it kills itself at this file operation, counted from 1.
        die_after: it is killed after so many seconds, if it still runs.
    """
    receiver, sender = FORKS.Pipe(duplex=False)
    process = FORKS.Process(target=_child, args=(job, die_at, sender))
    process.start()
    sender.close()
    began = receiver.recv()  # when it has imported everything, and works
    if die_after is not None:
        process.join(die_after)
        process.kill()
    counted = None
    with contextlib.suppress(EOFError):
        counted = receiver.recv()
    process.join()
    assert process.exitcode is not None
    return Ended(process.exitcode, counted or 0, time.monotonic() - began)


class Ended:
    """How a process ended."""

    def __init__(self, code: int, operations: int, seconds: float) -> None:
        self.code = code
        self.operations = operations
        self.seconds = seconds

    @property
    def killed(self) -> bool:
        return self.code == -signal.SIGKILL


def _child(job: Job, die_at: int | None, sender: Connection) -> None:
    function, arguments = job
    sender.send(time.monotonic())
    count = 0

    def hook(event: str, _: tuple[object, ...]) -> None:
        nonlocal count
        if event in _EVENTS:
            count += 1
            if count == die_at:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)
    with Path(os.devnull).open("w") as nowhere, contextlib.redirect_stdout(nowhere):
        code = function(*arguments)
    sender.send(count)
    sys.exit(code)  # type: ignore[arg-type]
