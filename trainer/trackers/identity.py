"""The run's name at a tracker: one, however often the run is interrupted and goes on."""

from __future__ import annotations

import re
import secrets
from pathlib import Path

from shards import places

IDENTITY_NAME = "track_id"


def run_id(folder: Path) -> str:
    """Eight hexadecimal digits, drawn once for a run and kept in its folder."""
    path = folder / IDENTITY_NAME
    if path.exists() and re.fullmatch(r"[0-9a-f]{8}", held := path.read_text("utf-8")):
        return held
    drawn = secrets.token_hex(4)  # not of torch's or random's state, which belong to the run
    places.write_bytes(str(path), drawn.encode())
    return drawn


def run_name(folder: Path) -> str:
    """What people call the run: its folder."""
    return folder.resolve().name
