"""What a place or a set from outside may not do: run a command, leave its folder, fill memory."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable

from schemas.errors import UserError

MAX_MANIFEST_BYTES = 32 << 20
"""A manifest of 50,000 shards has half of this; as Python objects it takes ten times its size."""

# Wrappers that open further URLs which are named inside other files, or hand work to others.
_REFUSED = {"reference", "generic", "dask", "jupyter", "jlab"}


def check_place(place: str) -> None:
    """Refuse what no path and no URL of a store looks like.

    Raises:
        UserError: a shell command, a chain of URLs, or a character that no path holds.
    """
    if "\0" in place:
        raise UserError(f"{place!r} is not a path: it holds a NUL.")
    protocol = place.partition(":")[0].strip().lower()
    if protocol == "pipe":
        raise UserError(f"{place!r} would run a shell command; give a path or an fsspec URL.")
    if "://" not in place or place.startswith(("file://", "local://")):
        return
    if "::" in place or protocol in _REFUSED:
        raise UserError(
            f"{place!r} is a chain of URLs, of which one opens another; give the URL of the file."
        )


def check_regular(place: str, path: str) -> None:
    """Refuse a local pipe or device, whose bytes may never come or never end.

    Raises:
        UserError: it is one. What is not there is left to the caller.
    """
    try:
        mode = os.stat(path).st_mode  # noqa: PTH116  a Path would be slower, and this is per file
    except (OSError, ValueError):
        return
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        raise UserError(f"{place!r} is a pipe, a socket or a device, not a file; remove it.")


def check_inside(root: str, paths: Iterable[str]) -> None:
    """Refuse files of a set in a local folder that are not in that folder, or are no files.

    Links are followed as the system would, so it is the file that counts. A snapshot in the
    cache of huggingface_hub, whose files are links to its ``blobs``, is let through.

    Args:
        root: a local folder.
        paths: relative paths, already checked by the manifest's schema; some may be missing.

    Raises:
        UserError: one leads out of the folder, or is a pipe or a device.
    """
    real_root = os.path.realpath(root)
    inside = [real_root]
    if os.path.basename(os.path.dirname(real_root)) == "snapshots":  # noqa: PTH119, PTH120
        inside.append(os.path.join(real_root, "..", "..", "blobs"))  # noqa: PTH118
    allowed = tuple(os.path.realpath(folder) + os.sep for folder in inside)
    for path in paths:
        place = f"{root.rstrip('/') or '/'}/{path}"
        real = os.path.realpath(place)
        if not real.startswith(allowed):
            raise UserError(
                f"{place!r} is a link that leads out of the set's folder; fetch the set again with "
                f"anchorft-shards pull."
            )
        check_regular(place, real)
