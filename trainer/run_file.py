"""config.json: what a run says of itself, and by which a folder is known to hold a run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

RUN_NAME = "config.json"


def read_run(folder: Path) -> dict[str, Any] | None:
    """What a run's config.json holds; None if there is none, or it is somebody else's."""
    try:
        body = json.loads((folder / RUN_NAME).read_bytes())
    except (FileNotFoundError, ValueError):
        return None
    return body if isinstance(body, dict) and "binding" in body else None
