"""One small world, rendered once."""

from __future__ import annotations

from pathlib import Path

import pytest
from toyworld_small import SMALL

from toyworld.world import ensure_world


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return ensure_world(tmp_path_factory.mktemp("small") / "world", SMALL)
