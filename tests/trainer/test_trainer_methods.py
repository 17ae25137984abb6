"""Every method as a run, and a user's own from the page that shows how."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.torch import load_file
from trainer_samples import captions_of, some_pairs, write_set

from schemas.errors import UserError
from trainer.classifier import CLASSIFIER_NAME, load_classifier
from trainer.evaluate import main as evaluate
from trainer.methods import METHODS, load_method
from trainer.metrics import read_metrics
from trainer.train import TrainResult

Run = Callable[..., TrainResult]
PAGE = (Path(__file__).parent.parent.parent / "docs" / "extending.md").read_text("utf-8")


def moved(folder: Path, start: Path, least: float = 0.0) -> set[str]:
    """Parts of the model that moved by more than ``least``."""
    now, then = (load_file(f / "open_clip_model.safetensors") for f in (folder, start))
    names = [name for name in now if (now[name] - then[name]).abs().max() > least]
    return {
        "scale" if name == "logit_scale" else name.split(".")[0]
        for name in names
        if "running_" not in name and "num_batches" not in name
    }


@pytest.mark.parametrize(
    ("method", "terms", "trained"),
    [
        ("zero-shot", set(), set()),
        ("ft", {"cross_entropy"}, {"visual"}),
        ("ft-random", {"cross_entropy"}, {"visual"}),
        ("lp-ft", {"cross_entropy"}, {"visual"}),
        ("flyp", {"class_text"}, {"visual", "text", "scale"}),
        ("arf", {"class_text", "tc", "itp"}, {"visual", "text", "scale"}),
        ("arf-tc", {"class_text", "tc"}, {"visual", "text", "scale"}),
        ("arf-itp", {"class_text", "itp"}, {"visual", "text", "scale"}),
    ],
)
def test_every_method_trains_what_it_says_on_its_terms(
    run: Run, clip_folder: Path, anchors: Path, method: str, terms: set[str], trained: set[str]
) -> None:
    assert METHODS[method].name == method
    flags = ["--anchors", str(anchors)] if METHODS[method].anchors else []
    flags += ["--probe-epochs", "1"] if method == "lp-ft" else []
    result = run("--method", method, *flags)
    lines = read_metrics(result.output)
    assert all(
        terms == line.keys() & {"class_text", "tc", "itp", "cross_entropy"} for line in lines
    )
    assert len(lines) == {"zero-shot": 0, "lp-ft": 9}.get(method, 6)
    assert moved(result.output, clip_folder) == trained
    has_classifier = (result.output / CLASSIFIER_NAME).exists()
    assert has_classifier == (terms == {"cross_entropy"})
    told = json.loads((result.output / "config.json").read_text())
    assert told["resolved"]["method"] == method


def test_the_probe_moves_the_classifier_alone(run: Run, clip_folder: Path) -> None:
    flags = ("--method", "lp-ft", "--probe-epochs", "2", "--probe-lr", "0.1", "--epochs", "1")
    result = run(*flags, "--lr", "1e-30")
    assert moved(result.output, clip_folder, least=1e-12) == set()
    found = load_classifier(result.output)
    assert found is not None
    assert found.classes == ("blue", "green", "red")
    lines = read_metrics(result.output)
    assert lines[0]["lr"] == 0.1
    assert float(found.classifier.bias.detach().abs().max()) > 0.05
    assert lines[5]["loss"] < lines[0]["loss"]


def test_a_classifier_is_measured_where_it_knows_the_classes(
    run: Run, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fewer = tmp_path / "fewer"
    for name in ("red", "blue"):
        shutil.copytree(images / name, fewer / name)
    other = tmp_path / "other"
    shutil.copytree(images / "red", other / "crimson")
    shutil.copytree(images / "blue", other / "blue")
    folder = run("--method", "lp-ft", "--probe-lr", "0.1", "--epochs", "6").output
    argv = f"--model {folder} --id all={images} --shift {fewer} --zero-shot {other} --device cpu"
    found = {}
    for head in ("auto", "zero-shot"):
        out = tmp_path / f"{head}.json"
        assert evaluate([*argv.split(), "--head", head, "--output", str(out)]) == 0
        found[head] = json.loads(out.read_text())["datasets"]
    used = {name: data["templates"] == 0 for name, data in found["auto"].items()}
    assert used == {"all": True, "fewer": True, "other": False}
    assert not any(data["templates"] == 0 for data in found["zero-shot"].values())
    assert found["auto"]["all"]["top1"] > 90
    assert found["auto"]["fewer"]["top1"] > 90
    assert found["auto"]["other"] == found["zero-shot"]["other"]


def test_several_sets_have_their_own_weights_and_shares(
    run: Run, images: Path, tmp_path: Path
) -> None:
    first = write_set(tmp_path / "first", captions_of(images), some_pairs(10))
    second = write_set(tmp_path / "second", captions_of(images)[:12], some_pairs(6))
    result = run(
        *("--anchors", first, second, "--lambda-tc", "1", "0.5", "--lambda-itp", "0", "2"),
        *("--anchor-batch-size", "4", "3"),
    )
    told = json.loads((result.output / "config.json").read_text())["resolved"]
    assert told["lambdas"] == {"first": {"tc": 1, "itp": 0}, "second": {"tc": 0.5, "itp": 2}}
    assert told["anchor_batch_sizes"] == {"second": 3}
    for line in read_metrics(result.output):
        parts = line["class_text"] + line["tc/first"] + 0.5 * line.get("tc/second", 0)
        assert line["loss"] == pytest.approx(parts + 2 * line["itp/second"], rel=1e-5)
        assert "itp/first" not in line


def test_a_method_of_ones_own_is_one_file(run: Run, tmp_path: Path, clip_folder: Path) -> None:
    (code,) = re.findall(r"^```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    path = tmp_path / "together.py"
    path.write_text(code)
    result = run("--method", str(path))
    for line in read_metrics(result.output):
        parts = line["class_text"] + 0.5 * line["mean_distance"]
        assert line["loss"] == pytest.approx(parts, rel=1e-5)
    assert moved(result.output, clip_folder) == {"visual", "text", "scale"}


def test_a_file_without_a_method_is_a_sentence(tmp_path: Path) -> None:
    path = tmp_path / "empty.py"
    path.write_text("METHOD = 3\n")
    with pytest.raises(UserError, match=r"empty.py' defines no METHOD of"):
        load_method(str(path))
