"""Runs of ``anchorft-train`` in processes of their own that a signal ends at a chosen step.

This file is also the server that forks them: it has imported torch and open_clip, so that a run
costs what it does and no imports. It is a process apart, since a test's own has threads.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType


class RunServer:
    """Forks runs; a context manager."""

    def __enter__(self) -> RunServer:
        self._process = subprocess.Popen(
            [sys.executable, __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parent.parent.parent,
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
        output: Path,
        *,
        at_step: int | None = None,
        number: int = signal.SIGKILL,
        worker: bool = False,
        processes: int = 1,
    ) -> tuple[int, str]:
        """Run ``anchorft-train``.

        Args:
            arguments: its command line, which logs every step to ``output``.
            output: of the run.
            at_step: once so many steps are in its metrics.jsonl it gets the signal.
            number: of the signal.
            worker: not the run gets the signal but one of its loader's workers.
            processes: that train together; the last one gets the signal.

        Returns:
            Exit status (the negative signal that killed it), the same of all processes, and what
            they wrote to stderr.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        order = [arguments, str(output), at_step, int(number), worker, processes]
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        code, said = json.loads(self._process.stdout.readline())
        return code, said


def _serve() -> None:
    import torch
    import transformers

    from trainer.__main__ import main

    for name in ("AutoTokenizer", "AutoConfig"):  # imported only when they are looked up
        getattr(transformers, name)
    torch.set_num_threads(1)
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a run prints is not an answer
    for line in sys.stdin:
        arguments, output, at_step, number, worker, processes = json.loads(line)
        log = Path(f"{output}.log")
        log.unlink(missing_ok=True)
        world = {} if processes == 1 else _together(processes)
        children = [_fork(main, arguments, log, rank, world) for rank in range(processes)]
        last = _watch(children[-1], Path(output) / "metrics.jsonl", at_step, number, worker)
        ends = [*(os.waitpid(child, 0)[1] for child in children[:-1]), last]
        codes = {os.waitstatus_to_exitcode(status) for status in ends}
        said = log.read_text()
        answers.write(json.dumps([codes.pop() if len(codes) == 1 else sorted(codes), said]) + "\n")
        answers.flush()


def _together(processes: int) -> dict[str, str]:
    """What torchrun tells the processes that it starts."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    return {"WORLD_SIZE": str(processes), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}


def _fork(main, arguments, log, rank, world) -> int:  # type: ignore[no-untyped-def]
    child = os.fork()
    if child:
        return child
    code = 1
    signal.alarm(200)  # two processes that wait for each other fail the test, with their log
    try:
        file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(file, 1)
        os.dup2(file, 2)
        os.environ |= world and {**world, "RANK": str(rank), "LOCAL_RANK": str(rank)}
        code = main(arguments)
    finally:
        os._exit(code)


def _watch(child: int, metrics: Path, at_step: int | None, number: int, worker: bool) -> int:
    """Wait for the child, and send the signal in time; its status."""
    while True:
        ended, status = os.waitpid(child, os.WNOHANG if at_step is not None else 0)
        if ended:
            return status
        if at_step is not None and metrics.exists():
            lines = metrics.read_bytes().splitlines()
            if lines and b'"eval"' not in lines[-1] and f'"step": {at_step},' in str(lines[-1]):
                os.kill(_worker_of(child) if worker else child, number)
                at_step = None
                continue
        time.sleep(0.001)


def _worker_of(parent: int) -> int:
    children = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
    return int(children[0])


if __name__ == "__main__":
    _serve()
