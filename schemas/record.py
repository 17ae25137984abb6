"""The record of one anchor: what ``KEY.json`` in a shard and a row of its parquet hold."""

from __future__ import annotations

import hashlib
import json
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from schemas.errors import BadSample

TEXT_COMPENSATED: Literal["text-compensated"] = "text-compensated"
IMAGE_TEXT_PAIR: Literal["image-text-pair"] = "image-text-pair"
Kind = Literal["text-compensated", "image-text-pair"]
KINDS: tuple[Kind, ...] = (TEXT_COMPENSATED, IMAGE_TEXT_PAIR)
KEY_PREFIX: dict[str, str] = {TEXT_COMPENSATED: "tc", IMAGE_TEXT_PAIR: "itp"}

# Member extensions that webdataset, open_clip and PIL all read without being told how.
IMAGE_EXTENSIONS: tuple[str, ...] = ("jpg", "jpeg", "png", "webp")

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
# KEY.json and KEY.jpeg then take at most 100 bytes, which is what one tar header has room for.
Key = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,95}$")]
_CANONICAL = json.JSONEncoder(
    sort_keys=True, ensure_ascii=False, separators=(",", ":"), allow_nan=False
)
SINCE_1_0: tuple[str, ...] = ("clip_score",)
"""Fields that a later minor version has added, which readers of 1.0 do not know."""
_INT32 = 2**31 - 1  # the parquet's columns hold no more


class AnchorRecord(BaseModel):
    """One anchor: an image, the rich text that goes with it, and where both came from.

    Fields that are None do not apply to the record's kind, or were not in its source. Unknown
    fields are kept, so that a newer minor version passes through an older reader unharmed.
    """

    model_config = ConfigDict(extra="allow", frozen=True, allow_inf_nan=False)

    key: Key = Field(description="Unique in the set; no path, no dot.")
    kind: Kind = Field(description="Which kind of anchor this is.")
    image_sha256: Sha256 = Field(description="SHA-256 of the image file's bytes.")
    image_ext: Literal["jpg", "jpeg", "png", "webp"] = Field(
        description="Extension of the image member; its bytes are those of the source."
    )
    width: int = Field(gt=0, le=_INT32, description="Pixels as stored, before any EXIF rotation.")
    height: int = Field(
        gt=0, le=_INT32, description="Pixels, as stored (before any EXIF rotation)."
    )
    text: str = Field(min_length=1, description="The anchor's text; the same as KEY.txt.")
    texts: list[str] = Field(
        default_factory=list, description="All captions of the image, text first, if several."
    )
    source: str = Field(
        description="The file of the source, relative to the source's root.",
        json_schema_extra={"pattern": r"^(?![/\\])(?!(.*/)?\.\.(/|$))"},
    )
    source_key: str = Field(description="The sample's key in that file.")
    class_index: int | None = Field(
        default=None,
        ge=0,
        le=_INT32,
        description="text-compensated: index of the finetune class in the manifest's classes.",
    )
    class_name: str | None = Field(
        default=None, description="text-compensated: text name of the finetune class."
    )
    score: float | None = Field(
        default=None, description="image-text-pair: best cosine similarity to a query."
    )
    rank: int | None = Field(
        default=None,
        ge=0,
        le=_INT32,
        description="image-text-pair: best rank among a query's neighbours; 0 is the nearest.",
    )
    query_count: int | None = Field(
        default=None,
        ge=1,
        le=_INT32,
        description="image-text-pair: how many queries retrieved it.",
    )
    query_classes: list[str] = Field(
        default_factory=list, description="image-text-pair: classes of those queries, sorted."
    )
    clip_score: float | None = Field(
        default=None,
        description="Cosine similarity of the image and the text, by the set's encoder.",
    )
    url: str | None = Field(default=None, description="Original address of the image.")
    license: str | None = Field(default=None, description="LICENSE of the source, as given.")
    nsfw: str | None = Field(default=None, description="NSFW of the source, as given.")
    punsafe: float | None = Field(default=None, description="punsafe of the source.")
    pwatermark: float | None = Field(default=None, description="pwatermark of the source.")
    similarity: float | None = Field(
        default=None, description="Image-text similarity that the source recorded."
    )
    language: str | None = Field(default=None, description="LANGUAGE of the source.")

    @field_validator("source")
    @classmethod
    def _source_is_relative(cls, value: str) -> str:
        if value.startswith(("/", "\\")) or ".." in value.split("/"):
            raise ValueError("source must be relative and must not climb out of its root")
        return value

    @model_validator(mode="after")
    def _fields_fit_the_kind(self) -> AnchorRecord:
        if self.kind == IMAGE_TEXT_PAIR and (self.score is None or self.rank is None):
            raise ValueError("an image-text-pair record needs score and rank")
        if self.model_extra:
            canonical_json(self.model_extra)  # raises where JSON has no such value (NaN)
        if self.kind == TEXT_COMPENSATED and self.class_name is None:
            raise ValueError("a text-compensated record needs class_name")
        return self

    def to_json(self) -> str:
        """Canonical JSON: sorted keys, no None, no blanks, UTF-8 characters kept."""
        return canonical_json(self.model_dump(exclude_none=True))

    @classmethod
    def from_json(cls, text: str | bytes) -> AnchorRecord:
        """Parse ``KEY.json``.

        Raises:
            BadSample: ``bad_record``, with the first thing that is wrong.
        """
        try:
            return cls.model_validate_json(text)
        except ValidationError as error:
            raise BadSample("bad_record", first_error(error)) from None


def canonical_json(value: Any) -> str:
    """The one JSON text of a value: sorted keys, no blanks, no NaN."""
    return _CANONICAL.encode(value)


def first_error(error: ValidationError) -> str:
    """The first of pydantic's complaints as ``field: complaint``."""
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"]) or "record"
    return f"{where}: {first['msg']}"


def anchor_key(kind: Kind, image_sha256: str, source: str, source_key: str) -> str:
    """The key of an anchor, a pure function of what it is made from.

    Being free of positions it survives resharding, and two builds that hold the same sample
    give it the same key. 96 bits of SHA-256: a collision among 10^9 anchors has odds of 10^-11.
    """
    text = "\0".join((image_sha256, source, source_key))
    return f"{KEY_PREFIX[kind]}-{hashlib.sha256(text.encode()).hexdigest()[:24]}"
