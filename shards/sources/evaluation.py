"""Images of an evaluation set, labels or not: what an anchor set must hold no copy of."""

from __future__ import annotations

import posixpath

from schemas.errors import UserError
from schemas.record import IMAGE_EXTENSIONS
from shards import places
from shards.sources.base import ListItem, Source
from shards.sources.files import PATH_COLUMNS, FileList, below_one_root, first_of, read_list_table
from shards.sources.tar_sets import TarSet, list_tars


def open_evaluation(place: str) -> Source:
    """Open images without their labels.

    Args:
        place: a folder of images at any depth, of webdataset tars, or CLIP_benchmark's root (its
            test split, if it has one); a brace range or glob of tars; a CSV, TSV or parquet list
            with a column of paths.

    Raises:
        UserError: nothing is there, or it holds no images.
    """
    if place.endswith((".csv", ".tsv", ".parquet")):
        return _open_list(place)
    if not places.is_folder(place):
        if not place.endswith(".tar"):
            raise UserError(f"{place!r} is neither a folder of images nor a tar; check the path.")
        return TarSet(place, list_tars(place), [], labelled=False)
    folders, files = places.list_folder(place)
    for folder in (place, *(places.join(place, s) for s in ("test", "train") if s in folders)):
        names = files if folder == place else places.list_folder(folder)[1]
        if any(name.endswith(".tar") for name in names):
            return TarSet(place, list_tars(folder), [], labelled=False)
    root = posixpath.normpath(place) if places.is_local(place) else place.rstrip("/")
    items = [
        ListItem(path)
        for path in places.find_files(root)
        if posixpath.splitext(path)[1].lower()[1:] in IMAGE_EXTENSIONS
    ]
    if not items:
        raise UserError(
            f"{place!r} holds neither images ({', '.join(IMAGE_EXTENSIONS)}) nor tars; check the "
            f"path."
        )
    return FileList(place, root, items, [])


def _open_list(place: str) -> FileList:
    table = read_list_table(place, PATH_COLUMNS)
    column = first_of(PATH_COLUMNS, table, place)
    given = [str(path) for path in table[column].to_pylist() if path]
    if not given:
        raise UserError(f"{place!r} names no images in its column {column}; complete it.")
    root, paths = below_one_root(place, given)
    return FileList(place, root, [ListItem(path) for path in paths], [])
