"""Builds over small data with the toy world's models."""

from __future__ import annotations

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # before transformers: nothing here needs the network

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tiny_builds import Built, build
from tiny_data import image_folder, pool

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def finetune(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return image_folder(tmp_path_factory.mktemp("data") / "finetune")


@pytest.fixture(scope="session")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pool(tmp_path_factory.mktemp("data") / "pool")


@pytest.fixture(scope="session")
def reference(
    tmp_path_factory: pytest.TempPathFactory, finetune: Path, pairs: Path
) -> tuple[Path, Built]:
    """The set that an undisturbed build gives; others are compared with it."""
    output = tmp_path_factory.mktemp("reference") / "set"
    built = build(finetune, pairs, output)
    assert built.code == 0, built.err
    return output, built


@pytest.fixture
def run(tmp_path: Path, finetune: Path, pairs: Path) -> Callable[..., Built]:
    """Build into a new folder, with more options."""

    def call(*options: str, output: Path | None = None) -> Built:
        return build(finetune, pairs, output or tmp_path / "set", *options)

    return call
