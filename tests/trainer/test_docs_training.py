"""docs/training.md: its recipe is read and its commands run, in their order, on small data."""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path

import pytest

from trainer.__main__ import main as train
from trainer.interpolate import main as interpolate
from trainer.methods import METHODS

PAGE = Path(__file__).parent.parent.parent / "docs" / "training.md"
TEXT = PAGE.read_text("utf-8")
COMMANDS = {"anchorft-train": train, "anchorft-interpolate": interpolate}
RUN = "anchorft-train mine.yaml"


def blocks(kind: str) -> list[str]:
    return re.findall(rf"^```{kind}\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)


def test_the_commands_run_in_their_order(
    clip_folder: Path,
    images: Path,
    anchors: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (recipe,) = blocks("yaml")
    small = {"ViT-B-16/openai": str(clip_folder), "batch_size: 256": "batch_size: 8"}
    for name, stand_in in small.items():
        assert name in recipe
        recipe = recipe.replace(name, stand_in)
    (tmp_path / "mine.yaml").write_text(recipe, "utf-8")
    (tmp_path / "data").mkdir()
    (tmp_path / "anchors").mkdir()
    for name in ("data/train", "data/val"):
        (tmp_path / name).symlink_to(images)
    for name in ("mine", "more"):
        shutil.copytree(anchors, tmp_path / "anchors" / name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    lines = [one for block in blocks("sh") for one in block.replace("\\\n", " ").splitlines()]
    assert len(lines) >= 6
    for line in lines:
        command, *arguments = shlex.split(line.replace("ViT-B-16/openai", str(clip_folder)))
        assert COMMANDS[command](arguments) == 0, f"{line}\n{capsys.readouterr().err}"
        # Up to the command that trains, nothing is written.
        assert (tmp_path / "runs").exists() or "--dry-run" in line or "--print" in line
        if line == RUN:
            assert {p.name for p in (tmp_path / "runs").iterdir()} == {"mine"}
    left = {path.name for path in (tmp_path / "runs" / "mine").iterdir()}
    table = TEXT.partition("## What a run leaves")[2].partition("##")[0]
    told = set(re.findall(r"`([\w.]+\.(?:json|jsonl|yaml|png|safetensors|md))`", table))
    assert len(told) >= 6
    assert told <= left
    assert (tmp_path / "runs" / "mine-between" / "alpha-0.5").is_dir()


def test_every_method_is_in_the_table() -> None:
    table = TEXT.partition("| method |")[2].partition("\n\n")[0]
    assert set(re.findall(r"`([a-z-]+)`", table)) >= set(METHODS)
