"""Run ``anchorft-build`` in this process or in its own, and look at what it left."""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import re
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

MODELS = Path(__file__).parent.parent / "toyworld" / "models"
CLIP, BLIP = MODELS / "clip", MODELS / "blip"


@dataclass
class Built:
    """How a command line ended."""

    code: int
    out: str
    err: str

    @property
    def sentence(self) -> str:
        """The one error line; fails where there is anything like a traceback."""
        assert "Traceback" not in self.err, self.err
        lines = [line for line in self.err.splitlines() if ": error: " in line]
        assert len(lines) == 1, self.err
        return lines[0].partition(": error: ")[2]


def arguments(finetune: object, pool: object, output: object, *more: str) -> list[str]:
    chosen = ["--finetune", str(finetune), "--output", str(output), "--name", "tiny"]
    for name, value in (("--captioner", BLIP), ("--encoder", CLIP), ("--k", 3)):
        chosen += [] if name in more else [name, str(value)]
    chosen += ["--pool", str(pool)] if pool is not None else []
    return [*chosen, "--max_new_tokens", "12", *more]


def build(finetune: object, pool: object, output: object, *more: str) -> Built:
    """In this process."""
    from pipelines.__main__ import main

    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = main(arguments(finetune, pool, output, *more))
        except SystemExit as stop:
            code = int(stop.code or 0)
    return Built(code, out.getvalue(), err.getvalue())


def start(finetune: object, pool: object, output: object, *more: str) -> subprocess.Popen[str]:
    """In a process of its own, as users run it."""
    return subprocess.Popen(
        [sys.executable, "-m", "pipelines", *arguments(finetune, pool, output, *more)],
        cwd=Path(__file__).parent.parent,
        env=os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=hear_ctrl_c,
        start_new_session=True,  # so that a test can interrupt it with its workers, as Ctrl-C does
    )


def hear_ctrl_c() -> None:
    """In a child: what a shell runs in the background ignores SIGINT, and so would we."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def ended(process: subprocess.Popen[str]) -> Built:
    out, err = process.communicate(timeout=300)
    return Built(process.returncode, out, err)


def without_progress(err: str) -> list[str]:
    """Standard error but for the lines that say how far the build is; a slow one says it often."""
    return [
        line
        for line in err.splitlines()
        if not re.match(r"[a-z-]+ [\d,]+(/[\d,]+)? (parts|shards)", line)
    ]


def contents(folder: Path) -> dict[str, str]:
    """Every file below a folder with its digest: equal means byte for byte the same."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
