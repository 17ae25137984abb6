"""Sources that are lists of image files: an image folder, or a CSV, TSV or parquet list."""

from __future__ import annotations

import csv
import io
import json
import posixpath
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Any

import pyarrow as pa

from schemas.errors import BadSample, UserError
from shards import places
from shards.parquet import MAX_FILE_BYTES, check_claims, read_columns
from shards.sources.base import LIST_SLICE, ListItem, Sample, Unit
from shards.sources.tar_sets import MAX_TEXT_BYTES, class_lines, parse_about
from shards.sources.web import caption_of, lower_case, web_of
from shards.tars import MAX_MEMBER_BYTES, OnBad

MAX_LIST_BYTES = 128 << 20
"""Of a list of images as text: some million lines."""

_NOT_DATA = {"classnames.txt", "classnames.json", "templates.txt"}
_SPLITS = {"train", "val", "valid", "validation", "test"}
PATH_COLUMNS = ("filepath", "path", "image_path", "file", "image")
_LABEL_COLUMNS = ("label", "class", "class_name", "cls", "title", "caption")


class FileList:
    """A list of image files, cut into slices.

    Args:
        place: as the user gave it.
        root: folder that the items' paths are relative to.
        items: the images.
        classes: class names by index; empty for a list of image-text pairs.
        size: images in a slice.
    """

    def __init__(
        self,
        place: str,
        root: str,
        items: list[ListItem],
        classes: list[str],
        *,
        size: int = LIST_SLICE,
    ) -> None:
        self.place = place
        self.classes = classes
        slices = range(0, len(items), size)
        self.units = [
            Unit(
                number=number,
                name=f"images-{number:05d}",
                root=root,
                items=tuple(items[start : start + size]),
            )
            for number, start in enumerate(slices)
        ]

    def read(self, unit: Unit, on_bad: OnBad) -> Iterator[Sample]:
        """The slice's images in order.

        Reasons: ``missing_file``, ``unreadable_file``, ``bad_name``; of labelled images
        ``no_class_folder``; of pairs with metadata beside them ``bad_json``, ``text_too_large``.
        """
        return read_list(unit, on_bad, labelled=bool(self.classes))


def read_list(unit: Unit, on_bad: OnBad, *, labelled: bool) -> Iterator[Sample]:
    """Read a slice of a list of files; see FileList.read."""
    for item in unit.items:
        key = places.printable(item.path)
        if key != item.path:
            on_bad(key, BadSample("bad_name", "the name of the file is not UTF-8"))
            continue
        if labelled and item.class_index is None:
            on_bad(key, BadSample("no_class_folder", f"{item.path} lies outside a class folder"))
            continue
        try:
            image = places.read_limited(places.join(unit.root, item.path), MAX_MEMBER_BYTES)
        except UserError as error:  # or a pipe, or too large to be an image
            on_bad(key, BadSample("missing_file", str(error)))
            continue
        except OSError as error:
            on_bad(key, BadSample("unreadable_file", str(error)))
            continue
        try:
            text, web = _beside(unit.root, item) if item.beside else (item.text, item.web or {})
        except BadSample as problem:
            on_bad(key, problem)
            continue
        # The path with its extension tells a.jpg and a.png apart.
        yield Sample(item.path, item.path, None, len(image), image, item.class_index, text, web)


def beside_paths(path: str) -> tuple[str, str]:
    """The text and the json that lie beside an image."""
    stem = path.rpartition(".")[0]
    return f"{stem}.txt", f"{stem}.json"


def _beside(root: str, item: ListItem) -> tuple[str | None, dict[str, Any]]:
    """Text and web columns from the files beside an image, as img2dataset writes them."""
    found: list[bytes | None] = []
    for path in beside_paths(item.path):
        place = places.join(root, path)
        try:
            found.append(places.read_limited(place, MAX_TEXT_BYTES))
        except (UserError, OSError):
            if places.exists(place):
                raise BadSample("text_too_large", f"{path} cannot be read as a text") from None
            found.append(None)
    text, about = found
    known = {} if about is None else lower_case(parse_about(about, beside_paths(item.path)[1]))
    return (
        caption_of(known) if text is None else text.decode("utf-8", "replace"),
        web_of(known),
    )


