"""What goes wrong in a run, and what it leaves: skipped steps, full disks, broken states."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from test_trainer_loop import ALONE, LEG, PLAN, batch, wrapped
from test_trainer_run import interrupt, same, weights
from trainer_samples import some_pairs, write_set

from models.clip import Clip
from schemas.errors import UserError
from trainer.config import OptimConfig, TrainConfig
from trainer.data import Batch
from trainer.faults import NONFINITE_NAME, NonFinite, update_if
from trainer.loop import run_loop
from trainer.metrics import MEASURED, BadSamples, read_metrics
from trainer.optim import make_optimizer
from trainer.step import train_step
from trainer.train import TrainResult, train

Run = Callable[..., TrainResult]
MakeConfig = Callable[..., TrainConfig]


def poisoned(rows: int = 5) -> Batch:
    """A batch with an image that is no number, and a name for each of its images."""
    sound = batch(rows)
    images = sound.images["finetune"].clone()
    images[0, 0, 0, 0] = torch.nan
    keys = {"finetune": tuple(f"{i}.jpg" for i in range(rows))}
    return Batch({"finetune": images}, sound.texts, sound.classes, keys=keys)


def test_a_step_that_is_no_number_moves_nothing(clip: Clip) -> None:
    model = wrapped(clip.model.train())
    optimizer = make_optimizer(model.towers, OptimConfig(lr=1e-3))
    train_step(model, optimizer, batch(), LEG, PLAN, 0)

    def held() -> list[torch.Tensor]:
        moments = optimizer.state_dict()["state"].values()
        tensors = [*clip.model.state_dict().values(), *(t for m in moments for t in m.values())]
        return [tensor.clone() for tensor in tensors]

    before = held()
    loss = train_step(model, optimizer, poisoned(), LEG, PLAN, 1)
    assert loss is not None
    assert loss.finite is not None
    assert not loss.finite
    assert all(map(torch.equal, before, held()))  # running statistics of the tower among them
    loss = train_step(model, optimizer, batch(), LEG, PLAN, 1)
    assert loss is not None
    assert loss.finite
    assert not all(map(torch.equal, before, held()))


@pytest.mark.parametrize("finite", [True, False])
def test_a_fused_optimizer_is_told_on_the_device(
    finite: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    parameter = torch.nn.Parameter(torch.ones(3))
    parameter.grad = torch.ones(3)
    optimizer = torch.optim.AdamW([parameter], lr=0.1, fused=True)
    optimizer.found_inf = torch.tensor(0.0 if finite else 1.0)  # type: ignore[attr-defined]
    optimizer.step()
    assert torch.equal(parameter.detach(), torch.ones(3)) is not finite
    del optimizer.found_inf  # type: ignore[attr-defined]
    update_if(optimizer, torch.tensor(finite))  # the host's way, on the CPU
    moved = {True: 2, False: 0}[finite]
    assert int(optimizer.state[parameter]["step"]) == moved


def loop(clip: Clip, folder: Path, batches: list[Batch], most: int) -> NonFinite:
    nonfinite = NonFinite(folder, 0, most=most, world=ALONE)
    run_loop(
        wrapped(clip.model), make_optimizer(clip.model, OptimConfig()), batches, PLAN,
        start=0, world=ALONE, folder=folder, bad=BadSamples(0.01, {"finetune": 10}),
        nonfinite=nonfinite,
    )  # fmt: skip
    return nonfinite


def test_skipped_steps_are_counted_and_their_samples_named(clip: Clip, tmp_path: Path) -> None:
    assert loop(clip, tmp_path, [poisoned(), batch()], most=2).skipped == 1
    (line,) = map(json.loads, (tmp_path / NONFINITE_NAME).read_text().splitlines())
    assert line["step"] == 1
    assert line["keys"] == {"finetune": [f"{i}.jpg" for i in range(5)]}
    assert line["loss"] == "nan"
    last = read_metrics(tmp_path)[-1]
    assert last["nonfinite"] == 1
    assert last["loss"] is not None
    assert last["grad_norm"] > 0
    NonFinite(tmp_path, 0, most=2, world=ALONE)  # a run that does the step again forgets the line
    assert (tmp_path / NONFINITE_NAME).read_text() == ""


def test_too_many_skipped_steps_end_the_run(clip: Clip, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"2 steps had a loss .* lower --lr, .* --max-nonfinite"):
        loop(clip, tmp_path, [poisoned(), poisoned()], most=2)
    assert len((tmp_path / NONFINITE_NAME).read_text().splitlines()) == 2
    assert not (tmp_path / "state").exists()


def test_measuring_leaves_no_trace_in_the_run(
    config: MakeConfig, images: Path, tmp_path: Path
) -> None:
    plain = train(config("--output", tmp_path / "plain"))
    flags = ("--eval-id", f"seen={images}", "--eval-every", "1", "--best", "id/seen/top1")
    measured = train(config("--output", tmp_path / "measured", *flags, "--track", "tensorboard"))
    assert same(weights(plain.output), weights(measured.output))
    lines = read_metrics(measured.output)
    evals = {line["step"]: line["eval"] for line in lines if "eval" in line}
    assert list(evals) == [3, 6]

    def rest(folder: Path) -> list[dict[str, object]]:
        found = [line for line in read_metrics(folder) if "eval" not in line]
        return [{k: v for k, v in line.items() if k not in MEASURED} for line in found]

    assert rest(plain.output) == rest(measured.output)
    assert measured.results is not None
    assert evals[6]["id"] == measured.results["id"]
    best = measured.results["best"]
    assert best["value"] == max(one["id/seen/top1"] for one in evals.values())
    assert best["step"] == min(s for s, v in evals.items() if v["id/seen/top1"] == best["value"])
    assert same(weights(measured.output / "best"), weights(measured.output)) is (best["step"] == 6)
    losses = {line["step"]: line["loss"] for line in lines if "loss" in line}
    assert points(measured.output) == pytest.approx(losses)


def points(folder: Path) -> dict[int, float]:
    """The curve of the loss, as TensorBoard reads it."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder / "tensorboard"))
    events.Reload()
    found = [(one.step, one.value) for one in events.Scalars("loss")]
    assert len(found) == len(dict(found))
    return dict(found)


