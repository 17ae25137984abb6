"""Builds in processes of their own that die at a chosen file operation, by SIGKILL.

Either the process of the build dies, or one of Beam's worker processes that it has started.

This file is also the server that forks them: it has imported Beam and torch, so that a build costs
a second or two instead of ten. It is a process apart from tests/forks.py, whose many small children
would carry all that along. Workers are forked as well: what Beam starts in place of Python is this
file, which asks a nursery, a fork of the server, for the worker and ends as it does.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

# What Python tells its audit hooks of: every file opened, made, renamed or removed.
_EVENTS = {"open", "os.rename", "os.remove", "os.mkdir"}
_WATCH = "FORK_BUILDS_WATCH"  # tells a worker what its build is told


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

    def run(
        self,
        arguments: list[str],
        watched: Path,
        *,
        die_at: int | None = None,
        workers: bool = False,
    ) -> Ended:
        """Run ``anchorft-build``.

        Args:
            arguments: its command line.
            watched: a folder; operations on files below it are counted.
            die_at: the process kills itself before this one of them, counted from 1.
            workers: do the work in two worker processes; ``die_at`` is then for each of them,
                which counts its own.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps([arguments, str(watched), die_at, workers]) + "\n")
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
    from apache_beam.runners.worker import sdk_worker_main  # noqa: F401  workers find it here

    import pipelines.job  # noqa: F401  what a build imports once its options are checked
    from pipelines.__main__ import main

    # These import the rest of what they need only when they are looked up.
    for name in ("AutoTokenizer", "BlipForConditionalGeneration", "BlipImageProcessor"):
        getattr(transformers, name)
    torch.set_num_threads(1)
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a build prints is not an answer
    with tempfile.TemporaryDirectory() as folder:
        nursery, place = _start_nursery(f"{folder}/nursery")
        log = Path(folder) / "log"
        for line in sys.stdin:
            arguments, watched, die_at, workers = json.loads(line)
            log.write_bytes(b"")
            child = os.fork()
            if not child:
                _build(main, arguments, (f"{watched}/", die_at, str(log)), workers and place)
            _, status = os.waitpid(child, 0)
            lines = log.read_text().splitlines()
            answers.write(json.dumps([os.waitstatus_to_exitcode(status), lines]) + "\n")
            answers.flush()
        os.kill(nursery, signal.SIGKILL)
        os.waitpid(nursery, 0)


def _build(main, arguments, watch, nursery) -> None:  # type: ignore[no-untyped-def]
    """In a child: run a build, and end."""
    code = 1
    try:
        _quiet()
        if nursery:
            os.environ[_WATCH] = json.dumps(watch)
            _watch(watch[0], None, watch[2])
            # Beam makes a shell's line of it; -S, since it takes nothing that is installed.
            sys.executable = f"{sys.executable} -S {__file__} {nursery}"
            mode = ["--direct_running_mode=multi_processing", "--direct_num_workers=2"]
            code = main([*arguments, *mode])
        else:
            _watch(*watch)
            code = main(arguments)
    finally:
        os._exit(code)


def _quiet() -> None:
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)


def _watch(root: str, die_at: int | None, log_place: str) -> None:
    """Log this process's operations on files below ``root``, and die before one of them."""
    log = os.open(log_place, os.O_WRONLY | os.O_APPEND)
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


def _start_nursery(place: str) -> tuple[int, str]:
    """A process that forks a worker for each who connects to ``place``; its id, and the place."""
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(place)
    listening.listen(16)
    pid = os.fork()
    if pid:
        listening.close()
        return pid, place
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for those that it forks
    while True:
        asking, _ = listening.accept()
        if not os.fork():
            listening.close()
            _attend(asking)
        asking.close()


def _attend(asking: socket.socket) -> None:
    """Fork the worker, wait for it, and tell how it ended."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    with asking.makefile("r") as said:
        environment = json.loads(said.readline())
    worker = os.fork()
    if not worker:
        asking.close()
        _work(environment)
    _, status = os.waitpid(worker, 0)
    with contextlib.suppress(OSError):  # Beam may have killed who asked
        asking.sendall(f"{os.waitstatus_to_exitcode(status)}\n".encode())
    os._exit(0)


def _work(environment: dict[str, str]) -> None:
    """In a child: be one of Beam's workers, and end."""
    from apache_beam.runners.worker import sdk_worker_main

    code = 1
    try:
        os.environ.clear()
        os.environ.update(environment)
        _quiet()
        _watch(*json.loads(environment[_WATCH]))
        sdk_worker_main.main(["sdk_worker_main"])
        code = 0
    finally:
        os._exit(code)


def _ask_for_worker(nursery: str) -> int:
    """What Beam has started: the exit status of a worker that is forked for it."""
    with socket.socket(socket.AF_UNIX) as asked:
        asked.connect(nursery)
        asked.sendall(json.dumps(dict(os.environ)).encode() + b"\n")
        with asked.makefile("r") as said:
            code = int(said.readline() or 1)
    return 128 - code if code < 0 else code


if __name__ == "__main__":
    if len(sys.argv) > 1:
        sys.exit(_ask_for_worker(sys.argv[1]))
    _serve()
