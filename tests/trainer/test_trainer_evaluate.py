"""The zero-shot head, the templates, and accuracy against a computation written out."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image
from trainer_samples import COLOURS, encoded, picture
from webdataset import TarWriter

from models.clip import Clip, load_clip, save_clip
from schemas.errors import UserError
from shards.sources import open_labelled
from trainer.data_sets import open_data_sets
from trainer.evaluate import evaluate, evaluate_all, main
from trainer.head import zero_shot_head
from trainer.templates import TEMPLATES_NAME, fill, load_templates, templates_for

CPU = torch.device("cpu")


def test_head_is_open_clips(clip: Clip) -> None:
    classes = [*COLOURS, "big thing", "dark picture", "square"]
    templates = load_templates("openai")
    ours = zero_shot_head(clip.model, clip.tokenizer, classes, templates, CPU)
    theirs = open_clip.build_zero_shot_classifier(
        clip.model, clip.tokenizer, classes, open_clip.OPENAI_IMAGENET_TEMPLATES
    )
    assert ours.shape == (6, 16)
    assert ours.dtype == torch.float32
    torch.testing.assert_close(ours, theirs.T)


def test_head_of_many_classes_is_built_in_parts(clip: Clip) -> None:
    classes = [f"{a} {b}" for a in COLOURS for b in ("big", "small", "dark", "bright")] * 20
    whole = zero_shot_head(clip.model, clip.tokenizer, classes, load_templates("simple"), CPU)
    assert whole.shape == (240, 16)
    torch.testing.assert_close(whole[:12], whole[-12:])


def test_templates_are_openais_80_or_a_files(tmp_path: Path) -> None:
    openai = load_templates("openai")
    assert len(openai) == 80
    assert len(load_templates("simple")) == 7
    for text, template in zip(openai, open_clip.OPENAI_IMAGENET_TEMPLATES, strict=True):
        assert fill(text, "tench") == template("tench")
    own = tmp_path / "data" / TEMPLATES_NAME
    (tmp_path / "data" / "test").mkdir(parents=True)
    own.write_text("a {c}.\n\nthe {c} {now}\n")
    assert templates_for(str(tmp_path / "data"), None) == ("a {c}.", "the {c} {now}")
    assert templates_for(str(tmp_path / "data" / "test"), None) == ("a {c}.", "the {c} {now}")
    assert templates_for(str(tmp_path / "data"), "simple") == load_templates("simple")
    assert templates_for(str(tmp_path), None) == openai
    assert fill("the {c} {now}", "{x}") == "the {x} {now}"


def test_templates_that_say_no_class_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "templates.txt"
    file.write_text("a photo of a {}\n")
    with pytest.raises(UserError, match=r"the template 'a photo of a \{\}' has no \{c\}"):
        load_templates(str(file))
    file.write_text("\n")
    with pytest.raises(UserError, match="holds no templates"):
        load_templates(str(file))
    with pytest.raises(UserError, match="is no file of templates"):
        load_templates("opnai")


def write_eval(root: Path, classes: list[str]) -> Path:
    """Classes of unequal sizes, in random colours."""
    random = np.random.default_rng(0)
    for number, name in enumerate(classes):
        (root / name).mkdir(parents=True)
        for i in range(2 + number):
            colour = tuple(random.integers(0, 255, 3).tolist())
            Image.Image.save(picture(colour, i), root / name / f"{i}.png")
    return root


def test_accuracy_is_the_one_counted_by_hand(clip: Clip, tmp_path: Path) -> None:
    classes = ["big", "blue", "bright", "dark", "green", "red", "small"]
    root = write_eval(tmp_path / "val", classes)
    result = evaluate(
        clip,
        open_labelled(str(root)),
        ["a photo of the {c}."],
        name="val",
        device=CPU,
        batch_size=4,
        threads=2,
    )
    with torch.no_grad():
        texts = clip.tokenizer([f"a photo of the {name}." for name in classes])
        head = clip.model.encode_text(texts, normalize=True)
        first, five = [], []
        for label, name in enumerate(classes):
            for path in sorted((root / name).iterdir()):
                pixels = clip.preprocess(Image.open(path).convert("RGB"))
                scores = clip.model.encode_image(pixels[None], normalize=True) @ head.T
                ranked = scores[0].argsort(descending=True).tolist()
                first.append((label, ranked[0] == label))
                five.append(label in ranked[:5])
    per_class = [np.mean([hit for label, hit in first if label == k]) for k in range(7)]
    assert result.samples == len(first) == 35
    assert result.top1 == pytest.approx(100 * np.mean([hit for _, hit in first]))
    assert result.top5 == pytest.approx(100 * np.mean(five))
    assert result.mean_per_class == pytest.approx(100 * np.mean(per_class))
    assert 0 < result.top1 < result.top5 <= 100
    assert result.top1 != pytest.approx(result.mean_per_class)
    assert not clip.model.training


def test_odd_photos_are_read_and_broken_ones_counted(
    clip: Clip, images: Path, tmp_path: Path
) -> None:
    root = tmp_path / "val"
    shutil.copytree(images, root)
    add_odd_photos(root / "red")
    add_broken_photos(root / "blue")
    source = open_labelled(str(root))
    result = evaluate(clip, source, ["{c}"], name="val", device=CPU, max_bad_fraction=0.2)
    assert result.samples == 24 + 4
    assert result.bad == {"empty_file": 1, "not_an_image": 1, "truncated_image": 1}
    assert any("not_an_image" in example for example in result.examples)
    with pytest.raises(UserError, match=r"3 of 31 images .* are bad .*truncated_image 1"):
        evaluate(clip, source, ["{c}"], name="val", device=CPU)


def add_odd_photos(folder: Path) -> None:
    """What cameras and the web really hold."""
    base = picture(COLOURS["red"], 1)
    (folder / "grey.jpg").write_bytes(encoded(base.convert("L")))
    (folder / "cmyk.jpg").write_bytes(encoded(base.convert("CMYK")))
    (folder / "palette.png").write_bytes(encoded(base.convert("P"), "PNG", transparency=0))
    exif = Image.Exif()
    exif[0x0112] = 6
    (folder / "turned.jpg").write_bytes(encoded(base.resize((60, 30)), exif=exif.tobytes()))


def add_broken_photos(folder: Path) -> None:
    data = encoded(picture((1, 2, 3), 1, size=200))
    (folder / "cut.jpg").write_bytes(data[: len(data) // 2])
    (folder / "empty.jpg").write_bytes(b"")
    (folder / "page.jpg").write_bytes(b"<html>not found</html>")


def test_groups_get_means_and_names_tell_data_sets_apart(clip: Clip, images: Path) -> None:
    opened = open_data_sets(
        {"id": [f"a={images}"], "shift": [f"b={images}", str(images)], "zero_shot": []},
        templates="simple",
    )
    results = evaluate_all(clip, opened, device=CPU)
    assert list(results["datasets"]) == ["a", "b", "train"]
    assert results["id"] == results["shift"] == results["datasets"]["a"]["top1"]
    assert "zero_shot" not in results
    assert results["datasets"]["a"]["top5"] is None  # three classes
    with pytest.raises(UserError, match="two data sets are called 'train'"):
        open_data_sets({"id": [str(images)], "shift": [str(images)]})


def test_clip_benchmark_layout_is_measured_on_its_test_split(
    clip: Clip, images: Path, tmp_path: Path
) -> None:
    root = tmp_path / "bench"
    (root / "test").mkdir(parents=True)
    (root / "classnames.txt").write_text("blue\ngreen\nred\n")
    (root / TEMPLATES_NAME).write_text("the {c} square\n")
    with TarWriter(str(root / "test" / "0.tar"), encoder=False) as tar:
        for i, path in enumerate(sorted(images.glob("*/*.jpg"))):
            label = ["blue", "green", "red"].index(path.parent.name)
            tar.write({"__key__": f"{i}", "jpg": path.read_bytes(), "cls": str(label).encode()})
    (data,) = open_data_sets({"data": [str(root)]})
    assert data.templates == ("the {c} square",)
    tarred = evaluate(clip, data.source, data.templates, name="bench", device=CPU)
    folder = evaluate(clip, open_labelled(str(images)), data.templates, name="i", device=CPU)
    assert tarred == folder
    with pytest.raises(UserError, match="has no 'train' split, only test"):
        open_data_sets({"data": [str(root)]}, split="train")


def test_command_line_prints_a_table_and_writes_json(
    clip_folder: Path, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out.json"
    argv = f"--model {clip_folder} --id {images} --shift far={images} near={images} --device cpu"
    assert main([*argv.split(), "--output", str(out)]) == 0
    printed = capsys.readouterr().out
    body = json.loads(out.read_text())
    assert body["model"] == "tiny-clip"
    assert set(body["datasets"]) == {"train", "far", "near"}
    assert body["datasets"]["far"]["templates"] == 80
    assert f"{body['shift']:.2f}" in printed
    assert printed.count("mean") == 2


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        ("--model MODEL", "nothing to measure on; give one of --data"),
        ("--model MODEL --data nowhere", "'nowhere' is not there"),
        ("--model nothing --data IMAGES", "neither a folder nor a model that open_clip knows"),
        ("--model MODEL --data IMAGES --templates x", "is no file of templates"),
        ("--model MODEL --data IMAGES --device tpu", "none of auto, cpu, cuda"),
        ("--model MODEL --dta IMAGES", "unknown option '--dta' (did you mean --data?)"),
        ("--model MODEL --data IMAGES --threads 0", "must be at least 1"),
        ("--data IMAGES", "the following arguments are required: --model"),
    ],
)
def test_mistakes_are_one_sentence(
    clip_folder: Path,
    images: Path,
    capsys: pytest.CaptureFixture[str],
    flags: str,
    sentence: str,
) -> None:
    argv = flags.replace("MODEL", str(clip_folder)).replace("IMAGES", str(images)).split()
    assert main(argv) == 2
    error = capsys.readouterr().err
    assert error.startswith("anchorft-eval: error: ")
    assert sentence in error
    assert error.count("\n") == 1


def test_a_saved_model_is_the_same_model(clip: Clip, tmp_path: Path) -> None:
    save_clip(clip, tmp_path / "copy")
    again = load_clip(str(tmp_path / "copy"))
    assert again.weights_sha256() == clip.weights_sha256()
    assert again.preprocess(picture((9, 8, 7), 1)).equal(clip.preprocess(picture((9, 8, 7), 1)))
    assert again.model_cfg == clip.model_cfg
    told = (tmp_path / "copy" / "tokenizer_config.json").read_text()
    assert str(tmp_path.parent) not in told


def test_weights_that_share_memory_are_saved_in_full(clip: Clip, tmp_path: Path) -> None:
    text = clip.model.text
    text.transformer.resblocks[0].ln_2 = text.transformer.resblocks[0].ln_1
    save_clip(clip, tmp_path / "tied")
    again = load_clip(str(tmp_path / "tied"))
    for name, tensor in clip.model.state_dict().items():
        assert torch.equal(tensor, again.model.state_dict()[name])