def test_a_run_that_goes_on_has_each_point_once_and_a_broken_state_is_passed_over(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ("--checkpoint-every", "1", "--keep-last", "3", "--track", "tensorboard")
    interrupt(lambda: run(*flags), 4, monkeypatch)
    states = sorted((tmp_path / "run" / "state").iterdir())
    assert [path.name[5:13] for path in states] == ["00000002", "00000003", "00000004"]
    states[-1].write_bytes(states[-1].read_bytes()[:-100])
    run(*flags)
    said = capsys.readouterr().err
    assert "step-00000004.safetensors' is broken" in said
    assert "going on after step 3 of 6" in said
    assert list(points(tmp_path / "run")) == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        ("--best id", "--best needs measurements while training; give --eval-every 1"),
        ("--eval-every 1", "--eval-every needs data to measure on"),
        ("--eval-every 1 --eval-id DATA --best id/sen/top1", "did you mean 'id/seen/top1'?"),
        ("--eval-every 1 --eval-id DATA --best id/seen/top5", "is not measured"),
        (
            "--method zero-shot --eval-every 1 --eval-id DATA --best id",
            "--method zero-shot trains nothing; leave --eval-every out",
        ),
        ("--track tensorbord", "--track 'tensorbord' is not known; did you mean 'tensorboard'?"),
        ("--keep-last 0", "--keep-last must be at least 1"),
        ("--max-nonfinite 0", "--max-nonfinite must be at least 1"),
    ],
)
def test_options_that_mean_nothing_are_refused(
    run: Run, images: Path, tmp_path: Path, flags: str, sentence: str
) -> None:
    with pytest.raises(UserError) as raised:
        run(*flags.replace("DATA", f"seen={images}").split())
    assert sentence in str(raised.value)
    assert not (tmp_path / "run").exists()


def test_a_corrupt_anchor_is_named_with_its_set_and_the_reason(run: Run, tmp_path: Path) -> None:
    pairs = some_pairs(8)
    record, data = pairs[0]
    assert data is not None
    pairs[0] = (record, data[:-1] + b"x")
    anchors = write_set(tmp_path / "bent", pairs=pairs)
    with pytest.raises(UserError) as raised:
        run("--anchors", anchors)
    sentence = str(raised.value)
    assert "pairs/bent images are bad (pairs/bent/hash_mismatch 1)" in sentence
    assert f"for example {record.key}: hash_mismatch" in sentence


DISK = 4 << 20


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of DISK bytes."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK}", "none", str(disk)]
    if os.geteuid() or subprocess.run(mount).returncode:
        pytest.skip("no file system may be mounted here")
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=True)


def test_a_full_disk_is_a_sentence_and_the_older_state_is_whole(
    config: MakeConfig, small_disk: Path, vit_folder: Path
) -> None:
    flags = ("--model", vit_folder, "--checkpoint-every", "1")
    whole = train(config(*flags))
    state = 3 * (whole.output / "open_clip_model.safetensors").stat().st_size  # with two moments
    others = small_disk / "others"
    others.write_bytes(bytes(DISK - state - state // 2))
    on_disk = config(*flags, "--output", small_disk / "run")
    with pytest.raises(
        UserError, match=r"cannot be written \(No space left on device\); make room"
    ):
        train(on_disk)
    (held,) = (small_disk / "run" / "state").iterdir()
    assert held.name == "step-00000001.safetensors"
    others.unlink()
    assert same(weights(train(on_disk).output), weights(whole.output))
