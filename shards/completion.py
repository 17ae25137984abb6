"""The end of every set: what people and other loaders read beside the shards, then the manifest."""

from __future__ import annotations

from schemas.manifest import Manifest
from shards.showing.card import data_card
from shards.showing.croissant import CROISSANT_NAME, croissant
from shards.showing.gallery import gallery_of_set
from shards.writer import write_file, write_manifest

GALLERY_ANCHORS = 600
"""Anchors shown on the page that every set carries."""


def complete_set(root: str, manifest: Manifest, *, gallery: int = GALLERY_ANCHORS) -> Manifest:
    """Write what goes beside the shards of a set, which are all there, and the manifest last.

    That is the data card, Croissant metadata and the gallery.

    Args:
        root: folder of the set.
        manifest: with its shards; ``files`` is filled in.
        gallery: anchors shown in the gallery; 0 makes a set without one.

    Returns:
        The manifest as written.
    """
    files = [
        write_file(root, "README.md", data_card(manifest).encode()),
        write_file(root, CROISSANT_NAME, croissant(manifest).encode()),
    ]
    if gallery:
        page = gallery_of_set(root, manifest, limit=gallery)
        files.append(write_file(root, "gallery.html", page))
    manifest = manifest.model_copy(update={"files": files})
    write_manifest(root, manifest)
    return manifest
