"""Whole runs: what they leave, that anchors of weight 0 change nothing, that they resume."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from safetensors.torch import load_file

import trainer.loop
from models.clip import load_clip
from schemas.errors import UserError
from trainer.config import TrainConfig
from trainer.metrics import MEASURED, read_metrics
from trainer.objective.terms import Loss
from trainer.train import TrainResult, train

Run = Callable[..., TrainResult]
MakeConfig = Callable[..., TrainConfig]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return dict(load_file(folder / "open_clip_model.safetensors"))


def same(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[k], right[k]) for k in left)


def test_a_run_leaves_a_model_folder_and_its_history(
    run: Run, clip_folder: Path, anchors: Path
) -> None:
    result = run("--anchors", anchors)
    assert result.steps == 6
    assert not same(weights(result.output), weights(clip_folder))
    assert (result.output / "loss.png").stat().st_size > 1000
    assert not (result.output / "state").exists()
    lines = read_metrics(result.output)
    assert [line["step"] for line in lines] == [1, 2, 3, 4, 5, 6]
    assert [line["epoch"] for line in lines] == [0, 0, 0, 1, 1, 1]
    for line in lines:
        assert line["loss"] == pytest.approx(line["class_text"] + line["tc"] + line["itp"])
    told = json.loads((result.output / "config.json").read_text())
    assert told["resolved"]["lambdas"] == {"both": {"tc": 1, "itp": 1}}
    assert told["resolved"]["method"] == "arf"
    assert (
        told["inputs"]["start_model"]["weights_sha256"]
        == load_clip(str(clip_folder)).weights_sha256()
    )
    assert [one["name"] for one in told["inputs"]["anchor_sets"]] == ["both"]
    assert "torch" in told["packages"]


def test_open_clip_loads_the_trained_folder(run: Run) -> None:
    folder = run().output
    ours = load_clip(str(folder))
    theirs = open_clip.create_model(f"local-dir:{folder}").eval()
    tokenizer = open_clip.get_tokenizer(f"local-dir:{folder}")
    assert same(theirs.state_dict(), weights(folder))
    tokens = tokenizer(["a photo of the red square"])
    assert torch.equal(tokens, ours.tokenizer(["a photo of the red square"]))
    assert len(set(tokens[0].tolist())) > 6
    with torch.no_grad():
        assert torch.equal(theirs.encode_text(tokens), ours.model.encode_text(tokens))


def test_lambdas_of_zero_are_flyp_to_the_bit(
    config: MakeConfig, anchors: Path, tmp_path: Path
) -> None:
    flyp = train(config("--output", tmp_path / "flyp"))
    zero = train(
        config(
            *("--output", tmp_path / "zero", "--anchors", anchors),
            *("--lambda-tc", "0", "--lambda-itp", "0"),
        )
    )
    assert same(weights(flyp.output), weights(zero.output))
    arf = train(config("--output", tmp_path / "arf", "--anchors", anchors))
    assert not same(weights(flyp.output), weights(arf.output))
    # The finetune draws are the same: so is the first step's class-text loss.
    first = [read_metrics(result.output)[0]["class_text"] for result in (flyp, arf)]
    assert first[0] == first[1]


def interrupt(go: Callable[[], TrainResult], steps: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C in the step after ``steps`` of them."""
    real, taken = trainer.loop.train_step, []

    def step(*args: Any) -> Loss | None:
        if len(taken) == steps:
            raise KeyboardInterrupt
        taken.append(1)
        return real(*args)

    with monkeypatch.context() as patch:
        patch.setattr(trainer.loop, "train_step", step)
        with pytest.raises(KeyboardInterrupt):
            go()


@pytest.mark.parametrize(("stop", "flags"), [(4, ()), (5, ("--checkpoint-every", "2"))])
def test_a_resumed_run_equals_an_uninterrupted_one(
    config: MakeConfig,
    anchors: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    stop: int,
    flags: tuple[str, ...],
) -> None:
    flags = ("--anchors", str(anchors), "--decay", "matrices", *flags)
    whole = train(config("--output", tmp_path / "whole", *flags))
    cut = config("--output", tmp_path / "cut", *flags)
    interrupt(lambda: train(cut), stop, monkeypatch)
    assert (tmp_path / "cut" / "state").is_dir()
    assert len(list((tmp_path / "cut" / "state").iterdir())) == 1
    rest = train(config("--output", tmp_path / "cut", *flags, "--workers", "1"))
    assert same(weights(whole.output), weights(rest.output))
    history = [
        [{k: v for k, v in line.items() if k not in MEASURED} for line in read_metrics(f)]
        for f in (whole.output, rest.output)
    ]
    assert history[0] == history[1]


