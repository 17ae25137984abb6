"""The command line: flags from dataclasses, mistakes as sentences, bad samples as counts."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path

import pytest
from test_trainer_evaluate import add_broken_photos, add_odd_photos
from trainer_samples import captions_of, encoded, picture, some_pairs, write_set

from schemas.errors import UserError
from trainer.__main__ import main
from trainer.config import (
    DataConfig,
    LossConfig,
    OptimConfig,
    RunConfig,
    TrainConfig,
    check,
    parse,
)
from trainer.metrics import read_metrics
from trainer.options import flag
from trainer.train import TrainResult

Run = Callable[..., TrainResult]
BASE = ["--finetune", "data", "--model", "clip", "--output", "runs/x"]


def test_every_field_has_a_flag_and_the_defaults_are_flyps() -> None:
    config = parse(BASE)
    assert config == TrainConfig(DataConfig("data"), RunConfig("clip", "runs/x"))
    assert (config.data.batch_size, config.optim.epochs, config.optim.lr) == (512, 10, 1e-5)
    assert (config.optim.weight_decay, config.run.seed) == (0.1, 0)
    flags = [flag(item.name) for part in vars(config).values() for item in fields(part)]
    assert len(set(flags)) == len(flags)


def test_flags_reach_their_fields() -> None:
    argv = "--anchors a --lambda-tc 0.5 --multi-positive --eval-id x y --eval-id z --warmup 3"
    config = parse([*BASE, *argv.split()])
    assert config.loss == LossConfig(lambda_tc=(0.5,), multi_positive=True)
    assert config.run.eval_id == ("x", "y", "z")
    assert config.optim == OptimConfig(warmup=3)
    assert config.data.anchors == ("a",)


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        ("--lambda-tc 1", "--lambda-tc 1 needs anchors; give --anchors"),
        ("--lambda-itp 0.5", "--lambda-itp 0.5 needs anchors"),
        ("--anchor-batch-size 8", "--anchor-batch-size needs anchors"),
        ("--anchors a --lambda-itp 0 --anchor-batch-size 8", "means nothing with --lambda-itp 0"),
        ("--anchors a --lambda-tc -1", "--lambda-tc must be at least 0, not -1.0"),
        ("--lr 0", "--lr, --probe-lr, --eps and --clip-grad must be above 0"),
        ("--anchors a --lambda-tc nan", "--lambda-tc must be a finite number"),
        ("--lr nan", "--lr must be a finite number"),
        ("--lr fast", "argument --lr: invalid float value: 'fast'"),
        ("--epochs 0", "--epochs must be at least 1, not 0"),
        ("--batch-size 1", "--batch-size must be at least 2"),
        ("--crop-min 1.5", "--crop-min must be above 0 and at most 1"),
        ("--decay some", "argument --decay: invalid choice: 'some'"),
        ("--beta1 1", "--beta1 and --beta2 must be at least 0 and below 1"),
        ("--epoch 3", "unknown option '--epoch' (did you mean --epochs?)"),
    ],
)
def test_contradictions_and_typing_errors_are_sentences(flags: str, sentence: str) -> None:
    with pytest.raises(UserError) as raised:
        parse([*BASE, *flags.split()])
    assert sentence in str(raised.value)


def test_code_that_builds_a_config_is_checked_too() -> None:
    with pytest.raises(UserError, match="--decay must be one of all, matrices"):
        check(
            TrainConfig(DataConfig("data"), RunConfig("clip", "x"), optim=OptimConfig(decay="none"))
        )


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        ("--finetune nowhere", "'nowhere' is not there; check the path"),
        ("--finetune EMPTY", "holds no class folders"),
        ("--model nothing", "neither a folder nor a model that open_clip knows"),
        ("--model EMPTY", "is not a model folder"),
        ("--anchors EMPTY", "is not an anchor set: it holds no anchor_set.json"),
        ("--eval-shift nowhere", "'nowhere' is not there"),
        ("--templates nowhere", "is no file of templates"),
        ("--warmup 6", "--warmup 6 is not less than the 6 steps of the run"),
        ("--device cuda:9", "is not here: torch sees"),
        ("--output s3://bucket/run", "is not a local folder"),
        ("--anchors PAIRS --lambda-tc 1", "--lambda-tc 1 needs text-compensated anchors, but"),
        ("--anchors CAPTIONS --lambda-itp 1", "--lambda-itp 1 needs image-text-pair anchors"),
        ("--method arff", "--method 'arff' is not known; did you mean 'arf'?"),
        ("--method mine.py", "--method 'mine.py' is not there"),
        ("--method arf", "--method arf needs anchors; give --anchors"),
        ("--method flyp --anchors PAIRS", "--method flyp takes no anchors"),
        ("--method arf-itp --anchors PAIRS --lambda-tc 1", "--lambda-tc 1 means nothing for"),
        ("--method ft --multi-positive", "--method ft has no class texts"),
        ("--probe-epochs 3", "--method flyp trains no classifier alone first"),
        ("--anchors PAIRS --lambda-itp 1 2", "--lambda-itp has 2 values for 1 anchor sets"),
        ("--chunk-size 4", "--chunk-size needs a model without batch normalisation"),
        ("--anchors CAPTIONS --anchor-batch-size 4", "means nothing without image-text pairs"),
    ],
)
def test_mistakes_end_with_exit_code_2_and_leave_nothing(
    clip_folder: Path,
    images: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    flags: str,
    sentence: str,
) -> None:
    (tmp_path / "empty").mkdir()
    flags = flags.replace("EMPTY", str(tmp_path / "empty"))
    if "PAIRS" in flags:
        flags = flags.replace("PAIRS", str(write_set(tmp_path / "set", pairs=some_pairs(4))))
    if "CAPTIONS" in flags:
        flags = flags.replace("CAPTIONS", str(write_set(tmp_path / "set", captions_of(images))))
    base = f"--finetune {images} --model {clip_folder} --output {tmp_path / 'run'} --workers 0"
    argv = f"{base} --batch-size 8 --epochs 2 --device cpu {flags}"
    assert main(argv.split()) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("anchorft-train: error: ")
    assert sentence in error
    assert not (tmp_path / "run").exists()


def test_command_line_trains_measures_and_says_when_it_is_done(
    clip_folder: Path,
    images: Path,
    anchors: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    argv = (
        f"--finetune {images} --anchors {anchors} --model {clip_folder} --device cpu --epochs 1 "
        f"--output {tmp_path / 'run'} --batch-size 8 --workers 0 --eval-id seen={images}"
    ).split()
    assert main(argv) == 0
    printed = capsys.readouterr()
    assert "captions of both: 24 of 24 finetune images" in printed.err
    assert "anchors of both: 10 image-text pairs" in printed.err
    assert "in distribution" in printed.out
    assert main(argv) == 0
    again = capsys.readouterr().out
    assert "this run is finished already" in again
    assert "in distribution" in again


def test_a_set_of_one_kind_trains_with_that_kind(run: Run, images: Path, tmp_path: Path) -> None:
    result = run("--anchors", write_set(tmp_path / "set", captions_of(images)))
    line = read_metrics(result.output)[-1]
    assert "tc" in line
    assert "itp" not in line


def test_odd_photos_are_trained_on_and_broken_ones_counted(
    run: Run, images: Path, tmp_path: Path
) -> None:
    root = tmp_path / "images"
    shutil.copytree(images, root)
    add_odd_photos(root / "red")
    add_broken_photos(root / "blue")
    flags = ("--finetune", root, "--batch-size", "31", "--epochs", "1", "--warmup", "0")
    with pytest.raises(UserError, match=r"of an epoch's \d+ finetune images are bad \(finetune/"):
        run(*flags)
    result = run(*flags, "--max-bad-fraction", "0.2")
    broken = {"finetune/empty_file", "finetune/not_an_image", "finetune/truncated_image"}
    assert result.bad == dict.fromkeys(broken, 1)
    assert read_metrics(result.output)[-1]["bad"] == result.bad


def test_captions_of_other_images_and_broken_anchors_are_counted(
    run: Run, images: Path, tmp_path: Path
) -> None:
    root = tmp_path / "images"
    shutil.copytree(images, root)
    pairs = some_pairs(8)
    record, data = pairs[0]
    assert data is not None
    pairs[0] = (record, data[:-1] + b"x")
    anchors = write_set(tmp_path / "set", captions_of(images), pairs)
    (root / "red" / "003.jpg").write_bytes(encoded(picture((9, 9, 9), 77)))
    flags = ("--anchors", anchors, "--finetune", root, "--batch-size", "24", "--epochs", "1")
    with pytest.raises(UserError, match=r"images are bad .*, more than --max-bad-fraction 0\.01"):
        run(*flags, "--warmup", "0")
    result = run(*flags, "--warmup", "0", "--max-bad-fraction", "0.2")
    assert result.bad == {"finetune/caption_of_another_image": 1, "pairs/set/hash_mismatch": 1}


def test_data_that_vanishes_is_one_sentence_from_a_worker(
    run: Run, images: Path, anchors: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(anchors, copy)
    (copy / "image-text-pair" / "00000.tar").unlink()
    with pytest.raises(UserError) as raised:
        run("--anchors", copy, "--workers", "1")
    assert "00000.tar' is not there" in str(raised.value)
    assert "\n" not in str(raised.value)
