"""config.json, by which a folder is known to hold a run, and results.json beside it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from shards import places

RUN_NAME = "config.json"
RESULTS_NAME = "results.json"


def read_run(folder: Path) -> dict[str, Any] | None:
    """What a run's config.json holds; None if there is none, or it is somebody else's."""
    try:
        body = json.loads((folder / RUN_NAME).read_bytes())
    except (FileNotFoundError, ValueError):
        return None
    return body if isinstance(body, dict) and "binding" in body else None


def write_json(path: Path, body: Mapping[str, Any]) -> None:
    """Write a file of the run, whole or not at all."""
    places.write_bytes(str(path), (json.dumps(body, indent=2) + "\n").encode())
