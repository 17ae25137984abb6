"""The manifest ``anchor_set.json``: the one file that makes a folder an anchor set.

It lists every file with its size and SHA-256, and says how the set was made. It holds nothing
that differs between two runs over the same inputs: no clock, no host, no absolute path.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable
from typing import Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    ValidationError,
    field_validator,
    model_serializer,
    model_validator,
)

from schemas.errors import UserError
from schemas.record import Kind, Sha256, canonical_json, first_error

MANIFEST_NAME = "anchor_set.json"
FORMAT_NAME: Literal["anchorft/anchor-set"] = "anchorft/anchor-set"
FORMAT_VERSION = "1.1"
# A path's parts hold letters, digits and a few signs that no shell, browser or file system acts
# upon; none is hidden, so that no set brings a .git/config along.
_SAFE_PATH = r"^[A-Za-z0-9_][A-Za-z0-9._-]*(/[A-Za-z0-9_][A-Za-z0-9._-]*)*$"


def safe_relative_path(value: str) -> str:
    """Return ``value`` if it names a file below the set's folder.

    Raises:
        ValueError: it is absolute, hidden, climbs with ``..``, is not normalised, or holds
            another character than letters, digits, ``.``, ``_`` and ``-``.
    """
    if not re.fullmatch(_SAFE_PATH, value):
        raise ValueError(f"{value!r} is not a plain path below the set's folder")
    return value


class _Part(BaseModel):
    # Unknown fields are kept: a newer minor version passes through an older reader unharmed.
    model_config = ConfigDict(extra="allow", frozen=True)


class FileEntry(_Part):
    """One file of the set."""

    path: str = Field(
        description="Relative to the set's folder, with forward slashes.",
        json_schema_extra={"pattern": _SAFE_PATH},
    )
    bytes: int = Field(ge=0, description="Size of the file.")
    sha256: Sha256 = Field(description="SHA-256 of the file.")

    @field_validator("path")
    @classmethod
    def _path_stays_inside(cls, value: str) -> str:
        return safe_relative_path(value)


class ShardEntry(FileEntry):
    """One tar of anchors and the parquet beside it."""

    kind: Kind = Field(description="Kind of every anchor in it.")
    samples: int = Field(ge=0, description="Anchors in the tar.")
    images: int | None = Field(
        default=None,
        ge=0,
        description="Anchors whose image is in the tar; left out where that is all of them.",
    )
    index: FileEntry = Field(description="The parquet of records and member offsets.")


class ModelInfo(_Part):
    """A model that took part: its public name, never a path of the machine that ran it."""

    name: str = Field(description="Public name, such as open_clip or the Hub uses.")
    weights_sha256: str = Field(description="Digest of the weights: tensor names, types, bytes.")


class InputInfo(_Part):
    """One input file or list slice."""

    role: Literal["finetune", "pool", "evaluation", "parent"] = Field(
        description="What it was read for."
    )
    name: str = Field(description="Relative to the root of its source.")
    fingerprint: str = Field(description="Digest of the content that was read.")


class Counts(_Part):
    """What one stage read, kept and dropped; read = kept + the sum of dropped."""

    read: int = Field(default=0, description="Samples that came in.")
    kept: int = Field(default=0, description="Samples that went on.")
    dropped: dict[str, int] = Field(default_factory=dict, description="Reason to number.")
    lacking: dict[str, int] | None = Field(
        default=None,
        description="Column to number of samples without it, where an option looked at the column.",
    )

    @model_serializer(mode="wrap")
    def _without_nothing(self, plain: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Counts as they are written and printed: without ``lacking`` where nobody looked."""
        body: dict[str, Any] = plain(self)
        if body.get("lacking") is None:
            body.pop("lacking", None)
        return body

    def __add__(self, other: Counts) -> Counts:
        return Counts(
            read=self.read + other.read,
            kept=self.kept + other.kept,
            dropped=_added(self.dropped, other.dropped),
            lacking=_added(self.lacking or {}, other.lacking or {}) or None,
        )


def _added(first: dict[str, int], second: dict[str, int]) -> dict[str, int]:
    names = sorted(first.keys() | second.keys())
    return {name: first.get(name, 0) + second.get(name, 0) for name in names}


class Provenance(_Part):
    """From what, and how, the set was made."""

    captioner: ModelInfo | None = Field(default=None, description="Wrote the captions.")
    encoder: ModelInfo | None = Field(default=None, description="Embedded images for retrieval.")
    index: dict[str, Any] = Field(default_factory=dict, description="Index type and parameters.")
    inputs: list[InputInfo] = Field(default_factory=list, description="Everything that was read.")
    counts: dict[str, Counts] = Field(default_factory=dict, description="By stage.")
    config: dict[str, Any] = Field(default_factory=dict, description="The resolved options.")
    packages: dict[str, str] = Field(default_factory=dict, description="Package to version.")
    parents: list[str] = Field(default_factory=list, description="Digests of the parent sets.")