def open_image_folder(place: str, classnames: str | None = None) -> FileList:
    """``ROOT/CLASS/**/name.jpg``, as torchvision's ImageFolder: classes are sorted folders.

    Every file that is not hidden counts as an image, so that a broken one is reported and not
    passed over. ``classnames.txt`` or ``.json`` in the root, or the file named, gives folders
    text names.

    Raises:
        UserError: no class folders, one without files, or splits in place of classes.
    """
    place = posixpath.normpath(place) if places.is_local(place) else place.rstrip("/")
    folders, at_root = places.list_folder(place)
    if not folders:
        raise UserError(
            f"{place!r} holds no class folders; an image folder has one folder of images a class."
        )
    if len(folders) > 1 and set(folders) <= _SPLITS:
        raise UserError(
            f"{place!r} holds the splits {', '.join(folders)}, not class folders; give one of them."
        )
    index = {folder: number for number, folder in enumerate(folders)}
    paths = [path for path in places.find_files(place) if path not in _NOT_DATA]
    full = {path.split("/", 1)[0] for path in paths if "/" in path}
    for folder in folders:
        if folder not in full:
            raise UserError(
                f"class folder {places.join(place, folder)!r} is empty; add images or remove it."
            )
    items = [
        ListItem(path, index[path.split("/", 1)[0]] if "/" in path else None)
        for path in paths
        if "/" in path or PurePosixPath(path).suffix.lower() in {".jpg", ".jpeg", ".png", ".webp"}
    ]
    if classnames is None:
        beside = [name for name in ("classnames.txt", "classnames.json") if name in at_root]
        classnames = places.join(place, beside[0]) if beside else None
    names = folder_names(classnames, folders) if classnames else folders
    return FileList(place, place, items, [name.replace("_", " ") for name in names])


def folder_names(place: str, folders: list[str]) -> list[str]:
    """Text names for class folders, from a file.

    JSON: an object of folder to name, or an array in folder order. Text: one ``folder<blank>name``
    a line, or one name a line in folder order. (ImageNet: ``n01440764 tench``.)

    Raises:
        UserError: the file names a folder that is not there, or leaves one out.
    """
    text = places.read_text(place)
    if place.endswith(".json"):
        try:
            content = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise UserError(f"{place!r} is not valid JSON ({error}).") from None
        if not isinstance(content, dict | list):
            raise UserError(f"{place!r} is neither an object of class names nor an array of them.")
        mapping = content if isinstance(content, dict) else None
        lines = [] if mapping is not None else [str(name) for name in content]
    else:
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        pairs = [line.split(None, 1) for line in lines]
        keyed = all(len(pair) == 2 for pair in pairs) and any(p[0] in folders for p in pairs)
        mapping = {pair[0]: pair[1] for pair in pairs} if keyed else None
    if mapping is None:
        if len(lines) != len(folders):
            raise UserError(
                f"{place!r} has {len(lines)} class names for {len(folders)} class folders; "
                f"give one a folder."
            )
        return lines
    absent = sorted(set(mapping) - set(folders))
    if absent:
        raise UserError(f"{place!r} names class folder {absent[0]!r}, which is not there.")
    unnamed = [folder for folder in folders if folder not in mapping]
    if unnamed:
        raise UserError(f"{place!r} has no name for class folder {unnamed[0]!r}; add a line.")
    return [str(mapping[folder]) for folder in folders]


