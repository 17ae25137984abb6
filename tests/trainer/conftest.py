"""A tiny CLIP and short runs over the small images of trainer_samples."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from trainer_samples import WORDS, captions_of, some_pairs, write_folder, write_set
from transformers import BertTokenizer

from models.clip import CONFIG_NAME, Clip, load_clip, save_tensors
from trainer.config import TrainConfig, parse
from trainer.train import TrainResult, train

torch.set_num_threads(1)

CONTEXT = 12


@pytest.fixture(scope="session")
def clip_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random CLIP in open_clip's local-dir layout: timm tower, BERT tokenizer."""
    import open_clip  # after models, which makes torchvision importable

    folder = tmp_path_factory.mktemp("models") / "tiny-clip"
    folder.mkdir()
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]
    BertTokenizer(vocab={word: i for i, word in enumerate(vocabulary)}).save_pretrained(folder)
    model_cfg = {
        "embed_dim": 16,
        "custom_text": True,
        "vision_cfg": {
            "timm_model_name": "resnet10t",
            "timm_pool": "avg",
            "timm_proj": "linear",
            "image_size": 32,
        },
        "text_cfg": {
            "context_length": CONTEXT,
            "vocab_size": len(vocabulary),
            "width": 32,
            "heads": 2,
            "layers": 1,
            "hf_tokenizer_name": "bert",
            "no_causal_mask": True,
            "pool_type": "first",
        },
    }
    body = {"model_cfg": model_cfg, "preprocess_cfg": {"size": 32}}
    (folder / CONFIG_NAME).write_text(json.dumps(body))
    with torch.random.fork_rng():
        torch.manual_seed(7)
        model = open_clip.create_model(f"local-dir:{folder}")
    save_tensors(model.state_dict(), folder / "open_clip_model.safetensors")
    return folder


@pytest.fixture(scope="session")
def vit_folder(clip_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with a transformer as its image tower: no row depends on another."""
    import open_clip

    folder = tmp_path_factory.mktemp("models") / "tiny-vit"
    shutil.copytree(clip_folder, folder)
    body = json.loads((folder / CONFIG_NAME).read_text())
    body["model_cfg"]["vision_cfg"] = {
        **{"image_size": 32, "layers": 1, "width": 16, "head_width": 8, "patch_size": 8}
    }
    (folder / CONFIG_NAME).write_text(json.dumps(body))
    (folder / "open_clip_model.safetensors").unlink()
    with torch.random.fork_rng():
        torch.manual_seed(8)
        model = open_clip.create_model(f"local-dir:{folder}")
    save_tensors(model.state_dict(), folder / "open_clip_model.safetensors")
    return folder


@pytest.fixture
def clip(clip_folder: Path) -> Clip:
    return load_clip(str(clip_folder))


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 images of 3 classes."""
    return write_folder(tmp_path_factory.mktemp("data") / "train", 8)


@pytest.fixture(scope="session")
def anchors(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A set of both kinds over ``images``; the captions come without image bytes."""
    return write_set(tmp_path_factory.mktemp("sets") / "both", captions_of(images), some_pairs())


@pytest.fixture
def config(clip_folder: Path, images: Path, tmp_path: Path) -> Callable[..., TrainConfig]:
    """A short run's config: 2 epochs of 3 steps; flags may be added or come again."""

    def make(*flags: str) -> TrainConfig:
        base = (
            f"--finetune {images} --model {clip_folder} --output {tmp_path / 'run'} "
            "--batch-size 8 --epochs 2 --lr 1e-3 --warmup 1 --workers 0 --device cpu "
            "--templates simple --log-every 1"
        )
        return parse([*base.split(), *map(str, flags)])

    return make


@pytest.fixture
def run(config: Callable[..., TrainConfig]) -> Callable[..., TrainResult]:
    """Train with flags added to ``config``'s."""
    return lambda *flags: train(config(*flags))
