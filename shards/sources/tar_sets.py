"""Sources that are webdataset tars: labelled images, and image-text pairs as img2dataset writes."""

from __future__ import annotations

import json
import math
import posixpath
from collections.abc import Callable, Iterator
from typing import Any

from schemas.errors import BadSample, UserError
from schemas.record import IMAGE_EXTENSIONS
from shards import places
from shards.sources.base import Sample, Unit
from shards.tars import OnBad, TarSample, read_tar

MAX_TEXT_BYTES = 4 << 20
"""Of a caption, a label or a json member; parsed, the last can take thirty times its bytes."""

_LABEL_FIELDS = ("label", "cls", "class", "class_index")
# Our name for a web column, and the names that LAION releases and img2dataset give it.
_WEB_NAMES: dict[str, tuple[str, ...]] = {
    "url": ("url", "URL"),
    "license": ("LICENSE", "license"),
    "nsfw": ("NSFW", "nsfw"),
    "punsafe": ("punsafe",),
    "pwatermark": ("pwatermark",),
    "similarity": ("similarity", "SIMILARITY"),
    "language": ("LANGUAGE", "language"),
}
_NUMBERS = {"punsafe", "pwatermark", "similarity"}


class TarSet:
    """Tars under one root, each a unit."""

    def __init__(self, place: str, tars: list[str], classes: list[str], *, labelled: bool) -> None:
        self.place = place
        self.classes = classes
        self.labelled = labelled
        root = places.common_root(tars)
        self.units = [
            Unit(number=number, name=name, root=root, tar=name)
            for number, name in enumerate(places.below(root, tar) for tar in tars)
        ]

    def read(self, unit: Unit, on_bad: OnBad) -> Iterator[Sample]:
        """The tar's samples in order.

        Reasons, beside those of shards.tars: ``no_image``, ``no_label``, ``bad_label``,
        ``bad_json``, ``text_too_large``.
        """
        classes = len(self.classes) if self.labelled else None
        return read_unit_tar(unit, on_bad, classes)


def read_unit_tar(
    unit: Unit,
    on_bad: OnBad,
    classes: int | None,
    *,
    want: Callable[[str], bool] | None = None,
) -> Iterator[Sample]:
    """Read a tar; ``classes`` is the number of classes of a labelled one, else None.

    ``want`` says which fields to read; without the image's, samples come with offset and size
    but no bytes.
    """
    assert unit.tar is not None
    for raw in read_tar(places.join(unit.root, unit.tar), on_bad, want=want):
        try:
            yield _sample(raw, unit.tar, classes)
        except BadSample as problem:
            on_bad(raw.key, problem)


def _sample(raw: TarSample, tar: str, classes: int | None) -> Sample:
    ext = next((ext for ext in IMAGE_EXTENSIONS if ext in raw.fields), None)
    if ext is None:
        raise BadSample("no_image", f"{raw.key} has {', '.join(sorted(raw.fields))}")
    offset, size = raw.ranges[ext]
    for name in ("json", "txt", "cls"):
        if len(raw.fields.get(name, b"")) > MAX_TEXT_BYTES:
            raise BadSample("text_too_large", f"{raw.key}.{name} is over {MAX_TEXT_BYTES:,} bytes")
    about: dict[str, Any] = {}
    if "json" in raw.fields:
        try:
            about = json.loads(raw.fields["json"])
            if not isinstance(about, dict):
                raise ValueError("not an object")
        except (ValueError, UnicodeDecodeError, RecursionError) as error:
            raise BadSample("bad_json", f"{raw.key}.json: {error}") from None
    label = None if classes is None else _label(raw, about, classes)
    return Sample(
        tar, raw.key, offset, size, raw.fields[ext], label, _text(raw, about), _web(about)
    )


def _label(raw: TarSample, about: dict[str, Any], classes: int) -> int:
    value: Any = raw.fields.get("cls")
    if value is None:
        value = next((about[name] for name in _LABEL_FIELDS if name in about), None)
    if value is None:
        raise BadSample("no_label", f"{raw.key} has no cls member and no label in its json")
    try:
        label = int(value)
        if isinstance(value, bool) or label != float(value):
            raise ValueError("not whole")
    except (TypeError, ValueError, OverflowError):
        raise BadSample("bad_label", f"{raw.key}: {value!r} is not an integer") from None
    if not 0 <= label < classes:
        raise BadSample("bad_label", f"{raw.key}: {label} is not one of {classes} classes")
    return label


