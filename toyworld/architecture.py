"""The two small models before training: an open_clip folder and a BLIP folder, and their words."""

from __future__ import annotations

import json
import re
import string
from functools import cache
from pathlib import Path
from typing import Any

import models  # noqa: F401  first: it makes torchvision importable for open_clip and transformers

# isort: split
import numpy as np
import open_clip
import torch
from transformers import (
    BertTokenizer,
    BlipConfig,
    BlipForConditionalGeneration,
    BlipImageProcessorPil,
)

from models.clip import CONFIG_NAME, WEIGHTS_NAME, save_tensors
from toyworld.scene import alt_text, describe, draw_scene
from toyworld.vocabulary import TEMPLATES

IMAGE_SIZE = 32
"""Pixels of a side that both models see."""
MEAN = (0.5, 0.5, 0.5)
STD = (0.25, 0.25, 0.25)
CONTEXT = 32
"""Most tokens of a text."""
_SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[DEC]")
PAD, _, CLS, SEP, _, DEC = range(len(_SPECIAL))


def new_tokenizer() -> BertTokenizer:
    """A WordPiece tokenizer of the world's words; others fall apart into letters and digits."""
    return BertTokenizer(
        vocab={word: number for number, word in enumerate(_vocabulary())},
        model_max_length=CONTEXT,
        additional_special_tokens=["[DEC]"],
    )


@cache
def _vocabulary() -> tuple[str, ...]:
    rng = np.random.default_rng(0)
    words = set(re.findall(r"[a-z]+", " ".join(TEMPLATES).lower()))
    for _ in range(4000):
        scene = draw_scene(rng)
        texts = f"{describe(scene, rng)} {alt_text(scene, rng)}"
        words |= set(re.findall(r"[a-z]+", texts.lower()))
    characters = string.ascii_lowercase + string.digits
    pieces = [*characters, *(f"##{c}" for c in characters), *".,-|_"]
    return (*_SPECIAL, *pieces, *sorted(words - set(characters)))


def clip_config(words: int) -> dict[str, Any]:
    """open_clip's configuration: a small convolutional image tower, a two-layer text tower."""
    return {
        "model_cfg": {
            "embed_dim": 128,
            "vision_cfg": {
                "image_size": IMAGE_SIZE,
                "timm_model_name": "test_resnet",
                "timm_model_pretrained": False,
                "timm_pool": "avg",
                "timm_proj": "linear",
            },
            "text_cfg": {
                "context_length": CONTEXT,
                "vocab_size": words,
                "hf_tokenizer_name": "toyworld",  # any name: in a folder its own files are used
                "width": 128,
                "heads": 4,
                "layers": 2,
                "pool_type": "eos",
                "eos_id": SEP,
            },
        },
        "preprocess_cfg": {
            "mean": list(MEAN),
            "std": list(STD),
            "interpolation": "bicubic",
            "resize_mode": "shortest",
        },
    }


def new_clip(words: int) -> open_clip.CLIP:
    """The dual encoder with fresh weights."""
    torch.manual_seed(0)
    return open_clip.CLIP(**clip_config(words)["model_cfg"])


def write_clip(folder: Path, model: open_clip.CLIP) -> None:
    """Write an open_clip folder: weights as safetensors, tokenizer, configuration."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = new_tokenizer()
    tokenizer.save_pretrained(folder)
    config = json.dumps(clip_config(len(tokenizer)), indent=2) + "\n"
    (folder / CONFIG_NAME).write_text(config, "utf-8")
    save_tensors(model.state_dict(), folder / WEIGHTS_NAME)


def new_blip(words: int) -> BlipForConditionalGeneration:
    """A BLIP of a six-layer ViT on 4-pixel patches and a three-layer text decoder."""
    torch.manual_seed(0)
    config = BlipConfig(
        vision_config={
            "hidden_size": 144,
            "intermediate_size": 432,
            "num_hidden_layers": 6,
            "num_attention_heads": 4,
            "image_size": IMAGE_SIZE,
            "patch_size": 4,
            "initializer_range": 0.02,  # the class's default, 1e-10, is for loaded weights
        },
        text_config={
            "vocab_size": words,
            "hidden_size": 128,
            "encoder_hidden_size": 144,
            "intermediate_size": 384,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "max_position_embeddings": CONTEXT,
            "bos_token_id": DEC,
            "eos_token_id": SEP,
            "sep_token_id": SEP,
            "pad_token_id": PAD,
        },
        image_text_hidden_size=128,
    )
    return BlipForConditionalGeneration(config)


def write_blip(folder: Path, model: BlipForConditionalGeneration) -> None:
    """Write a BLIP folder: weights as safetensors, tokenizer, image processor."""
    model.save_pretrained(folder)
    new_tokenizer().save_pretrained(folder)
    BlipImageProcessorPil(
        size={"height": IMAGE_SIZE, "width": IMAGE_SIZE}, image_mean=list(MEAN), image_std=list(STD)
    ).save_pretrained(folder)