def test_a_run_does_not_depend_on_or_disturb_torchs_generator(
    config: MakeConfig, tmp_path: Path
) -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = train(config("--output", tmp_path / "a"))
    assert torch.equal(before, torch.get_rng_state())
    torch.manual_seed(2)
    second = train(config("--output", tmp_path / "b"))
    assert same(weights(first.output), weights(second.output))
    other = train(config("--output", tmp_path / "c", "--seed", "1"))
    assert not same(weights(first.output), weights(other.output))


def test_a_finished_run_is_left_alone(run: Run) -> None:
    first = run()
    before = {p: p.stat().st_mtime_ns for p in first.output.rglob("*")}
    assert run("--workers", "1").steps == 0
    assert {p: p.stat().st_mtime_ns for p in first.output.rglob("*")} == before


def test_a_finished_run_can_still_be_measured(run: Run, images: Path) -> None:
    assert run().results is None
    results = run("--eval-id", f"seen={images}").results
    assert results is not None
    assert results["datasets"]["seen"]["samples"] == 24


def test_an_output_that_holds_another_run_is_refused(run: Run) -> None:
    folder = run().output
    held = weights(folder)
    with pytest.raises(UserError, match=r"where --lr is 0\.001, and here it is 0\.002"):
        run("--lr", "2e-3")
    assert same(held, weights(folder))
    with pytest.raises(UserError, match="is not there"):  # nothing is cleared for a typo
        run("--lr", "2e-3", "--force", "--finetune", "nowhere")
    assert same(held, weights(folder))
    assert run("--lr", "2e-3", "--force").steps == 6
    assert not same(held, weights(folder))


def test_a_run_from_before_an_option_was_there_had_its_default(run: Run) -> None:
    told = run().output / "config.json"
    body = json.loads(told.read_text())
    del body["binding"]["--clip-grad"]
    told.write_text(json.dumps(body))
    assert run().steps == 0
    with pytest.raises(UserError, match=r"where --clip-grad is not given, and here it is 1\.0"):
        run("--clip-grad", "1")


def test_an_output_that_is_something_else_is_refused(run: Run, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.tex").write_text("")
    for flags in ((), ("--force",)):
        with pytest.raises(UserError, match="is not empty and holds no run"):
            run(*flags)


def test_inputs_that_changed_are_refused(
    run: Run, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(images, tmp_path / "images")
    listing = tmp_path / "images" / "list.csv"
    paths = sorted(listing.parent.glob("*/*.jpg"))
    rows = [f"{path.relative_to(listing.parent)},{path.parent.name}" for path in paths]
    listing.write_text("filepath,label\n" + "\n".join(rows) + "\n")
    interrupt(lambda: run("--finetune", listing), 4, monkeypatch)
    listing.write_text("filepath,label\n" + "\n".join(rows[:-1]) + "\n")
    with pytest.raises(UserError, match="the finetune data changed since the run"):
        run("--finetune", listing)


def test_a_broken_checkpoint_is_one_sentence(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupt(run, 4, monkeypatch)
    (state,) = (tmp_path / "run" / "state").iterdir()
    state.write_bytes(state.read_bytes()[:1000])
    with pytest.raises(UserError, match="cannot be restored"):
        run()


def test_training_learns_the_classes(run: Run, clip_folder: Path, images: Path) -> None:
    flags = ("--epochs", "12", "--eval-id", f"seen={images}")
    result = run(*flags)
    lines = read_metrics(result.output)
    early = np.mean([line["class_text"] for line in lines[:3]])
    late = np.mean([line["class_text"] for line in lines[-3:]])
    assert late < early - 0.3
    assert result.results is not None
    assert result.results["id"] > 90  # chance is 33
    assert json.loads((result.output / "results.json").read_text()) == result.results


@pytest.mark.parametrize(
    "flags",
    [("--precision", "bf16"), ("--multi-positive",), ("--clip-grad", "0.1"), ("--crop-min", "0.3")],
)
def test_every_numeric_option_changes_the_weights(
    config: MakeConfig, tmp_path: Path, flags: tuple[str, ...]
) -> None:
    plain = train(config("--output", tmp_path / "a", "--epochs", "1"))
    other = train(config("--output", tmp_path / "b", "--epochs", "1", *flags))
    assert not same(weights(plain.output), weights(other.output))
    assert all(torch.isfinite(t.float()).all() for t in weights(other.output).values())