def open_table(place: str, classnames: str | None = None) -> FileList:
    """A CSV, TSV or parquet list of image path and label.

    Paths are absolute, or relative to the list; the source's root is the list's folder, or the
    deepest folder that holds all images if some lie outside it.

    The path column is the first of filepath, path, image_path, file, image; the label column
    the first of label, class, class_name, cls, title, caption (open_clip's and FLYP's lists have
    ``filepath`` and ``title``). A label is a class name, or an integer into ``classnames``.

    Raises:
        UserError: a column or a value is missing, or an integer label has no class name.
    """
    table = read_list_table(place, (*PATH_COLUMNS, *_LABEL_COLUMNS))
    path_column = first_of(PATH_COLUMNS, table, place)
    label_column = first_of(_LABEL_COLUMNS, table, place)
    paths, labels = table[path_column].to_pylist(), table[label_column].to_pylist()
    for row, values in enumerate(zip(paths, labels, strict=True), start=1):
        if values[0] in (None, "") or values[1] in (None, ""):
            raise UserError(
                f"{place!r} lacks the {path_column} or the {label_column} in row {row} below its "
                f"header; complete it."
            )
    names = [str(label) for label in labels]
    classes = class_lines(classnames) if classnames else sorted(set(names))
    if not classnames and all(name.isdecimal() for name in classes):
        raise UserError(
            f"{place!r} has integer labels and so needs class names; give a file of them, one a "
            f"line, as --classnames."
        )
    index = {name: number for number, name in enumerate(classes)}
    root, relative = below_one_root(place, [str(path) for path in paths])
    items = []
    for path, name in zip(relative, names, strict=True):
        number = index.get(name)
        if number is None and name.isdecimal() and int(name) < len(classes):
            number = int(name)
        if number is None:
            raise UserError(
                f"{place!r}: label {name!r} of {path!r} is not among the {len(classes)} class "
                f"names; correct the list or the class names."
            )
        items.append(ListItem(path, number))
    return FileList(place, root, items, classes)


def below_one_root(place: str, paths: list[str]) -> tuple[str, list[str]]:
    """The root of a list's images, and their paths relative to it."""
    folder = places.parent_and_name(place)[0]
    if places.is_local(place):
        folder = posixpath.normpath(folder)
    full = [
        path
        if "://" in path
        else posixpath.normpath(posixpath.join(folder, path))
        if places.is_local(place)
        else places.join(folder, path)
        for path in paths
    ]
    inside = all(folder == "." or path.startswith(folder.rstrip("/") + "/") for path in full)
    climbs = any(path.startswith(("/", "../")) for path in full) and folder == "."
    root = folder if inside and not climbs else places.common_root(full)
    return root, [places.below(root, path) for path in full]


def read_list_table(place: str, columns: tuple[str, ...]) -> pa.Table:
    """A CSV, TSV or parquet list; of a parquet, those of the columns that it has.

    Raises:
        UserError: it has no rows, or does not read.
    """
    if place.endswith(".parquet"):
        data = places.read_limited(place, MAX_FILE_BYTES)
        names = check_claims(data, place)
        wanted = {column.lower() for column in columns}
        known = [name for name in names if name.lower() in wanted]
        # Without a column that we know, all are named in the error.
        table = read_columns(data, place, known or names)
    else:
        text = places.read_text(place, MAX_LIST_BYTES)
        delimiter = "\t" if place.endswith(".tsv") or "\t" in text.split("\n", 1)[0] else ","
        reader = csv.DictReader(io.StringIO(text), delimiter=delimiter)
        header = list(reader.fieldnames or [])
        rows = list(reader)
        table = pa.table({name: pa.array([row[name] for row in rows]) for name in header})
    if not table.num_rows:
        raise UserError(f"{place!r} has no rows below its header.")
    return table


def first_of(wanted: tuple[str, ...], table: pa.Table, place: str) -> str:
    """The first of the columns that a list has.

    Raises:
        UserError: it has none of them.
    """
    for name in wanted:
        if name in table.column_names:
            return name
    raise UserError(
        f"{place!r} has the columns {', '.join(table.column_names)}, "
        f"but none of {', '.join(wanted)}."
    )
