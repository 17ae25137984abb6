"""Dry runs: of small data, of every recipe, of what does not fit; nothing is ever written."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from pathlib import Path

import pytest

from models.clip import resolve
from schemas.errors import UserError
from toyworld.demo import TRAINING
from trainer.__main__ import main
from trainer.config import TrainConfig, parse
from trainer.dry_run import dry_run
from trainer.metrics import read_metrics
from trainer.train import train

ROOT = Path(__file__).parent.parent.parent
RECIPES = sorted((ROOT / "recipes").glob("*.yaml"))
Config = Callable[..., TrainConfig]


def lines(printed: str) -> dict[str, str]:
    return dict(line.split(": ", 1) for line in printed.splitlines())


def test_it_says_sizes_losses_memory_and_time_and_writes_nothing(
    config: Config, anchors: Path, images: Path, tmp_path: Path
) -> None:
    made = config("--anchors", anchors, "--eval-id", images)
    said = lines("\n".join(dry_run(made)))
    assert said["finetune"].startswith("24 images of 3 classes, 3 steps an epoch of 8 images")
    assert said["anchors of both"] == "24 images with captions, 10 pairs, 8 a step"
    assert said["training"].startswith(
        "6 steps of class_text x 1, tc x 1, itp x 1; lr 0.001 after 1"
    )
    losses = dict(one.rsplit(" ", 1) for one in said["training, first step"].split(", "))
    parts = [float(losses[name]) for name in ("class_text", "tc", "itp")]
    assert float(losses["loss"]) == pytest.approx(sum(parts), abs=1e-3)
    assert "s a step" in said["training, time"]
    assert said["memory"].startswith("weights ")
    assert list(tmp_path.iterdir()) == []


def test_phases_are_tried_each(config: Config, tmp_path: Path) -> None:
    said = lines("\n".join(dry_run(config("--method", "lp-ft", "--probe-epochs", "1"))))
    assert said["phase 1"].startswith("3 steps of cross_entropy x 1")
    assert said["phase 1"].endswith("trains head")
    assert said["phase 2"].endswith("trains head, image")
    assert said["whole run"].startswith("9 steps")
    assert not (tmp_path / "run").exists()


def test_the_first_step_is_that_of_the_run(config: Config, anchors: Path, tmp_path: Path) -> None:
    made = config("--anchors", anchors)
    said = lines("\n".join(dry_run(made)))["training, first step"]
    first = read_metrics(train(made).output)[0]
    assert said.startswith(f"loss {first['loss']:.4f}, class_text {first['class_text']:.4f}")


def test_what_does_not_fit_names_the_way_out(config: Config, tmp_path: Path) -> None:
    greedy = tmp_path / "greedy.py"
    greedy.write_text(
        "import torch\n"
        "from trainer.methods.flyp import FLYP, class_text\n"
        "from trainer.methods.method import Method, Phase\n"
        "class Greedy:\n"
        "    name, weight, features = 'greedy', 1.0, ()\n"
        "    def __call__(self, features, batch, towers, gather):\n"
        "        return torch.ones(2**50).sum()\n"
        "METHOD = Method('greedy', 'too large', (Phase(lambda given: [Greedy()]),))\n"
    )
    with pytest.raises(
        UserError, match=r"8 finetune images does not fit .* of cpu; give a --chunk"
    ):
        dry_run(config("--method", greedy))


def test_the_command_prints_configs_that_read_back(
    clip_folder: Path, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = f"--finetune {images} --model {clip_folder} --output {tmp_path / 'run'}".split()
    flags = [*base, "--lr", "1e-4", "--clip-grad", "1"]
    assert main([*flags, "--print-config"]) == 0
    (tmp_path / "r.yaml").write_text(capsys.readouterr().out)
    assert parse([str(tmp_path / "r.yaml")]) == parse(flags)
    assert main([*flags, "--random-weights"]) == 2
    assert "--random-weights means nothing without --dry-run" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_run_leaves_a_recipe_that_is_the_run(config: Config, tmp_path: Path) -> None:
    made = config("--epochs", "1", "--warmup", "0")
    folder = train(made).output
    assert parse([str(folder / "recipe.yaml")]) == made


def test_the_toy_world_recipes_are_the_demos_runs() -> None:
    demo = ROOT / "runs" / "demo"
    train = "--finetune runs/demo/world/finetune --model toyworld/models/clip"
    for method, more in (("flyp", ""), ("arf", "--anchors runs/demo/anchors")):
        command = [*shlex.split(train), *TRAINING, *more.split(), "--output", str(demo / method)]
        recipe = parse([str(ROOT / "recipes" / f"toyworld-{method}.yaml")]).binding()
        expected = parse(command).binding() | {"--method": method}
        assert recipe == expected


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_every_recipe_passes_a_dry_run_of_small_data(
    path: Path,
    clip_folder: Path,
    images: Path,
    anchors: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    recipe = parse([str(path)])
    stand_ins = f"--finetune {images} --output {tmp_path / 'run'} --batch-size 8 --workers 0"
    stand_ins += f" --eval-id {images} --eval-shift s={images} --eval-zero-shot z={images}"
    if recipe.data.anchors:
        stand_ins += f" --anchors {anchors}"
    if recipe.data.anchor_batch_size:
        stand_ins += " --anchor-batch-size 2"
    if recipe.optim.warmup:
        stand_ins += " --warmup 3"
    if path.stem == "imagenet-arf":  # the real architecture, both kinds of anchors
        stand_ins += " --random-weights --batch-size 2"
    else:
        stand_ins += f" --model {clip_folder}"
    assert main([str(path), *stand_ins.split(), "--device", "cpu", "--dry-run"]) == 0
    said = lines(capsys.readouterr().out)
    assert said["method"].startswith(f"{recipe.loss.method},")
    assert ("training, first step" in said or "phase 2, first step" in said) == (
        recipe.loss.method != "zero-shot"
    )
    assert list(tmp_path.iterdir()) == []


def test_recipes_name_models_that_exist_and_say_their_source() -> None:
    assert len(RECIPES) >= 13
    for path in RECIPES:
        config = parse([str(path)])
        if "/models/" not in config.run.model:
            resolve(config.run.model)
        assert config.run.output == f"runs/{path.stem}"
        assert path.read_text("utf-8").startswith("# ")
