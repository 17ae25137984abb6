"""The three commands one after the other, on a folder of photographs as people have them."""

from __future__ import annotations

import json
import subprocess
import tarfile
from pathlib import Path

import open_clip
import pytest
import webdataset
from commands import command
from tiny_builds import BLIP, CLIP
from tiny_data import photographs, pool

from schemas.manifest import MANIFEST_NAME, Manifest


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with ``photos``, ``pool``, and what the commands made: ``anchors``, ``arf``."""
    root = tmp_path_factory.mktemp("job")
    photographs(root / "photos")
    pool(root / "pool")
    command(
        "pipelines",
        *("--finetune", root / "photos", "--pool", root / "pool", "--output", root / "anchors"),
        *("--captioner", BLIP, "--encoder", CLIP, "--k", 2, "--max_new_tokens", 24),
        *("--max_bad_fraction", 0.3),
    )
    train = ("trainer", "--finetune", root / "photos", "--model", CLIP, "--batch-size", 4)
    bad = ("--max-bad-fraction", 0.3, "--epochs", 2, "--templates", "simple")
    anchors = ("--anchors", root / "anchors")
    command(*train, *bad, *anchors, "--output", root / "arf")
    command(*train, *bad, *anchors, *("--lambda-tc", 0, "--lambda-itp", 0, "--output", root / "z"))
    command(*train, *bad, "--output", root / "flyp")
    return root


def test_the_bad_photographs_are_counted_by_reason(job: Path, tmp_path: Path) -> None:
    bad = photographs(tmp_path)
    manifest = Manifest.model_validate_json((job / "anchors" / MANIFEST_NAME).read_text("utf-8"))
    caption = manifest.provenance.counts["caption"]
    assert caption.dropped == bad
    assert caption.kept == caption.read - sum(bad.values()) == 7


def test_the_shards_are_read_without_our_code(job: Path) -> None:
    tars = sorted((job / "anchors").rglob("*.tar"))
    assert len(tars) == 2
    for tar in tars:
        listed = subprocess.run(["tar", "tf", tar], capture_output=True, text=True, check=True)
        with tarfile.open(tar) as file:
            assert listed.stdout.splitlines() == file.getnames()
        samples = list(webdataset.WebDataset(str(tar), shardshuffle=False))
        assert samples
        assert all(sample["txt"] and sample["json"] for sample in samples)


def test_open_clip_loads_what_was_trained(job: Path) -> None:
    model, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{job / 'arf'}")
    assert model.state_dict().keys()
    assert preprocess is not None


def test_anchors_of_weight_zero_are_flyp(job: Path) -> None:
    name = "open_clip_model.safetensors"
    flyp = (job / "flyp" / name).read_bytes()
    assert (job / "z" / name).read_bytes() == flyp
    assert (job / "arf" / name).read_bytes() != flyp


def test_the_photographs_can_be_measured_on(job: Path, tmp_path: Path) -> None:
    printed = command(
        *("trainer.evaluate", "--model", job / "arf", "--data", job / "photos"),
        *("--max-bad-fraction", 0.3, "--output", tmp_path / "out.json", "--templates", "simple"),
    )
    (measured,) = json.loads((tmp_path / "out.json").read_text("utf-8"))["datasets"].values()
    assert measured["samples"] == 7
    assert measured["bad"] == photographs(tmp_path / "again")
    assert f"{measured['top1']:.2f}" in printed
