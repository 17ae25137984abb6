"""Augmentations by a file: any pipeline of torchvision, checked before the run, drawn by seeds."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from PIL import Image
from trainer_samples import picture

from schemas.errors import BadSample, UserError
from trainer.augment import Augmentation, least_side, read_steps, train_transform
from trainer.config import TrainConfig
from trainer.inputs import open_sets
from trainer.parallel.processes import join_world
from trainer.prepare import prepare
from trainer.train import TrainResult

CFG = {
    "size": 32,
    "mode": "RGB",
    "mean": (0.5, 0.4, 0.3),
    "std": (0.2, 0.3, 0.4),
    "interpolation": "bicubic",
    "resize_mode": "shortest",
    "fill_color": 0,
}
CROP = {"RandomResizedCrop": {"size": 32, "scale": [0.5, 1], "interpolation": "bicubic"}}
MANY: list[Any] = [
    CROP,
    "RandomHorizontalFlip",
    {"RandomApply": {"transforms": [{"ColorJitter": {"brightness": 0.4}}], "p": 0.8}},
    {"RandomChoice": {"transforms": ["RandAugment", {"AutoAugment": {"policy": "cifar10"}}]}},
    "TrivialAugmentWide",
    "AugMix",
    {"RandomErasing": {"p": 0.5}},
    {"ElasticTransform": {"alpha": 5.0}},
    {"RandomPerspective": {"p": 0.5}},
    {"GaussianBlur": {"kernel_size": 3}},
    "ToImage",
    {"ToDtype": {"dtype": "float32", "scale": True}},
    "GaussianNoise",
]


def write(tmp_path: Path, steps: Any) -> str:
    path = tmp_path / "augment.yaml"
    path.write_text(steps if isinstance(steps, str) else yaml.safe_dump(steps))
    return str(path)


def made(tmp_path: Path, steps: Any) -> Augmentation:
    path = write(tmp_path, steps)
    return Augmentation(read_steps(path), CFG, path)


def drawn(transform: Callable[[Image.Image], torch.Tensor], seed: int) -> torch.Tensor:
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return transform(picture((20, 200, 90), 1))


def test_a_file_can_say_what_the_default_does(tmp_path: Path) -> None:
    crop = {"RandomResizedCrop": {"size": 32, "scale": [0.5, 1], "interpolation": "bicubic"}}
    mine, default = made(tmp_path, [crop]), train_transform(CFG, 0.5)
    for seed in range(5):
        assert torch.allclose(drawn(mine, seed), drawn(default, seed), atol=1e-6)
    assert type(drawn(mine, 0)) is torch.Tensor


def test_every_draw_is_torchs(tmp_path: Path) -> None:
    transform = made(tmp_path, MANY)
    results = [drawn(transform, seed) for seed in (1, 2, 3, 4)]
    assert all(one.shape == (3, 32, 32) and one.dtype == torch.float32 for one in results)
    for seed, result in zip((1, 2, 3, 4), results, strict=True):
        assert torch.equal(drawn(transform, seed), result)
    assert not any(torch.equal(results[0], other) for other in results[1:])


def test_making_one_leaves_the_generator_alone(tmp_path: Path) -> None:
    before = torch.random.get_rng_state()
    made(tmp_path, MANY)
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize(
    ("steps", "sentence"),
    [
        ("- [", "line 1: no YAML"),
        ("a: 1", "holds no list of steps"),
        ("[]", "holds no list of steps"),
        ("- {a: {}, b: {}}", "is no step; write - NAME"),
        ("- 3", "is no step; write - NAME"),
        ("- RandomCrop: 32", "is no step; write - NAME"),
        ("- Resize: {size: 2001-01-01}", "size of Resize is no plain value"),
        ("- RandomResizeCrop: {size: 32}", "did you mean RandomResizedCrop?"),
        ("- InterpolationMode: {value: bicubic}", "has no transform 'InterpolationMode'"),
        ("- os.system: {command: ls}", "has no transform 'os.system'"),
        ("- Transform", "has no transform 'Transform'"),
        ("- Lambda: {lambd: print}", "leave Lambda out; a function cannot"),
        ("- Normalize: {mean: [0], std: [1]}", "leave Normalize out; the model's own"),
        ("- MixUp: {num_classes: 3}", "leave MixUp out; it mixes images"),
        ("- RandomResizedCrop: {siez: 32}", "RandomResizedCrop: got an unexpected .* 'siez'"),
        ("- RandomResizedCrop: {size: 32, interpolation: cubic}", "'cubic' is not a valid"),
        ("- RandomHorizontalFlip: {p: 7}", "RandomHorizontalFlip: .*in the interval"),
        ("- RandomApply: {transforms: [{Flip: {}}]}", "has no transform 'Flip'"),
        ("- RandomApply: {transforms: 3}", "holds no list of steps"),
        ("- ToDtype: {dtype: float7}", "dtype is one of float32, uint8, not 'float7'"),
        ("- Resize: {size: 32}", r"comes to \[3, 32, 42\], and the model wants \[3, 32, 32\]"),
        (
            "- RandomCrop: {size: 100}\n- CenterCrop: {size: 32}",
            r"an image of 64 x 48 pixels cannot pass \(ValueError: Required crop size",
        ),
        ("- FiveCrop: {size: 32}", "make tuple, not an image"),
        (
            "- CenterCrop: {size: 32}\n- ToImage\n- ToDtype: {dtype: float32}",
            "values up to 255, where 1 is white; give ToDtype scale: true",
        ),
    ],
)
def test_what_cannot_be_is_one_sentence(tmp_path: Path, steps: str, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence) as caught:
        made(tmp_path, steps)
    assert "augment.yaml" in str(caught.value)
    assert str(caught.value).count("\n") == 0


def test_an_image_that_a_step_cannot_take_is_a_bad_sample(tmp_path: Path) -> None:
    transform = made(tmp_path, [{"RandomCrop": {"size": 32}}])
    with pytest.raises(BadSample) as caught:
        transform(Image.new("RGB", (20, 20)))
    assert caught.value.reason == "augmentation_failed"
    transform = made(tmp_path, [{"CenterCrop": {"size": 48}}, {"Resize": {"size": [32, 32]}}])
    assert transform(Image.new("RGB", (20, 20))).shape == (3, 32, 32)


def test_a_crop_of_the_least_side_is_not_enlarged() -> None:
    for crop_min in (0.9, 0.25, 1.0):
        least = least_side(CFG, crop_min)
        assert least**2 * crop_min * 3 / 4 >= 32**2 > (least - 1) ** 2 * crop_min * 3 / 4


def test_a_run_takes_it_and_keeps_what_the_file_held(
    run: Callable[..., TrainResult], tmp_path: Path
) -> None:
    path = write(tmp_path, [CROP, {"RandomHorizontalFlip": {"p": 1.0}}])
    result = run("--augment", path, "--epochs", "1")
    told = json.loads((result.output / "config.json").read_bytes())
    assert told["inputs"]["augmentation"] == [CROP, {"RandomHorizontalFlip": {"p": 1.0}}]
    moved = Path(path).rename(tmp_path / "moved.yaml")
    assert run("--augment", moved, "--epochs", "1").steps == 0, "it is finished"
    for changed in (("--augment", write(tmp_path, [CROP])), ()):
        with pytest.raises(UserError, match="augmentation changed since the run"):
            run(*changed, "--epochs", "1")


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (("--augment", "nowhere.yaml"), "'nowhere.yaml' is no file"),
        (("--augment", "x.yaml", "--crop-min", "0.5"), "--crop-min means nothing with --augment"),
        (("--augment", "x.yaml", "--halve"), "--halve goes by the size that --crop-min needs"),
        (("--decoder", "simplejpg"), "did you mean simplejpeg?"),
    ],
)
def test_options_that_contradict_are_refused(
    run: Callable[..., TrainResult], tmp_path: Path, flags: tuple[str, ...], sentence: str
) -> None:
    with pytest.raises(UserError) as caught:
        run(*flags)
    assert sentence in str(caught.value)
    assert not (tmp_path / "run").exists()


def first(config: TrainConfig) -> torch.Tensor:
    """The pixels of the first step."""
    with join_world(torch.device("cpu")) as world:
        batch = prepare(config, open_sets(config), world).dataset[0]
    return batch.images["finetune"]  # type: ignore[union-attr]


def test_decoders_and_halving(config: Callable[..., TrainConfig], tmp_path: Path) -> None:
    pytest.importorskip("simplejpeg")
    default = first(config())
    assert torch.equal(first(config("--decoder", "simplejpeg")), default)
    assert torch.equal(first(config("--halve")), default), "40 pixels are not twice the crop's"
    large = tmp_path / "large"
    (large / "red").mkdir(parents=True)
    for i in range(8):
        picture((200, 40, 30), i, size=90).save(large / "red" / f"{i}.jpg", quality=95)
    whole, halved, other = (
        first(config("--finetune", large, *flags))
        for flags in ((), ("--halve",), ("--halve", "--decoder", "simplejpeg"))
    )
    assert not torch.equal(whole, halved)
    assert torch.equal(halved, other)
    assert (whole - halved).abs().mean() < 0.2
