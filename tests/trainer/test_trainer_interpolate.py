"""WiSE-FT: the weights between two models, and the curve over them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import open_clip
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from models.clip import load_clip
from schemas.errors import UserError
from trainer.classifier import load_classifier
from trainer.evaluate import main as evaluate
from trainer.interpolate import interpolate, main
from trainer.train import TrainResult

Run = Callable[..., TrainResult]


@given(st.floats(0, 1), st.integers(0, 1000))
def test_weights_lie_between_and_at_the_ends_are_the_models(alpha: float, seed: int) -> None:
    draw = torch.Generator().manual_seed(seed)
    states = [
        {"w": torch.randn(4, 3, generator=draw), "n": torch.tensor(10 * which)}
        for which in range(2)
    ]
    mixed = interpolate(*states, alpha)
    expected = (1 - alpha) * states[0]["w"].double() + alpha * states[1]["w"].double()
    torch.testing.assert_close(mixed["w"].double(), expected, rtol=1e-5, atol=1e-6)
    assert int(mixed["n"]) == (0 if alpha < 0.5 else 10)
    for end, state in zip((0.0, 1.0), states, strict=True):
        found = interpolate(*states, end)
        assert all(torch.equal(found[name], state[name]) for name in state)
        assert found["w"].data_ptr() != state["w"].data_ptr()


def test_half_precision_stays_what_it_is() -> None:
    mixed = interpolate({"w": torch.ones(2).half()}, {"w": torch.full((2,), 3.0)}, 0.25)
    assert mixed["w"].dtype == torch.float16
    assert mixed["w"].tolist() == [1.5, 1.5]


def test_models_of_another_shape_are_refused() -> None:
    with pytest.raises(UserError, match=r"w has the shapes \(2,\) and \(3,\)"):
        interpolate({"w": torch.ones(2)}, {"w": torch.ones(3)}, 0.5)
    with pytest.raises(UserError, match=r"v has the shapes None and \(2,\)"):
        interpolate({"w": torch.ones(2)}, {"w": torch.ones(2), "v": torch.ones(2)}, 0.5)


def test_command_line_measures_the_curve_and_saves_models(
    run: Run, clip_folder: Path, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    after, output = run().output, tmp_path / "wise"
    argv = f"--before {clip_folder} --after {after} --id near={images} --shift far={images}"
    more = f"--alpha 1 0 0.5 --save 0.5 --output {output} --device cpu --templates simple"
    assert main(f"{argv} {more}".split()) == 0
    body = json.loads((output / "curve.json").read_text())
    assert [point["alpha"] for point in body["curve"]] == [0.0, 0.5, 1.0]
    assert body["before"]["name"] == "tiny-clip"
    printed = capsys.readouterr().out
    for point in body["curve"]:
        line = f"in distribution {point['id']:.2f}, domain shift {point['shift']:.2f}"
        assert f"alpha {point['alpha']:<4g} {line}" in printed
    with Image.open(output / "curve.png") as picture:
        assert picture.size > (300, 300)
    half = open_clip.create_model(f"local-dir:{output / 'alpha-0.5'}").state_dict()
    states = [load_clip(str(folder)).model.state_dict() for folder in (clip_folder, after)]
    expected = interpolate(*states, 0.5)
    assert all(torch.equal(half[name], expected[name]) for name in expected)
    moved = [name for name in half if not torch.equal(half[name], states[0][name])]
    assert len(moved) > 10


def test_models_can_be_saved_without_measuring(run: Run, clip_folder: Path, tmp_path: Path) -> None:
    after, output = run().output, tmp_path / "wise"
    argv = f"--before {clip_folder} --after {after} --save 0 1 --output {output} --device cpu"
    assert main(argv.split()) == 0
    for alpha, folder in (("0", clip_folder), ("1", after)):
        weights = "open_clip_model.safetensors"
        assert (output / f"alpha-{alpha}" / weights).read_bytes() == (folder / weights).read_bytes()
    assert not (output / "curve.json").exists()


def test_a_trained_classifier_is_mixed_with_the_zero_shot_head(
    run: Run, clip_folder: Path, images: Path, tmp_path: Path
) -> None:
    after, output = run("--method", "ft", "--epochs", "4").output, tmp_path / "wise"
    argv = f"--before {clip_folder} --after {after} --id {images} --alpha 0 0.5 1 --save 0 0.5 1"
    assert main(f"{argv} --output {output} --device cpu --templates simple".split()) == 0
    found = [load_classifier(output / f"alpha-{alpha}") for alpha in ("0", "0.5", "1")]
    trained = load_classifier(after)
    assert trained is not None
    heads = []
    for one in found:
        assert one is not None
        assert one.classes == trained.classes
        heads.append(one.classifier.weight.detach())
    assert torch.equal(heads[2], trained.classifier.weight.detach())
    torch.testing.assert_close(heads[1], (heads[0] + heads[2]) / 2)
    curve = json.loads((output / "curve.json").read_text())["curve"]
    measured = []
    for model, head in ((clip_folder, "zero-shot"), (after, "auto")):
        out = tmp_path / "one.json"
        flags = f"--model {model} --id {images} --head {head} --output {out} --device cpu"
        assert evaluate([*flags.split(), "--templates", "simple"]) == 0
        measured.append(json.loads(out.read_text())["id"])
    assert [curve[0]["id"], curve[2]["id"]] == measured


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        ("--alpha 1.5 --data IMAGES", "--alpha 1.5 does not lie between 0 and 1"),
        ("--save -1", "--save -1 does not lie between 0 and 1"),
        ("", "there is nothing to do; give data to measure on, or --save an alpha"),
        ("--data IMAGES --threads 0", "must be at least 1"),
        ("--data nowhere", "'nowhere' is not there"),
    ],
)
def test_mistakes_are_one_sentence(
    clip_folder: Path,
    images: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    flags: str,
    sentence: str,
) -> None:
    base = f"--before {clip_folder} --after {clip_folder} --output {tmp_path / 'out'} "
    assert main((base + flags.replace("IMAGES", str(images))).split()) == 2
    error = capsys.readouterr().err
    assert error.startswith("anchorft-interpolate: error: ")
    assert sentence in error
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()
