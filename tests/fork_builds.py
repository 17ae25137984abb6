"""Builds in processes of their own that die at a chosen file operation, by SIGKILL.

This file is also the server that forks them: it has imported Beam and torch, so that a build costs
a second or two instead of ten. It is a process apart from tests/forks.py, whose many small children
would carry all that along.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

# What Python tells its audit hooks of: every file opened, made, renamed or removed.
_EVENTS = {"open", "os.rename", "os.remove", "os.mkdir"}


@dataclass(frozen=True)
class Ended:
    """How a build ended.

    Attributes:
        code: exit status; the negative signal that killed it.
        operations: on files below the folder that was watched.
        written: files that were renamed into place there, in order, relative to it.
    """

    code: int
    operations: int
    written: list[str]


class BuildServer:
    """Forks builds; a context manager."""

    def __enter__(self) -> BuildServer:
        self._process = subprocess.Popen(
            [sys.executable, __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parent.parent,
            env=os.environ
            | {
                "HF_HUB_OFFLINE": "1",
                "OMP_NUM_THREADS": "1",
                "PYTHONPATH": os.pathsep.join(sys.path),
            },
        )
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()

    def run(self, arguments: list[str], watched: Path, *, die_at: int | None = None) -> Ended:
        """Run ``anchorft-build``.

        Args:
            arguments: its command line.
            watched: a folder; operations on files below it are counted.
            die_at: the process kills itself before this one of them, counted from 1.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps([arguments, str(watched), die_at]) + "\n")
        self._process.stdin.flush()
        code, log = json.loads(self._process.stdout.readline())
        root = f"{watched}/"
        return Ended(
            code,
            sum(1 for line in log if line == "operation"),
            [line.removeprefix(root) for line in log if line != "operation"],
        )


def _serve() -> None:
    import torch
    import transformers

    from pipelines.__main__ import main

    # These import the rest of what they need only when they are looked up.
    for name in ("AutoTokenizer", "BlipForConditionalGeneration", "BlipImageProcessor"):
        getattr(transformers, name)
    torch.set_num_threads(1)
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a build prints is not an answer
    for line in sys.stdin:
        arguments, watched, die_at = json.loads(line)
        reading, writing = os.pipe()
        child = os.fork()
        if not child:
            os.close(reading)
            _build(main, arguments, f"{watched}/", die_at, writing)
        os.close(writing)
        with os.fdopen(reading) as log:
            lines = log.read().splitlines()
        _, status = os.waitpid(child, 0)
        answers.write(json.dumps([os.waitstatus_to_exitcode(status), lines]) + "\n")
        answers.flush()


def _build(main, arguments, root, die_at, log) -> None:  # type: ignore[no-untyped-def]
    count = 0

    def hook(event: str, found: tuple[object, ...]) -> None:
        nonlocal count
        if event not in _EVENTS:
            return
        path = found[1] if event == "os.rename" else found[0]
        if not isinstance(path, (str, os.PathLike)) or not os.fspath(path).startswith(root):
            return
        count += 1
        if count == die_at:
            os.kill(os.getpid(), signal.SIGKILL)
        os.write(log, b"operation\n")
        if event == "os.rename":
            os.write(log, f"{os.fspath(path)}\n".encode())

    sys.addaudithook(hook)
    code = 1
    try:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 1)
        os.dup2(nowhere, 2)
        code = main(arguments)
    finally:
        os._exit(code)


if __name__ == "__main__":
    _serve()
