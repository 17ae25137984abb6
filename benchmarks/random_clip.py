"""A CLIP of open_clip's with random weights, as a model folder."""

from __future__ import annotations

from pathlib import Path

import models  # noqa: F401  (before open_clip: it makes torchvision importable)

# isort: split
import open_clip

from models.clip import Clip, save_clip


def write_clip(folder: Path, name: str) -> None:
    """An encoder of open_clip's with random weights."""
    model, _, preprocess = open_clip.create_model_and_transforms(name)
    cfg = dict(open_clip.get_model_config(name) or {})
    tokenizer = open_clip.get_tokenizer(name)
    save_clip(Clip(name, model, preprocess, tokenizer, cfg, model.visual.preprocess_cfg), folder)
