"""Ctrl-C in a command: one line, status 130, soon, and nothing that looks like a set."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

from tiny_builds import contents, hear_ctrl_c
from tiny_sets import pair_record, small_set, text_record

from schemas.manifest import MANIFEST_NAME
from shards.completion import complete_set

HERE = Path(__file__).parent.parent.parent


def test_ctrl_c_ends_a_command_in_one_line(tmp_path: Path) -> None:
    root, output = tmp_path / "set", tmp_path / "new"
    own = [text_record(i) for i in range(150)]
    complete_set(str(root), small_set(str(root), own, [pair_record(i) for i in range(150)]))
    before = contents(root)
    words = [sys.executable, "-m", "shards", "reshard", str(root), "--output", str(output)]
    process = subprocess.Popen(
        [*words, "--shard-size", "1"],
        cwd=HERE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=hear_ctrl_c,
    )
    while process.poll() is None and not any(output.glob("*/*.tar")):
        time.sleep(0.005)
    process.send_signal(signal.SIGINT)
    printed = process.communicate(timeout=60)
    assert process.returncode == 130, printed
    assert len(printed[1].splitlines()) == 1
    assert "Traceback" not in printed[1]
    assert not (output / MANIFEST_NAME).exists()
    assert contents(root) == before
    again = subprocess.run([*words, "--shard-size", "1"], cwd=HERE, check=False, timeout=120)
    assert again.returncode == 0
    assert (output / MANIFEST_NAME).exists()
