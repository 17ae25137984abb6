"""Worker processes that die: the command ends, with a sentence, and never waits for them.

When a worker of the direct runner is killed in the middle of a bundle, Beam ends the job. When it
dies between two, Beam waits for ever for an answer to its next request. All that Beam does in
either case is to raise an error in the thread that watches the process.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from collections.abc import Callable
from types import TracebackType

import grpc  # type: ignore[import-untyped]
from apache_beam.options.pipeline_options import PortableOptions

SENTENCE = (
    "a worker process died while the job ran (killed, often for want of memory: fewer workers, or "
    "smaller batches, need less); the same command goes on from here."
)
LATE = (
    "the job did not end within --job_server_timeout ({} seconds): it needs longer, or a worker "
    "process died and the job service waits for it; give more seconds, or start the service and "
    "its workers again; the same command goes on from here."
)
ABSENT = (
    "no job service answered at {} within --job_server_timeout ({} seconds); start it, or mend "
    "--job_endpoint."
)
_SIGNS = ("Worker subprocess exited with return code", "Channel closed prematurely")
_PATIENCE = 20.0  # seconds that Beam has to end the job by itself


class WorkerDeaths:
    """Notices, while it is entered, that a worker process of the direct runner died.

    If the job has not ended ``patience`` seconds later, the process is ended with status 2.

    Attributes:
        seen: whether one died.
        before_end: is called before the process is ended, to leave what a build leaves.
    """

    def __init__(self, patience: float = _PATIENCE) -> None:
        self.seen = False
        self.before_end: Callable[[], None] | None = None
        self._patience = patience
        self._over = threading.Event()

    def __enter__(self) -> WorkerDeaths:
        self._hook = threading.excepthook
        threading.excepthook = self._note
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._over.set()
        threading.excepthook = self._hook

    def _note(self, died: threading.ExceptHookArgs) -> None:
        if _is_late(died.exc_value):
            return  # of a thread that only reads messages; the main thread is told too
        self._hook(died)
        if not self._over.is_set() and worker_died(died.exc_value) and not self.seen:
            self.seen = True
            threading.Thread(target=self._wait_and_end, daemon=True).start()

    def _wait_and_end(self) -> None:
        if self._over.wait(self._patience):
            return
        if self.before_end is not None:
            with contextlib.suppress(Exception):  # nothing may keep the process from ending
                self.before_end()
        print(f"anchorft-build: error: {SENTENCE}", file=sys.stderr, flush=True)
        os._exit(2)  # the main thread waits for the dead; nothing that it holds is half-written


def worker_died(error: BaseException | None) -> bool:
    """True if this is how Beam says that a worker is gone, here or in a remote job."""
    return error is not None and any(sign in str(error) for sign in _SIGNS)


def unheard(error: BaseException, options: PortableOptions) -> str | None:
    """The sentence for a job service that was not there, or not heard to the end, if it is that.

    The streams of Beam's own service (2.77) have one deadline for the whole of a job.
    """
    limit = options.job_server_timeout
    if isinstance(error, grpc.FutureTimeoutError):
        return ABSENT.format(options.job_endpoint, limit)
    return LATE.format(limit) if _is_late(error) else None


def _is_late(error: BaseException | None) -> bool:
    if not isinstance(error, grpc.RpcError) or not isinstance(error, grpc.Call):
        return False
    return error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
