"""Killed runs go on to the same bits; signals, dead workers and full disks end in a sentence."""

from __future__ import annotations

import random
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fork_runs import RunServer

from trainer.metrics import MEASURED, read_metrics

STEPS, KILLS = 24, 7


@pytest.fixture(scope="module")
def server() -> Iterator[RunServer]:
    with RunServer() as served:
        yield served


@pytest.fixture(scope="module")
def arguments(vit_folder: Path, images: Path, anchors: Path) -> list[str]:
    """4 epochs of 6 steps, with a checkpoint every 2 and a measurement after each epoch."""
    line = (
        f"--finetune {images} --anchors {anchors} --model {vit_folder} --batch-size 4 --epochs 4 "
        f"--anchor-batch-size 2 --lr 1e-3 --warmup 1 --device cpu --templates simple --log-every 1 "
        f"--checkpoint-every 2 --keep-last 2 --eval-id seen={images} --eval-every 1 --best id"
    )
    return line.split()


def history(folder: Path) -> list[dict[str, Any]]:
    return [
        {name: value for name, value in line.items() if name not in MEASURED}
        for line in read_metrics(folder)
    ]


def leaves(folder: Path) -> dict[str, bytes]:
    """What a run leaves that must not depend on how often it was killed."""
    names = ("open_clip_model.safetensors", "results.json", "best/open_clip_model.safetensors")
    return {name: (folder / name).read_bytes() for name in names}


@pytest.fixture(scope="module")
def whole(
    server: RunServer, arguments: list[str], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The run that nothing interrupted."""
    output = tmp_path_factory.mktemp("runs") / "whole"
    code, said = server.run([*arguments, "--output", str(output)], output)
    assert code == 0, said
    return output


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_a_run_killed_at_any_step_comes_to_the_same_bits(
    server: RunServer, arguments: list[str], whole: Path, tmp_path: Path, workers: int
) -> None:
    output = tmp_path / "killed"
    command = [*arguments, "--workers", str(workers), "--output", str(output)]
    steps = sorted(random.Random(workers).sample(range(1, STEPS), KILLS))
    for step in steps:
        code, said = server.run(command, output, at_step=step)
        assert code == -signal.SIGKILL, said
    code, said = server.run(command, output)
    assert code == 0, said
    assert leaves(output) == leaves(whole)
    assert history(output) == history(whole)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_saves_the_state_and_the_run_goes_on_to_the_same_bits(
    server: RunServer, arguments: list[str], whole: Path, tmp_path: Path, number: int
) -> None:
    output = tmp_path / "stopped"
    command = [*arguments, "--workers", "1", "--output", str(output)]
    code, said = server.run(command, output, at_step=9, number=number)
    assert code == 143, said
    done = read_metrics(output)[-1]["step"]
    assert done >= 9
    assert f"stopped by a signal; the state after step {done} is saved" in said.splitlines()[-1]
    assert (output / "state" / f"step-{done:08d}.safetensors").exists()
    code, said = server.run(command, output)
    assert code == 0, said
    assert f"going on after step {done} of {STEPS}" in said
    assert leaves(output) == leaves(whole)
    assert history(output) == history(whole)


def test_a_signal_to_one_of_two_processes_stops_both_at_the_same_step(
    server: RunServer, arguments: list[str], tmp_path: Path
) -> None:
    flags = [*arguments, "--workers", "0", "--epochs", "2"]
    straight, output = tmp_path / "straight", tmp_path / "stopped"
    command = [*flags, "--output", str(output)]
    assert server.run([*flags, "--output", str(straight)], straight, processes=2)[0] == 0
    code, said = server.run(command, output, at_step=4, number=signal.SIGTERM, processes=2)
    assert code == 143, said
    done = read_metrics(output)[-1]["step"]
    assert said.count(f"the state after step {done} is saved") == 1
    code, said = server.run(command, output, processes=2)
    assert code == 0, said
    assert said.count(f"{output}: model, metrics.jsonl") == 1
    assert leaves(output) == leaves(straight)
    assert history(output) == history(straight)


def test_of_two_processes_one_says_what_a_run_would_be(
    server: RunServer, arguments: list[str], tmp_path: Path
) -> None:
    flags = [*arguments, "--workers", "0", "--output", str(tmp_path / "run")]
    code, said = server.run([*flags, "--dry-run"], tmp_path / "dry", processes=2)
    assert code == 0, said
    assert said.count("float32 on cpu, 2 processes") == 1
    assert said.count("dry run: nothing was written") == 1
    code, said = server.run([*flags, "--print-config"], tmp_path / "config", processes=2)
    assert code == 0, said
    assert said.count("checkpoint_every: 2") == 1
    wrong = [*flags, "--eval-every", "0", "--dry-run"]
    code, said = server.run(wrong, tmp_path / "wrong", processes=2)
    assert code == 2, said
    assert said.count("--eval-every must be at least 1") == 2
    assert not (tmp_path / "run").exists()


def test_a_dead_worker_is_a_sentence_and_the_state_stays(
    server: RunServer, arguments: list[str], whole: Path, tmp_path: Path
) -> None:
    output = tmp_path / "orphaned"
    command = [*arguments, "--workers", "1", "--output", str(output)]
    code, said = server.run(command, output, at_step=7, worker=True)
    assert code == 2, said
    assert "a process that reads and decodes died" in said.splitlines()[-1]
    assert "fewer --workers" in said
    assert list((output / "state").iterdir())
    assert server.run(command, output)[0] == 0
    assert leaves(output) == leaves(whole)
