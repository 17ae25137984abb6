"""Pools of image-text pairs, whatever their layout: tars, lists of files, folders of files."""

from __future__ import annotations

import posixpath
from collections import Counter
from dataclasses import replace
from typing import Any

from schemas.errors import UserError
from schemas.record import IMAGE_EXTENSIONS
from shards import places
from shards.sources.base import ListItem, Source
from shards.sources.files import (
    PATH_COLUMNS,
    FileList,
    below_one_root,
    beside_paths,
    first_of,
    read_list_table,
)
from shards.sources.tar_sets import TarSet, list_tars
from shards.sources.web import CAPTION_COLUMNS, WEB_COLUMNS, lower_case, web_of

_LISTS = (".csv", ".tsv", ".parquet")
_TEXT_COLUMNS = ("caption", "title", "text", "TEXT")


def open_pool(*given: str) -> Source:
    """A pool of image-text pairs.

    Each place is a folder, brace range or glob of tars (as img2dataset writes them, or any
    webdataset of pairs), a CSV, TSV or parquet list of path and caption (open_clip's ``filepath``
    and ``title``), or a folder with ``NAME.txt`` beside ``NAME.jpg`` (img2dataset's
    ``--output_format files``).

    Raises:
        UserError: nothing is there, its layout is none of these, or the places do not go together.
    """
    sources = [source for place in given for source in _open(place)]
    if len(sources) == 1:
        return sources[0]
    place = " ".join(given)
    kinds = {type(source) for source in sources}
    if len(kinds) > 1:
        raise UserError(f"--pool names both tars and lists of files ({place!r}); give one kind.")
    if kinds == {TarSet}:
        tars = [
            _normal(places.join(unit.root, str(unit.tar)))
            for source in sources
            for unit in source.units
        ]
        return TarSet(place, _all_once(tars), [], labelled=False)
    items = [
        replace(item, path=_normal(places.join(unit.root, item.path)))
        for source in sources
        for unit in source.units
        for item in unit.items
    ]
    root = places.common_root(_all_once([item.path for item in items]))
    below = [replace(item, path=places.below(root, item.path)) for item in items]
    return FileList(place, root, below, [])


def _open(place: str) -> list[TarSet] | list[FileList]:
    if place.endswith(_LISTS):
        return [open_pair_list(one) for one in places.expand(place)]
    if places.is_folder(place):
        files = places.list_folder(place)[1]
        if not any(name.endswith(".tar") for name in files):
            return [open_pair_folder(place)]
    return [TarSet(place, list_tars(place), [], labelled=False)]


def _normal(file: str) -> str:
    return posixpath.normpath(file) if places.is_local(file) else file


def _all_once(files: list[str]) -> list[str]:
    """The files, if none is named twice by several places of one pool."""
    file, times = Counter(files).most_common(1)[0]
    if times > 1:
        raise UserError(f"--pool names {file!r} {times} times; name it once.")
    return files


def open_pair_list(place: str) -> FileList:
    """A CSV, TSV or parquet list of image path and caption; paths as in a labelled list.

    Further columns that web releases have (url, similarity, punsafe, ...) are kept.

    Raises:
        UserError: a column or a path is missing.
    """
    table = read_list_table(place, (*PATH_COLUMNS, *CAPTION_COLUMNS, *WEB_COLUMNS))
    path_column = first_of(PATH_COLUMNS, table, place)
    text_column = first_of(_TEXT_COLUMNS, table, place)
    rows = table.to_pylist()
    for number, row in enumerate(rows, start=1):
        if not row[path_column]:
            raise UserError(
                f"{place!r} lacks the {path_column} in row {number} below its header; complete it."
            )
    root, paths = below_one_root(place, [str(row[path_column]) for row in rows])
    items = [
        ListItem(path, text=_text(row[text_column]), web=web_of(lower_case(row)) or None)
        for path, row in zip(paths, rows, strict=True)
    ]
    return FileList(place, root, items, [])


def _text(value: Any) -> str:
    return "" if value is None else str(value)


def open_pair_folder(place: str) -> FileList:
    """Images at any depth of a folder, each with its text in ``NAME.txt`` beside it.

    Raises:
        UserError: it holds no such pair.
    """
    place = posixpath.normpath(place) if places.is_local(place) else place.rstrip("/")
    paths = places.find_files(place)
    images = [path for path in paths if posixpath.splitext(path)[1].lower()[1:] in IMAGE_EXTENSIONS]
    texts = {path for path in paths if path.endswith(".txt")}
    if not any(beside_paths(path)[0] in texts for path in images):
        raise UserError(
            f"{place!r} holds no .tar, and no image with a .txt beside it; name the folder of the "
            f"tars, or of the pairs."
        )
    return FileList(place, place, [ListItem(path, beside=True) for path in images], [])
