"""JSON Schema of the manifest and of the record, for those who check them without our code.

Generated from the models, committed under ``schemas/json/``. Checked by a schema alone are types
and fields; what ties fields together (sums, digests, the seal) is in docs/format.md.
"""

from __future__ import annotations

import json
from typing import Any, Literal

from pydantic import BaseModel

from schemas.manifest import Manifest
from schemas.record import IMAGE_TEXT_PAIR, TEXT_COMPENSATED, AnchorRecord

SchemaName = Literal["manifest", "record"]
SCHEMA_NAMES: tuple[SchemaName, ...] = ("manifest", "record")
_DIALECT = "https://json-schema.org/draft/2020-12/schema"


def schema_file(name: SchemaName) -> str:
    """Where the schema lies, relative to this package."""
    return f"json/{name}.schema.json"


def json_schema(name: SchemaName) -> dict[str, Any]:
    """The schema of a manifest or of a record."""
    return _manifest_schema() if name == "manifest" else _record_schema()


def schema_text(name: SchemaName) -> str:
    """The schema as it is committed."""
    return json.dumps(json_schema(name), indent=2, sort_keys=True) + "\n"


def _manifest_schema() -> dict[str, Any]:
    schema = _schema_of(Manifest, "manifest")
    # The model does without these: one is a law of its text, the others have defaults to build by.
    schema["properties"]["seal"] = {
        "type": "string",
        "pattern": "^[0-9a-f]{64}$",
        "description": "SHA-256 of the canonical JSON of the manifest without its seal.",
    }
    schema["required"] = sorted({*schema["required"], "format", "format_version", "seal"})
    return schema


def _record_schema() -> dict[str, Any]:
    schema = _schema_of(AnchorRecord, "record")
    schema["required"] = sorted({*schema["required"], "texts", "query_classes"})
    schema["allOf"] = [
        _if_kind(TEXT_COMPENSATED, ["class_name"]),
        _if_kind(IMAGE_TEXT_PAIR, ["score", "rank"]),
    ]
    return schema


def _if_kind(kind: str, required: list[str]) -> dict[str, Any]:
    return {
        "if": {"properties": {"kind": {"const": kind}}},
        "then": {"required": required},
    }


def _schema_of(model: type[BaseModel], name: SchemaName) -> dict[str, Any]:
    schema: dict[str, Any] = _without_null(model.model_json_schema())
    return {"$schema": _DIALECT, "$id": f"urn:anchorft:anchor-set:1:{name}"} | schema


def _without_null(node: Any) -> Any:
    """A field that does not apply is left out of a file, never null; so say the schemas."""
    if isinstance(node, list):
        return [_without_null(item) for item in node]
    if not isinstance(node, dict):
        return node
    node = {name: _without_null(value) for name, value in node.items()}
    if "anyOf" in node:
        chosen = [option for option in node.pop("anyOf") if option != {"type": "null"}]
        assert len(chosen) == 1, "a union of types would need anyOf"
        node = chosen[0] | node
    if node.get("default", ...) is None:
        del node["default"]
    return node
