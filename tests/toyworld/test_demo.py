"""The demo on a small world: every step is run by the command that a user would type."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import open_clip
import pytest
from commands import command
from PIL import Image
from safetensors.torch import load_file

from toyworld.__main__ import main
from toyworld.demo import GROUPS, METHODS, table
from toyworld.world import EVAL_SETS

ROOT = Path(__file__).parent.parent.parent
SIZES = ("--finetune", "144", "--pool", "300", "--pool-shard", "150", "--evaluation", "24")


def run_demo(output: Path, *more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "toyworld", "demo", "--output", str(output), *SIZES, *more],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=400,
    )


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("demo") / "demo"
    done = run_demo(folder)
    assert done.returncode == 0, done.stderr
    results = json.loads((folder / "results.json").read_text("utf-8"))
    assert table(results) in done.stdout
    for module in ("pipelines", "trainer", "trainer.evaluate"):
        assert f"$ python -m {module} " in done.stdout
    return folder


def test_results_hold_every_method_group_and_data_set(output: Path) -> None:
    results = json.loads((output / "results.json").read_text("utf-8"))
    assert list(results) == list(METHODS) == ["before", "flyp", "arf"]
    for values in results.values():
        assert set(values) == {*GROUPS, "datasets"}
        assert list(values["datasets"]) == [one.name for one in EVAL_SETS]
        for group in GROUPS:
            members = [values["datasets"][one.name] for one in EVAL_SETS if one.group == group]
            assert values[group] == pytest.approx(sum(members) / len(members), abs=0.02)


def test_there_is_something_to_look_at(output: Path) -> None:
    with Image.open(output / "results.png") as picture:
        assert min(picture.size) > 300
    page = (output / "gallery.html").read_text("utf-8")
    assert page == (output / "anchors" / "gallery.html").read_text("utf-8")
    assert page.count("data:image/") > 20


def test_the_trained_folders_are_open_clips(output: Path) -> None:
    for name in ("flyp", "arf"):
        model = open_clip.create_model(f"local-dir:{output / name}")
        saved = load_file(output / name / "open_clip_model.safetensors")
        assert set(model.state_dict()) == set(saved)


def test_a_demo_that_is_done_is_not_done_again(
    output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = [output / name / "open_clip_model.safetensors" for name in ("flyp", "arf")]
    files += [output / "anchors" / "anchor_set.json", output / "world" / "world.json"]
    times = [path.stat().st_mtime_ns for path in files]
    results = (output / "results.json").read_bytes()
    monkeypatch.setattr("toyworld.demo.run", command)
    assert main(["demo", "--output", str(output), *SIZES]) == 0
    assert [path.stat().st_mtime_ns for path in files] == times
    assert (output / "results.json").read_bytes() == results


def test_another_config_does_not_write_over_it(output: Path) -> None:
    done = run_demo(output, "--seed", "5")
    assert done.returncode == 2
    assert "holds a world of another config" in done.stderr
    assert "Traceback" not in done.stderr
