"""Captioners of every family with random weights, small enough to be made by a test."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import torch
from tiny_builds import BLIP
from transformers import (
    AutoImageProcessor,
    AutoTokenizer,
    BertConfig,
    Blip2Config,
    Blip2ForConditionalGeneration,
    GitConfig,
    GitForCausalLM,
    OPTConfig,
    T5Config,
    VisionEncoderDecoderConfig,
    VisionEncoderDecoderModel,
    ViTConfig,
)

SIDE = 32
_TOWER = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": SIDE,
    "patch_size": 16,
}


def _text(tokenizer: Any) -> dict[str, Any]:
    return {
        "vocab_size": len(tokenizer) + 1,  # one more: BLIP-2's image token
        "bos_token_id": tokenizer.cls_token_id,
        "eos_token_id": tokenizer.sep_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        "max_position_embeddings": 64,
    }


def _save(model: Any, folder: Path) -> Path:
    """With large embeddings, so that random weights write more than one word."""
    with torch.no_grad():
        for name, weights in model.named_parameters():
            if weights.dim() > 1 and "position" not in name:
                weights.mul_(8)
    model.save_pretrained(folder)
    for file in BLIP.glob("*token*"):
        shutil.copy(file, folder / file.name)
    if (BLIP / "vocab.txt").exists():
        shutil.copy(BLIP / "vocab.txt", folder)
    processor = AutoImageProcessor.from_pretrained(str(BLIP), backend="pil")
    processor.size = {"height": SIDE, "width": SIDE}
    processor.save_pretrained(folder)
    return folder


def blip2(folder: Path, *, decoder: bool = True) -> Path:
    torch.manual_seed(1)
    tokenizer = AutoTokenizer.from_pretrained(str(BLIP))
    text = _text(tokenizer)
    if decoder:
        language: Any = OPTConfig(
            **text,
            hidden_size=32,
            ffn_dim=48,
            num_hidden_layers=2,
            num_attention_heads=2,
            word_embed_proj_dim=32,
        )
    else:
        del text["max_position_embeddings"]
        language = T5Config(
            **text,
            d_model=32,
            d_kv=16,
            d_ff=48,
            num_layers=2,
            num_heads=2,
            decoder_start_token_id=tokenizer.pad_token_id,
        )
    config = Blip2Config(
        vision_config=_TOWER,
        qformer_config={
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "encoder_hidden_size": 32,
            "vocab_size": 20,
        },
        text_config=language.to_dict(),
        num_query_tokens=4,
        image_token_index=len(tokenizer),
    )
    return _save(Blip2ForConditionalGeneration(config), folder)


def git(folder: Path) -> Path:
    torch.manual_seed(2)
    text = _text(AutoTokenizer.from_pretrained(str(BLIP)))
    config = GitConfig(
        vision_config=_TOWER,
        **text,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=2,
    )
    return _save(GitForCausalLM(config), folder)


def encoder_decoder(folder: Path) -> Path:
    torch.manual_seed(3)
    text = _text(AutoTokenizer.from_pretrained(str(BLIP)))
    sizes = {k: v for k, v in _TOWER.items() if k not in ("image_size", "patch_size")}
    config = VisionEncoderDecoderConfig.from_encoder_decoder_configs(
        ViTConfig(**_TOWER), BertConfig(**text, **sizes, is_decoder=True, add_cross_attention=True)
    )
    config.decoder_start_token_id = text["bos_token_id"]
    config.pad_token_id = text["pad_token_id"]
    config.eos_token_id = text["eos_token_id"]
    return _save(VisionEncoderDecoderModel(config), folder)
