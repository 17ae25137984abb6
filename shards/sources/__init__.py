"""Everything that images are read from, one file a kind; all look like ``base.Source``.

``open_labelled`` finds out which layout a place has; ``open_pool`` is for image-text pairs.
"""

from __future__ import annotations

from schemas.errors import UserError
from shards import places
from shards.sources.base import ListItem, Sample, Source, Unit, raise_bad
from shards.sources.embeddings import open_embeddings
from shards.sources.files import open_image_folder, open_table
from shards.sources.pools import open_pool
from shards.sources.tar_sets import list_tars, open_labelled_tars

__all__ = [
    "ListItem",
    "Sample",
    "Source",
    "Unit",
    "list_tars",
    "open_embeddings",
    "open_image_folder",
    "open_labelled",
    "open_labelled_tars",
    "open_pool",
    "open_table",
    "raise_bad",
]


def open_labelled(place: str, classnames: str | None = None, split: str | None = None) -> Source:
    """Open labelled images, whatever their layout.

    Args:
        place: an image folder, labelled webdataset tars (folder, brace range, glob, or the root
            of CLIP_benchmark's layout), or a CSV, TSV or parquet list.
        classnames: file of class names, where the layout's own is not wanted.
        split: ``train`` or ``test`` of CLIP_benchmark's layout.

    Raises:
        UserError: nothing is there, or its layout is none of these.
    """
    if place.endswith((".csv", ".tsv", ".parquet")):
        return open_table(place, classnames)
    if not places.exists(place):
        if place.endswith(".tar") or any(character in place for character in "{*?["):
            return open_labelled_tars(place, classnames, split)
        raise UserError(f"{place!r} is not there; check the path.")
    if place.endswith(".tar") and not places.is_folder(place):
        return open_labelled_tars(place, classnames, split)
    if not places.is_folder(place):
        raise UserError(f"{place!r} is neither a folder nor a .tar, .csv, .tsv or .parquet file.")
    folders, files = places.list_folder(place)
    if any(name.endswith(".tar") for name in files):
        return open_labelled_tars(place, classnames, split)
    for folder in folders:
        if folder in ("train", "test"):
            inside = places.list_folder(places.join(place, folder))[1]
            if any(name.endswith(".tar") for name in inside):
                return open_labelled_tars(place, classnames, split)
    return open_image_folder(place, classnames)


def read_unit(source: Source, unit: Unit) -> list[Sample]:
    """All samples of a unit, strictly; for small data."""
    return list(source.read(unit, raise_bad))