class Manifest(_Part):
    """The whole of ``anchor_set.json``."""

    format: Literal["anchorft/anchor-set"] = FORMAT_NAME
    format_version: str = Field(
        default=FORMAT_VERSION,
        pattern=r"^1\.(0|[1-9][0-9]*)$",
        description="Major and minor version of the format.",
    )
    name: str = Field(min_length=1, description="What people call the set.")
    digest: Sha256 = Field(description="Identity of the set's data; see set_digest.")
    kinds: list[Kind] = Field(description="Kinds of anchors in the set, each once.")
    samples: int = Field(ge=0, description="Anchors in all shards.")
    classes: list[str] = Field(
        default_factory=list, description="Finetune classes, by class index."
    )
    shards: list[ShardEntry] = Field(description="In the order in which they are read.")
    files: list[FileEntry] = Field(
        default_factory=list, description="The other files: data card, Croissant metadata, gallery."
    )
    provenance: Provenance = Field(description="From what, and how, the set was made.")

    @model_validator(mode="after")
    def _adds_up(self) -> Manifest:
        # Not even in lower case: some file systems take such names for one.
        paths = [entry.path.lower() for entry in self.entries()]
        if len(set(paths)) < len(paths):
            raise ValueError("two of its files have the same path")
        if MANIFEST_NAME in paths:
            raise ValueError("it lists its own path among its files")
        if self.samples != sum(shard.samples for shard in self.shards):
            raise ValueError("samples is not the sum of the shards' samples")
        if not {shard.kind for shard in self.shards} <= set(self.kinds):
            raise ValueError("a shard is of a kind that kinds does not name")
        if len(set(self.kinds)) < len(self.kinds):
            raise ValueError("kinds names a kind twice")
        return self

    def entries(self) -> list[FileEntry]:
        """All files of the set but the manifest: tars and parquets in order, then the others."""
        shards = [file for shard in self.shards for file in (shard, shard.index)]
        return [*shards, *self.files]

    def to_json(self) -> str:
        """The manifest's text: readable, keys sorted, ends in a newline; ``seal`` included."""
        body = self.model_dump(exclude_none=True)
        body["seal"] = seal(body)
        return manifest_text(body)

    @classmethod
    def from_json(cls, text: str | bytes, where: str) -> Manifest:
        """Parse and check a manifest; ``where`` names the file in errors.

        Raises:
            UserError: not JSON, another format, an unknown major version, a field amiss, a
                digest that does not follow from the shards, or a text that was changed.
        """
        try:
            body = json.loads(text, object_pairs_hook=_unique, parse_constant=_refuse)
        except (ValueError, RecursionError) as error:
            raise UserError(
                f"{where} is not valid JSON ({error}); fetch the anchor set again."
            ) from None
        if not isinstance(body, dict) or body.get("format") != FORMAT_NAME:
            raise UserError(
                f"{where} is not the manifest of an anchor set (no format {FORMAT_NAME!r} in it)."
            )
        check_version(str(body.get("format_version")), where)
        sealed = body.pop("seal", None)
        try:
            manifest = cls.model_validate(body)
        except ValidationError as error:
            raise UserError(
                f"{where} does not follow the manifest's schema: {first_error(error)}."
            ) from None
        if not _is_seal(sealed, body):
            raise UserError(f"{where} was changed after it was written (its seal does not fit).")
        if manifest.digest != set_digest(manifest.shards):
            raise UserError(f"{where} has a digest that does not follow from its shards.")
        return manifest


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of JSON. With a name twice it would mean one thing here and another elsewhere."""
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("an object has a name twice")
    return found


def _refuse(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


def manifest_text(body: Any) -> str:
    """The one text of a manifest: two blanks a level, keys sorted, a newline at the end."""
    return json.dumps(body, indent=2, sort_keys=True, ensure_ascii=False) + "\n"


def seal(body: dict[str, Any]) -> str:
    """SHA-256 of the canonical JSON of a manifest without its ``seal``."""
    content = {name: value for name, value in body.items() if name != "seal"}
    return hashlib.sha256(canonical_json(content).encode()).hexdigest()


def _is_seal(sealed: Any, body: dict[str, Any]) -> bool:
    try:
        return bool(sealed == seal(body))
    except ValueError:  # NaN, or half a surrogate pair: no manifest of ours holds such things
        return False


def set_digest(shards: Iterable[ShardEntry]) -> str:
    """Identity of a set's data: SHA-256 over the ``sha256  path`` lines of its tars.

    The lines are sorted by path and look like the output of ``sha256sum``. Name, data card and
    provenance are left out, so equal data has an equal digest whoever built it. So are the
    parquets: they repeat what the tars hold, and their bytes change with the library that writes
    them. They are under the manifest's seal all the same.
    """
    lines = sorted((shard.path, shard.sha256) for shard in shards)
    text = "".join(f"{digest}  {path}\n" for path, digest in lines)
    return hashlib.sha256(text.encode()).hexdigest()


def check_version(version: str, where: str) -> None:
    """Accept our own major version with any minor.

    Raises:
        UserError: another major version, or none at all.
    """
    major = version.partition(".")[0]
    if major != FORMAT_VERSION.partition(".")[0]:
        raise UserError(
            f"{where} has format version {version}, but this anchorft reads "
            f"{FORMAT_VERSION}: use an anchorft that matches, or upgrade the set."
        )
