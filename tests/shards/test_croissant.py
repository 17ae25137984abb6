"""Croissant metadata: what mlcroissant makes of a set, without the network."""

from __future__ import annotations

import json
import socket
from pathlib import Path

import mlcroissant
import pytest
from golden_sets import GOLDEN
from mlcroissant._src.operation_graph.operations import extract
from tiny_sets import small_set

from schemas.manifest import Manifest
from shards.completion import complete_set
from shards.showing.croissant import croissant


@pytest.fixture
def complete(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Manifest]:
    def refuse(*_: object) -> None:
        raise AssertionError("the network was used")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    # What it unpacks must not land in the home folder.
    monkeypatch.setattr(extract, "EXTRACT_PATH", extract.EXTRACT_PATH / ".." / str(tmp_path))
    root = tmp_path / "set"
    return root, complete_set(str(root), small_set(str(root)))


def test_mlcroissant_accepts_it(complete: tuple[Path, Manifest]) -> None:
    root, manifest = complete
    found = mlcroissant.Dataset(root / "croissant.json").metadata
    assert found.ctx.issues.errors == set()
    files = {file.id: file.sha256 for file in found.distribution if hasattr(file, "sha256")}
    wanted = {f.path: f.sha256 for shard in manifest.shards for f in (shard, shard.index)}
    assert files == wanted
    assert found.version == f"1.1.0+{manifest.digest[:16]}"


def test_the_check_sees_what_is_wrong(complete: tuple[Path, Manifest]) -> None:
    body = json.loads((complete[0] / "croissant.json").read_text())
    del body["distribution"][0]["sha256"]
    with pytest.raises(mlcroissant.ValidationError, match="sha256"):
        mlcroissant.Dataset(body)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_mlcroissant_reads_records_and_images(complete: tuple[Path, Manifest]) -> None:
    data = mlcroissant.Dataset(complete[0] / "croissant.json")
    own = list(data.records("text-compensated"))
    assert [row["text-compensated/text"] for row in own] == [
        f"a circle number {i}".encode() for i in range(6)
    ]
    pairs = list(data.records("image-text-pair"))
    assert [row["image-text-pair/score"] for row in pairs] == [0.5, 0.51, 0.52, 0.53, 0.54, 0.55]
    images = {
        row["image-text-pair-image/key"]: row["image-text-pair-image/image"]
        for row in data.records("image-text-pair-image")
    }
    assert set(images) == {row["image-text-pair/key"] for row in pairs}
    assert {image.size for image in images.values()} == {(40, 32)}


def test_it_is_a_function_of_the_manifest(complete: tuple[Path, Manifest]) -> None:
    root, manifest = complete
    text = (root / "croissant.json").read_text()
    assert croissant(Manifest.from_json(manifest.to_json(), "here")) == text
    assert "croissant.json" in [file.path for file in manifest.files]
    assert str(root) not in text


def test_images_that_are_left_out_are_not_promised() -> None:
    found = mlcroissant.Dataset(GOLDEN / "captions-only" / "croissant.json").metadata
    assert found.ctx.issues.errors == set()
    assert [record_set.id for record_set in found.record_sets] == ["text-compensated"]


def test_a_name_of_any_kind_is_valid(tmp_path: Path) -> None:
    manifest = small_set(str(tmp_path)).model_copy(update={"name": 'a "b" </script> ü\n\\'})
    found = mlcroissant.Dataset(json.loads(croissant(manifest))).metadata
    assert found.name == manifest.name
    assert found.ctx.issues.errors == set()
