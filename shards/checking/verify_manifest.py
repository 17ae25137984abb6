"""The manifest under check: its text, its seal, its fields, and what ties them together."""

from __future__ import annotations

import json
import re
from typing import Any

from pydantic import ValidationError

from schemas.errors import UserError
from schemas.manifest import (
    FORMAT_NAME,
    FORMAT_VERSION,
    Manifest,
    check_version,
    manifest_text,
    seal,
    set_digest,
)
from shards.checking.findings import Tell

_SHARD = re.compile(r"(?P<kind>[a-z-]+)/\d{5,}\.tar")


def read_manifest(data: bytes, where: str, tell: Tell) -> Manifest | None:
    """Check the bytes of a manifest, and read it as well as they allow.

    Args:
        data: the bytes.
        where: names the file in errors.
        tell: told of everything that is wrong.

    Returns:
        The manifest, if its fields can be read at all, even if it was changed.

    Raises:
        UserError: it is whole, but of another major version.
    """
    try:
        body = json.loads(data)
    except (ValueError, RecursionError) as error:
        tell("", "bad_manifest", f"it is not valid JSON ({error})")
        return None
    if not isinstance(body, dict) or body.get("format") != FORMAT_NAME:
        tell("", "bad_manifest", f"it does not say that its format is {FORMAT_NAME!r}")
        return None
    if not _check_seal(body, data, where, tell):
        return None
    content = {name: value for name, value in body.items() if name != "seal"}
    try:
        manifest = Manifest.model_validate(content)
    except ValidationError as error:
        for problem in error.errors():
            field = ".".join(str(part) for part in problem["loc"]) or "manifest"
            tell("", "bad_manifest", f"{field}: {problem['msg']}")
        return None
    _check_laws(manifest, tell)
    return manifest


def _check_seal(body: dict[str, Any], data: bytes, where: str, tell: Tell) -> bool:
    """Check seal, version and text; False if the fields say nothing to this version."""
    try:
        sealed = body.get("seal") == seal(body)
        plain = manifest_text(body).encode() == data
    except (ValueError, TypeError):  # NaN, or half a surrogate pair
        sealed = plain = False
    if "seal" not in body or sealed:
        check_version(str(body.get("format_version")), where)
    if not sealed:
        tell("", "bad_seal", "it was changed after it was written: its seal does not fit")
        try:
            check_version(str(body.get("format_version")), where)
        except UserError:
            return False
    elif not plain:
        tell("", "not_canonical", "its text was changed in blanks, order or spelling")
    return True


def _check_laws(manifest: Manifest, tell: Tell) -> None:
    if manifest.digest != set_digest(manifest.shards):
        tell("", "bad_digest", "its digest does not follow from its shards")
    for shard in manifest.shards:
        path = _SHARD.fullmatch(shard.path)
        if path is None or path["kind"] != shard.kind:
            tell("", "odd_path", f"{shard.path!r} is not {shard.kind}/NNNNN.tar")
        elif shard.index.path != shard.path.removesuffix(".tar") + ".parquet":
            tell("", "odd_path", f"{shard.index.path!r} does not lie beside {shard.path!r}")
    for stage, counts in manifest.provenance.counts.items():
        if counts.read != counts.kept + sum(counts.dropped.values()):
            tell("", "bad_counts", f"{stage}: what was read is not what was kept and dropped")


def newer_minor(manifest: Manifest) -> bool:
    """Whether the set is of a newer minor version, of which this code knows only a part."""
    return int(manifest.format_version.partition(".")[2]) > int(FORMAT_VERSION.partition(".")[2])