def _text(raw: TarSample, about: dict[str, Any]) -> str | None:
    if "txt" in raw.fields:
        return raw.fields["txt"].decode("utf-8", errors="replace")
    caption = next((about[name] for name in ("caption", "TEXT") if about.get(name)), None)
    return None if caption is None else _clean(caption)


def _clean(value: Any) -> str:
    """A JSON value as text. JSON can hold half a surrogate pair, which no file can."""
    return str(value).encode("utf-8", "replace").decode()


def _web(about: dict[str, Any]) -> dict[str, Any]:
    web: dict[str, Any] = {}
    for name, columns in _WEB_NAMES.items():
        value = next((about[c] for c in columns if about.get(c) is not None), None)
        if value is None:
            continue
        if name not in _NUMBERS:
            web[name] = _clean(value)
            continue
        try:
            number = float(value)
        except (TypeError, ValueError, OverflowError):
            continue  # a score that is no number says nothing
        if math.isfinite(number):
            web[name] = number
    return web


def list_tars(place: str) -> list[str]:
    """The tars that a folder, brace range or glob names, sorted within each.

    Raises:
        UserError: none, or one that is not there.
    """
    if places.is_folder(place):
        names = [name for name in places.list_folder(place)[1] if name.endswith(".tar")]
        if not names:
            raise UserError(f"{place!r} holds no .tar; name the folder of the tars.")
        folder = posixpath.normpath(place) if places.is_local(place) else place
        return [places.join(folder, name) for name in names]
    tars = places.expand(place)
    for tar in tars:
        if not places.exists(tar):
            raise UserError(f"{tar!r} is not there; check the path given as {place!r}.")
    return tars


def open_labelled_tars(
    place: str, classnames: str | None = None, split: str | None = None
) -> TarSet:
    """Tars with an image and a ``cls`` (or json label) member; class names beside them.

    ``place`` is a folder of tars, a brace range, a glob, or the root of CLIP_benchmark's layout,
    ``ROOT/{train,test}/N.tar`` with ``ROOT/classnames.txt``.

    A root with both splits is read as ``train``, unless ``split`` says otherwise.

    Raises:
        UserError: no tars, no such split, or no class names.
    """
    folder = place if places.is_folder(place) else places.parent_and_name(place)[0]
    tars_in = place
    if places.is_folder(place):
        splits = [name for name in places.list_folder(place)[0] if name in ("train", "test")]
        if splits:
            chosen = split or ("train" if "train" in splits else splits[0])
            if chosen not in splits:
                raise UserError(f"{place!r} has no {chosen!r} split, only {', '.join(splits)}.")
            tars_in = places.join(place, chosen)
    tars = list_tars(tars_in)
    # 0.tar, 1.tar, ..., 10.tar in their numbers' order
    tars.sort(key=lambda tar: (len(posixpath.basename(tar)), tar))
    if classnames is None:
        candidates = [
            places.join(where, "classnames.txt")
            for where in (
                folder,
                places.parent_and_name(tars[0])[0],
                places.parent_and_name(folder)[0],
            )
        ]
        classnames = next((c for c in candidates if places.exists(c)), None)
        if classnames is None:
            raise UserError(
                f"{place!r} has no classnames.txt beside its tars; add one name a line."
            )
    classes = class_lines(classnames)
    return TarSet(place, tars, classes, labelled=True)


def class_lines(place: str) -> list[str]:
    """Class names, one a line.

    Raises:
        UserError: the file is not there, or holds none.
    """
    classes = [line.strip() for line in places.read_text(place).splitlines() if line.strip()]
    if not classes:
        raise UserError(f"{place!r} holds no class names; write one a line.")
    return classes


def open_pool(place: str) -> TarSet:
    """A pool of image-text pairs: tars as img2dataset writes them (any webdataset of pairs).

    Raises:
        UserError: no tars, or one that is not there.
    """
    return TarSet(place, list_tars(place), [], labelled=False)
