"""A job service and a pool of workers, each a process: what a cluster has, on one machine."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def portable_runner(folder: Path) -> Iterator[list[str]]:
    """Start both; yields the options that send a job there.

    Workers get nothing but the address of the runner: what they run, they import from the
    installed package.
    """
    port_file = folder / "port"
    environment = os.environ | {
        # Beam's pool starts its workers as ``python``.
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
    }
    pool_port = _free_port()
    service = "apache_beam.runners.portability.local_job_service_main"
    pool = "apache_beam.runners.worker.worker_pool_main"
    commands: tuple[list[object], ...] = (
        [service, "--port_file", port_file, "--staging_dir", folder / "staged"],
        [pool, "--service_port", pool_port],
    )
    with contextlib.ExitStack() as stack:
        for number, command in enumerate(commands):
            log = stack.enter_context((folder / f"log-{number}").open("wb"))
            process = subprocess.Popen(
                [sys.executable, "-m", *map(str, command)],
                cwd=folder,  # not the repository: nothing is found there by chance
                env=environment,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
            stack.callback(_end, process)
        _wait_for(port_file)
        yield [
            "--runner=PortableRunner",
            f"--job_endpoint=localhost:{port_file.read_text()}",
            "--environment_type=EXTERNAL",
            f"--environment_config=localhost:{pool_port}",
        ]


def workers(of: int) -> list[int]:
    """Processes that run Beam's worker among the descendants of a process, and their children.

    A worker that has ended but was not waited for is none.
    """
    parents: dict[int, int] = {}
    lines: dict[int, str] = {}
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError, ValueError):
            pid = int(entry.name)
            parents[pid] = int((entry / "stat").read_text().rpartition(") ")[2].split()[1])
            lines[pid] = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()

    def below(pid: int) -> bool:
        while pid in parents:
            if pid == of:
                return True
            pid = parents[pid]
        return False

    return sorted(
        pid
        for pid, line in lines.items()
        if below(pid) and ("sdk_worker_main" in line or "SdkHarness" in line)
        if not line.startswith("/bin/sh")
    )


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("localhost", 0))
        return int(found.getsockname()[1])


def _wait_for(file: Path) -> None:
    limit = time.monotonic() + 120
    while not file.exists():
        assert time.monotonic() < limit, "the job service did not start"
        time.sleep(0.1)


def _end(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError):  # with the workers that it has started
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
