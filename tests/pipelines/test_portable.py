"""The same pipeline through Beam's portable job API, and workers that are killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest
from portable import portable_runner, workers
from tiny_builds import Built, build, contents, ended, start, without_progress

from pipelines.watching.worker_deaths import ABSENT, LATE, SENTENCE

Reference = tuple[Path, Built]
MULTI = ["--direct_running_mode=multi_processing", "--direct_num_workers=2"]


def test_a_job_service_and_its_workers_give_the_same(
    reference: Reference, finetune: Path, pairs: Path, tmp_path: Path
) -> None:
    with portable_runner(tmp_path) as options:
        built = ended(start(finetune, pairs, tmp_path / "set", *options))
        assert built.code == 0, built.err
        assert contents(tmp_path / "set") == contents(reference[0])
        assert built.out.splitlines()[:-3] == reference[1].out.splitlines()[:-3]
        # What a worker there has to say of bad input comes back as the one sentence.
        built = ended(start(finetune, pairs, tmp_path / "other", *options, "--k", "25"))
        assert built.code == 2, built.err
        assert built.sentence.startswith("--k 25 is larger than the pool")
        built = ended(start(finetune, pairs, tmp_path / "late", *options, "--job_server_timeout=2"))
        assert (built.code, built.sentence) == (2, LATE.format(2))
        report = json.loads((tmp_path / "late.work" / "report.json").read_text("utf-8"))
        assert report["ended"] == LATE.format(2)
    built = ended(start(finetune, pairs, tmp_path / "late", *options, "--job_server_timeout=1"))
    assert built.code == 2, built.err
    (endpoint,) = (word for word in options if word.startswith("--job_endpoint="))
    assert built.sentence == ABSENT.format(endpoint.partition("=")[2], 1)


def kill_a_worker(process: subprocess.Popen[str], above: int, work: Path) -> None:
    """As soon as the first part is there, so that the worker is in the middle of its work."""
    while process.poll() is None:
        found = workers(above)
        if found and any((work / "embeddings").rglob("*.parquet")):
            os.kill(found[-1], signal.SIGKILL)
            return
        time.sleep(0.02)


@pytest.mark.parametrize("where", ["multi_processing", "portable"])
def test_a_worker_is_killed(
    reference: Reference, finetune: Path, pairs: Path, tmp_path: Path, where: str
) -> None:
    output = tmp_path / "set"
    # One image at a time, and one after the other: long enough to be killed in.
    slow = ("--embed_batch", "1", "--decode_threads", "1")
    if where == "multi_processing":
        process = start(finetune, pairs, output, *MULTI, *slow)
        kill_a_worker(process, process.pid, tmp_path / "set.work")
        stopped = ended(process)
    else:
        with portable_runner(tmp_path) as options:
            process = start(finetune, pairs, output, *options, *slow)
            kill_a_worker(process, os.getpid(), tmp_path / "set.work")
            stopped = ended(process)
    assert stopped.code == 2, stopped
    # The job service waits for a worker that dies between two of its tasks.
    said = [SENTENCE] if where == "multi_processing" else [SENTENCE, LATE.format(60)]
    assert stopped.sentence in said
    assert len(without_progress(stopped.err)) == 2, stopped.err
    assert not (output / "anchor_set.json").exists()
    built = build(finetune, pairs, output)
    assert built.code == 0, built.err
    assert contents(output) == contents(reference[0])
