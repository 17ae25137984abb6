"""Sources that are webdataset tars: labelled images, and image-text pairs as img2dataset writes."""

from __future__ import annotations

import itertools
import json
import posixpath
from collections.abc import Callable, Iterator
from typing import Any

from schemas.errors import BadSample, UserError
from schemas.record import IMAGE_EXTENSIONS
from shards import places
from shards.sources.base import Sample, Unit
from shards.sources.beside import Beside, read_beside
from shards.sources.web import caption_of, lower_case, web_of
from shards.tars import OnBad, TarSample, read_tar

MAX_TEXT_BYTES = 4 << 20
"""Of a caption, a label or a json member; parsed, the last can take thirty times its bytes."""

_LABEL_FIELDS = ("label", "cls", "class", "class_index")
_PEEK = 16
"""Samples that are looked at to tell whether a tar has a json with each."""
_PEEK_BYTES = 32 << 20


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
        ``bad_json``, ``missing_json``, ``bad_parquet``, ``text_too_large``.
        """
        assert unit.tar is not None
        if self.labelled:
            return read_unit_tar(unit, on_bad, len(self.classes))
        beside = read_beside(places.join(unit.root, unit.tar), on_bad)
        return read_unit_tar(unit, on_bad, None, beside=beside)


def read_unit_tar(
    unit: Unit,
    on_bad: OnBad,
    classes: int | None,
    *,
    want: Callable[[str], bool] | None = None,
    beside: Beside | None = None,
) -> Iterator[Sample]:
    """Read a tar.

    Args:
        unit: the tar.
        on_bad: told of every sample that cannot be used.
        classes: the number of classes of a labelled tar, else None.
        want: says which fields to read; without the image's, samples come with offset and size
            but no bytes.
        beside: of a tar of pairs, what the parquet beside it says where the sample does not.
    """
    assert unit.tar is not None
    samples = read_tar(places.join(unit.root, unit.tar), on_bad, want=want)
    first, json_due = _peek(samples) if classes is None else ([], False)
    for raw in itertools.chain(first, samples):
        json_due = json_due or (classes is None and "json" in raw.fields)
        try:
            yield _sample(raw, unit.tar, classes, json_due, beside)
        except BadSample as problem:
            on_bad(raw.key, problem)


def _peek(samples: Iterator[TarSample]) -> tuple[list[TarSample], bool]:
    """The first samples of a tar of pairs, and whether each of its samples should have a json.

    Where others have one, a sample without has lost it; but a tar may have none at all.
    """
    first: list[TarSample] = []
    size = 0
    for raw in samples:
        first.append(raw)
        size += sum(map(len, raw.fields.values()))
        if "json" in raw.fields:
            return first, True
        if len(first) == _PEEK or size > _PEEK_BYTES:
            break
    return first, False


def _sample(
    raw: TarSample, tar: str, classes: int | None, json_due: bool, beside: Beside | None
) -> Sample:
    ext = next((ext for ext in IMAGE_EXTENSIONS if ext in raw.fields), None)
    if ext is None:
        raise BadSample("no_image", f"{raw.key} has {', '.join(sorted(raw.fields))}")
    offset, size = raw.ranges[ext]
    for name in ("json", "txt", "cls"):
        if len(raw.fields.get(name, b"")) > MAX_TEXT_BYTES:
            raise BadSample("text_too_large", f"{raw.key}.{name} is over {MAX_TEXT_BYTES:,} bytes")
    about: dict[str, Any] = {}
    if "json" in raw.fields:
        about = parse_about(raw.fields["json"], f"{raw.key}.json")
    elif json_due:
        raise BadSample("missing_json", f"{raw.key} has no json, as others in {tar} have")
    elif beside is not None and raw.key not in beside.rows:
        raise BadSample(
            "missing_json", f"{raw.key} has no json, and no row in the parquet beside {tar}"
        )
    label = None if classes is None else _label(raw, about, classes)
    known = lower_case(about)
    if beside is not None:
        known = beside.rows.get(raw.key, {}) | known
    text = raw.fields["txt"].decode("utf-8", "replace") if "txt" in raw.fields else None
    if text is None:
        text = caption_of(known)
    return Sample(tar, raw.key, offset, size, raw.fields[ext], label, text, web_of(known))


def parse_about(data: bytes, name: str) -> dict[str, Any]:
    """The metadata in a sample's json.

    Raises:
        BadSample: ``bad_json``.
    """
    try:
        about = json.loads(data)
        if not isinstance(about, dict):
            raise ValueError("not an object")
    except (ValueError, UnicodeDecodeError, RecursionError) as error:
        raise BadSample("bad_json", f"{name}: {error}") from None
    return about


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
