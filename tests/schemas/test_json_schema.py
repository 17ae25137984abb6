"""The committed JSON Schemas are those of the models, and say what the models say."""

from __future__ import annotations

import json
from importlib.resources import files
from pathlib import Path

import jsonschema
import pytest
from tiny_sets import pair_record, small_set, text_record

from schemas.json_schema import SCHEMA_NAMES, SchemaName, json_schema, schema_file, schema_text
from schemas.manifest import Manifest, safe_relative_path, seal
from schemas.record import AnchorRecord
from shards.__main__ import main


@pytest.mark.parametrize("name", SCHEMA_NAMES)
def test_the_committed_schema_is_the_models(
    name: SchemaName, capsys: pytest.CaptureFixture[str]
) -> None:
    committed = files("schemas").joinpath(schema_file(name)).read_text("utf-8")
    assert committed == schema_text(name), f"run: anchorft-shards schema {name}"
    assert main(["schema", name, "--json"]) == 0
    assert capsys.readouterr().out == committed
    jsonschema.Draft202012Validator.check_schema(json.loads(committed))


def errors(name: SchemaName, value: object) -> list[str]:
    validator = jsonschema.Draft202012Validator(json_schema(name))
    return sorted(error.message for error in validator.iter_errors(value))


def test_real_files_follow_the_schemas(tmp_path: Path) -> None:
    small_set(str(tmp_path))
    assert errors("manifest", json.loads((tmp_path / "anchor_set.json").read_text())) == []
    for record in (text_record(0), pair_record(1), pair_record(2, mood={"new": [1]})):
        assert errors("record", json.loads(record.to_json())) == []


@pytest.mark.parametrize(
    "change",
    [
        {"key": "a.b"},
        {"key": "k" * 96},
        {"kind": "other"},
        {"image_sha256": "A" * 64},
        {"image_ext": "gif"},
        {"width": 0},
        {"height": 2**31},
        {"text": ""},
        {"class_name": ...},
        {"kind": "image-text-pair"},
        {"source": "/etc/passwd"},
        {"source": "a/../b"},
        {"texts": "a dog"},
        {"punsafe": "high"},
        {"source_key": ...},
    ],
)
def test_the_schema_refuses_what_the_model_refuses(change: dict[str, object]) -> None:
    body = json.loads(text_record(0).to_json()) | change
    body = {name: value for name, value in body.items() if value is not ...}
    assert errors("record", body)
    with pytest.raises(ValueError, match="validation error"):
        AnchorRecord.model_validate(body)


@pytest.mark.parametrize(
    "path",
    [
        *(
            "/a",
            "../a",
            "a/../b",
            "a//b",
            "./a",
            ".",
            "",
            "a/",
            "s3://b/c",
            "pipe:ls",
            "a\\b",
            "a\0b",
        ),
        *(".git/config", "a/.b", "-rf", "a b", "ü", 'a"b', "a`b", "$HOME", "a*b", "{0..9}"),
    ],
)
def test_both_refuse_paths_that_leave_the_folder(path: str) -> None:
    pattern = json_schema("manifest")["$defs"]["FileEntry"]["properties"]["path"]["pattern"]
    entry = {"type": "string", "pattern": pattern}
    assert not jsonschema.Draft202012Validator(entry).is_valid(path)
    with pytest.raises(ValueError, match="not a plain path"):
        safe_relative_path(path)
    for good in ("README.md", "text-compensated/00000.tar", "_a-1/b..c"):
        assert jsonschema.Draft202012Validator(entry).is_valid(good)
        assert safe_relative_path(good) == good


def test_a_manifest_needs_its_seal_and_its_version(tmp_path: Path) -> None:
    small_set(str(tmp_path))
    body = json.loads((tmp_path / "anchor_set.json").read_text())
    for name in ("seal", "format", "format_version", "digest", "shards", "provenance"):
        assert errors("manifest", {k: v for k, v in body.items() if k != name})
    assert errors("manifest", body | {"format_version": "2.0"})
    newer = body | {"format_version": "1.12", "mood": "new"}
    assert errors("manifest", newer) == []
    assert Manifest.from_json(json.dumps(newer | {"seal": seal(newer)}), "here").samples == 12
