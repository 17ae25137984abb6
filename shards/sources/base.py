"""What every source of images looks like to the rest: units of work that yield samples."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol

from schemas.errors import BadSample
from shards.tars import OnBad

LIST_SLICE = 1000
"""Images in one unit of a source that is a list of files."""


@dataclass(frozen=True, slots=True)
class ListItem:
    """One image of a list.

    Attributes:
        path: below the root.
        class_index: of a labelled list; None if the image lies outside every class.
        text: of a list of pairs.
        beside: text and metadata lie in ``NAME.txt`` and ``NAME.json`` beside the image.
        web: what the list says of the pair, under the names of schemas.tables.WEB_FIELDS.
    """

    path: str
    class_index: int | None = None
    text: str | None = None
    beside: bool = False
    web: dict[str, Any] | None = None


@dataclass(frozen=True)
class Unit:
    """A tar, or a slice of a list of files: what one Beam element or one loader reads.

    Attributes:
        number: position among the source's units; outputs are named after it.
        name: for people and manifests: relative to the root.
        root: the source's root folder; with it, ``source`` paths become places.
        tar: the tar below the root, or None for a slice of a list.
        items: the slice of a list; empty for a tar.
        listed: where a pipeline keeps the items of a unit that goes about without them: a file
            and the number of the slice.
    """

    number: int
    name: str
    root: str
    tar: str | None = None
    items: tuple[ListItem, ...] = ()
    listed: tuple[str, int] | None = None


@dataclass(frozen=True)
class Sample:
    """One image as a source holds it, its bytes not yet looked at.

    Attributes:
        source: file below the root (the tar, or the image itself).
        source_key: the sample's key in that file (for a list of files: its path again).
        offset: where the image's bytes start in ``source``; None if the file is the image.
        size: of the image in bytes.
        image: the original bytes.
        class_index: of the finetune class, if the source is labelled.
        text: caption that came with the image, if any.
        web: url, license, nsfw, ... under the names of schemas.tables.WEB_FIELDS.
    """

    source: str
    source_key: str
    offset: int | None
    size: int
    image: bytes = field(repr=False)
    class_index: int | None = None
    text: str | None = None
    web: dict[str, Any] = field(default_factory=dict)


class Source(Protocol):
    """Images in units. Labelled sources have class names; the others an empty list."""

    place: str
    units: list[Unit]
    classes: list[str]

    def read(self, unit: Unit, on_bad: OnBad) -> Iterator[Sample]:
        """The unit's samples in order; what cannot be read is told to ``on_bad``."""
        ...


def raise_bad(key: str, problem: BadSample) -> None:
    """An OnBad for strict readers: the first bad sample ends the reading."""
    raise BadSample(problem.reason, f"{key}: {problem.detail}")
