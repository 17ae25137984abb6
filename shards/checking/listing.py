"""Every file below a set's folder, hidden ones and what is no file included."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from schemas.errors import UserError
from shards import places
from shards.guards import check_inside

# What a write that was cut off leaves: see shards.places, sharing.stores, deriving.unfinished.
_LEFT_BY_A_WRITE = re.compile(
    r"(?:.*/)?\.[^/]+\.(?:[0-9a-f]{32}\.tmp|[0-9a-f]{16}\.part)|\.unfinished/.*"
)
# What file managers, git and the Hub's client keep in the folders that they manage.
_NOT_OURS = re.compile(r"(?:\.git|\.cache)/.*|\.gitattributes|\.gitignore|(?:.*/)?\.DS_Store")

Status = Literal["set", "left by a write", "not ours"]


@dataclass(frozen=True)
class Found:
    """Something below the folder: its size, and why it must not be read ("": it may)."""

    size: int
    problem: str = ""


def status(path: str) -> Status:
    """Whether a path can be of the set, was left by a write that was cut off, or is not ours."""
    if _LEFT_BY_A_WRITE.fullmatch(path):
        return "left by a write"
    name = path.rpartition("/")[2]
    litter = places.is_hidden(name) and not name.startswith(".")
    return "not ours" if litter or _NOT_OURS.fullmatch(path) else "set"


def list_files(root: str) -> dict[str, Found]:
    """Everything below a folder that is no folder, by path relative to it, sorted.

    Raises:
        UserError: the folder is not there.
    """
    if not places.is_folder(root):
        raise UserError(f"{root!r} is not a folder; check the path.")
    if places.is_local(root):
        return dict(sorted(_walk(places.local_path(root)).items()))
    fs, path = places.filesystem(root)
    fs.invalidate_cache()  # what another process wrote a moment ago counts
    base = path.rstrip("/") + "/"
    found = {
        str(name).lstrip("/").removeprefix(base.lstrip("/")): Found(int(info["size"] or 0))
        for name, info in fs.find(path, detail=True).items()
    }
    return dict(sorted(found.items()))


def _walk(root: str) -> dict[str, Found]:
    found: dict[str, Found] = {}
    for folder, names, files in os.walk(root):
        for name in [*files, *(name for name in names if Path(folder, name).is_symlink())]:
            path = Path(folder, name)
            found[places.printable(path.relative_to(root).as_posix())] = _look(root, path)
    return found


def _look(root: str, path: Path) -> Found:
    try:
        check_inside(root, [path.relative_to(root).as_posix()])
        if path.is_dir():
            return Found(0, "it is a link to a folder")
        return Found(path.stat().st_size)
    except UserError:
        kind = "link that leads out of the folder" if path.is_symlink() else "pipe or a device"
        return Found(0, f"it is a {kind}")
    except OSError:
        return Found(0, "it is a link to nothing")
