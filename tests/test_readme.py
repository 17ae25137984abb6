"""The README: its commands run as they stand, its table is the one that was measured.

Hub models are out of reach of a test, so their names are replaced by those of the toy world's
models; ``make demo`` and ``make test`` are what a person and CI run.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from tiny_builds import BLIP, CLIP

from schemas.manifest import MANIFEST_NAME, Manifest
from toyworld.demo import table
from toyworld.world import WorldConfig, ensure_world

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text("utf-8")
BLOCKS = re.findall(r"^```sh\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
MODEL = "ViT-B-16/laion2b_s34b_b88k"
REPLACED = {
    f"--model {MODEL}": f"--model {CLIP} --batch-size 32",  # the default is for more images
    # The small captioner has fewer positions than the default length of a caption.
    "Salesforce/blip-image-captioning-base": f"{BLIP} --max_new_tokens 24",
    MODEL: str(CLIP),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The data that the commands name, from the toy world."""
    folder = tmp_path_factory.mktemp("readme")
    small = WorldConfig(finetune=96, pool=60, pool_shard=30, evaluation=24)
    world = ensure_world(folder / "world", small)
    (folder / "data").mkdir()
    for name, place in (
        ("data/train", "finetune"),
        ("data/val", "eval/id-photo"),
        ("data/sketch", "eval/shift-sketch"),
        ("data/others", "eval/unseen-photo"),
        ("laion", "pool"),
    ):
        (folder / name).symlink_to(world / place)
    return folder


def run_block(text: str, folder: Path) -> None:
    """Run commands in a folder, with the small models in place of the Hub's."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    for name, toy in REPLACED.items():
        text = text.replace(name, toy)
    done = subprocess.run(
        ["bash", "-eu", "-c", text],
        cwd=folder,
        env=os.environ | {"PATH": path, "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=400,
    )
    assert done.returncode == 0, f"{text}\n{done.stderr}"


def test_the_commands_run_in_their_order(folder: Path) -> None:
    assert len(BLOCKS) >= 4
    for block in BLOCKS:
        run_block(block, folder)
    first, second = (
        Manifest.model_validate_json((folder / "anchors" / name / MANIFEST_NAME).read_text("utf-8"))
        for name in ("mine", "again")
    )
    assert first.digest == second.digest
    results = json.loads((folder / "runs" / "arf.json").read_text("utf-8"))
    assert set(results["datasets"]) == {"val", "sketches", "others"}


def test_the_command_that_extends_runs_on_the_file_beside_it(folder: Path) -> None:
    page = (ROOT / "docs" / "extending.md").read_text("utf-8")
    (code,) = re.findall(r"^```python\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    (command,) = re.findall(r"^```sh\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    (folder / "together.py").write_text(code)
    run_block(command, folder)
    assert (folder / "runs" / "together" / "loss.png").exists()


def test_every_command_of_ours_is_in_a_block_that_runs() -> None:
    outside = re.sub(r"^```sh\n.*?^```$", "", README, flags=re.MULTILINE | re.DOTALL)
    assert not re.findall(r"^\s*anchorft-\w+ ", outside, re.MULTILINE)


def test_the_table_is_what_was_measured() -> None:
    measured = json.loads((ROOT / "docs" / "demo.json").read_text("utf-8"))
    assert table(measured) in README


@pytest.mark.parametrize("page", sorted([ROOT / "README.md", *(ROOT / "docs").glob("*.md")]))
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)", page.read_text("utf-8")):
        if not target.startswith("http"):
            assert (page.parent / target).exists(), target


def test_the_make_targets_exist() -> None:
    makefile = (ROOT / "Makefile").read_text("utf-8")
    for target in re.findall(r"^ {4}make (\w+)", README, re.MULTILINE):
        assert f"\n{target}:" in makefile
