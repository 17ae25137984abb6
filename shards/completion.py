"""The end of every set: what people read beside the shards, then the manifest."""

from __future__ import annotations

from schemas.manifest import Manifest
from shards.card import data_card
from shards.gallery import gallery_of_set
from shards.writer import write_file, write_manifest

GALLERY_ANCHORS = 600
"""Anchors shown on the page that every set carries."""


def complete_set(root: str, manifest: Manifest) -> Manifest:
    """Write data card and gallery of a set whose shards are all there, and the manifest last.

    Args:
        root: folder of the set.
        manifest: with its shards; ``files`` is filled in.

    Returns:
        The manifest as written.
    """
    card = write_file(root, "README.md", data_card(manifest).encode())
    page = gallery_of_set(root, manifest, limit=GALLERY_ANCHORS)
    gallery = write_file(root, "gallery.html", page)
    manifest = manifest.model_copy(update={"files": [card, gallery]})
    write_manifest(root, manifest)
    return manifest
