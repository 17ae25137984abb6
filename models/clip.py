"""One way to load a CLIP: by open_clip's name and tag, from the Hub, or from a folder."""

from __future__ import annotations

import difflib
import hashlib
import json
import os
import re
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import open_clip
import safetensors
import safetensors.torch
import torch
from open_clip.transform import MaybeToTensor
from PIL import Image
from torchvision.transforms import Compose, Normalize

from schemas.errors import UserError
from shards import places

CONFIG_NAME = "open_clip_config.json"
WEIGHTS_NAME = "open_clip_model.safetensors"


@dataclass(frozen=True)
class Clip:
    """A dual encoder with all that it takes to use it and to save it again.

    Attributes:
        name: for manifests and model cards; a folder is named by its last component.
        model: open_clip's module; ``encode_image``, ``encode_text``, ``logit_scale``.
        preprocess: PIL image to float32 tensor [3, H, W], as at evaluation.
        tokenizer: list of texts to int64 tensor [N, context].
        model_cfg: open_clip's model configuration.
        preprocess_cfg: open_clip's preprocessing configuration (size, mean, std, ...).
    """

    name: str
    model: torch.nn.Module
    preprocess: Callable[[Image.Image], torch.Tensor]
    tokenizer: Callable[[list[str]], torch.Tensor]
    model_cfg: dict[str, Any]
    preprocess_cfg: dict[str, Any]

    def weights_sha256(self) -> str:
        """Digest of the weights; see state_digest."""
        return state_digest(self.model.state_dict())


def load_clip(
    spec: str, *, device: str | torch.device = "cpu", random_weights: bool = False
) -> Clip:
    """Load a model for use in float32.

    Args:
        spec: ``NAME/TAG`` (``ViT-B-16/laion2b_s34b_b88k``; the tag may be a file of weights),
            ``hf-hub:ORG/REPO``, or a folder with open_clip_config.json and weights
            (``local-dir:DIR`` or just ``DIR``).
        device: where to put it.
        random_weights: build the architecture alone; weights are neither fetched nor read.

    Raises:
        UserError: no such model, tag or folder, or its weights cannot be fetched or read.
    """
    name, pretrained = resolve(spec)
    try:
        quick_gelu = _needs_quick_gelu(name, pretrained)
        model, _, preprocess = open_clip.create_model_and_transforms(
            name,
            pretrained=None if random_weights else pretrained,
            load_weights=not random_weights,
            device=device,
            force_quick_gelu=quick_gelu,
        )
        tokenizer = open_clip.get_tokenizer(name)
    except Exception as error:  # open_clip and the Hub raise many kinds; all mean the same here
        reason = str(error).strip().split("\n", 1)[0].rstrip(".")
        raise UserError(
            f"the model {spec!r} could not be loaded ({type(error).__name__}: {reason}); check the "
            f"name, the network or the folder."
        ) from error
    model.eval()
    return Clip(
        name=public_name(spec),
        model=model,
        preprocess=preprocess,
        tokenizer=tokenizer,
        model_cfg=_model_config(name) | ({"quick_gelu": True} if quick_gelu else {}),
        preprocess_cfg=dict(model.visual.preprocess_cfg),
    )


def split_preprocess(
    preprocess: Callable[[Image.Image], torch.Tensor],
) -> tuple[Callable[[Image.Image], Image.Image], torch.Tensor, torch.Tensor]:
    """A model's preprocessing in two: of the image, and of numbers, which a batch can go through.

    Args:
        preprocess: of a Clip.

    Returns:
        PIL image to PIL image, RGB and of the model's size; then mean and standard deviation that
        its values, from 0 to 1, are normalised by, float32 [3, 1, 1] each.
    """
    *resize, to_tensor, normalise = preprocess.transforms  # type: ignore[attr-defined]
    assert isinstance(to_tensor, MaybeToTensor)
    assert isinstance(normalise, Normalize)
    mean, std = (torch.tensor(x)[:, None, None] for x in (normalise.mean, normalise.std))
    return Compose(resize), mean, std


def resolve(spec: str) -> tuple[str, str | None]:
    """What open_clip calls the model: its name, and the tag where there is one.

    Raises:
        UserError: not a folder of a model, nor a name and tag that open_clip knows.
    """
    if spec.startswith("hf-hub:"):
        return spec, None
    folder = Path(spec.removeprefix("local-dir:"))
    if spec.startswith("local-dir:") or folder.is_dir():
        if not (folder / CONFIG_NAME).is_file():
            raise UserError(f"{str(folder)!r} is not a model folder: it has no {CONFIG_NAME}.")
        if not any(folder.glob("*.safetensors")) and not any(folder.glob("*.bin")):
            raise UserError(f"{str(folder)!r} has no weights beside its {CONFIG_NAME}.")
        return f"local-dir:{folder}", None
    name, _, tag = spec.partition("/")
    known = open_clip.list_models()
    if name not in known:
        raise UserError(
            f"{spec!r} is neither a folder nor a model that open_clip knows{_nearest(name, known)}."
        )
    tags = open_clip.list_pretrained_tags_by_model(name)
    if not tag:
        raise UserError(
            f"{spec!r} names no weights; write {name}/TAG with one of {', '.join(tags) or 'none'}."
        )
    if tag not in tags and not Path(tag).is_file():
        raise UserError(
            f"open_clip has no weights {tag!r} for {name}{_nearest(tag, tags)}; there are "
            f"{', '.join(tags) or 'none'}."
        )
    return name, tag


def save_clip(clip: Clip, folder: str | Path) -> None:
    """Save a model as a folder that open_clip loads as ``local-dir:FOLDER``, and load_clip too.

    Tokenizer files (where the tokenizer is not open_clip's own), open_clip_model.safetensors, and
    open_clip_config.json last: without it the folder is not a model folder.

    Args:
        clip: its weights are saved as they are, in their own types.
        folder: local; made if it is not there. Files of the same names are replaced.

    Raises:
        UserError: open_clip would give the saved model another tokenizer.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    config = folder / CONFIG_NAME
    config.unlink(missing_ok=True)
    if isinstance(clip.tokenizer, open_clip.tokenizer.HFTokenizer):
        with tempfile.TemporaryDirectory() as temporary:
            clip.tokenizer.save_pretrained(temporary)
            for file in sorted(Path(temporary).iterdir()):
                places.write_bytes(str(folder / file.name), file.read_bytes())
    save_tensors(clip.model.state_dict(), folder / WEIGHTS_NAME)
    body = {"model_cfg": clip.model_cfg, "preprocess_cfg": clip.preprocess_cfg}
    places.write_bytes(str(config), (json.dumps(body, indent=2) + "\n").encode())
    reloaded = open_clip.get_tokenizer(f"local-dir:{folder}")
    text = ["A photo of 2 café tables, up close."]
    if not torch.equal(reloaded(text), clip.tokenizer(text)):
        config.unlink()
        raise UserError(
            f"{clip.name!r} cannot be saved: open_clip would load it with another tokenizer."
        )


def save_tensors(
    tensors: Mapping[str, torch.Tensor], path: Path, metadata: dict[str, str] | None = None
) -> None:
    """Write a safetensors file atomically; tensors that share memory are written each in full.

    Args:
        tensors: on any device.
        path: local; its folder is made if it is not there.
        metadata: kept in the file's header.

    Raises:
        UserError: it may not be written there, or the disk is full.
    """
    seen: set[int] = set()
    apart: dict[str, torch.Tensor] = {}
    for name, tensor in tensors.items():
        tensor = tensor.detach().contiguous()
        storage = tensor.untyped_storage().data_ptr()
        apart[name] = tensor.clone() if storage in seen else tensor
        seen.add(storage)
    with places.atomic_write(str(path)) as file:
        mode = os.fstat(file.fileno()).st_mode
        try:
            safetensors.torch.save_file(apart, file.name, metadata or {"format": "pt"})
        except safetensors.SafetensorError as error:  # a full disk is told in its text alone
            number = re.search(r"os error (\d+)", str(error))
            if number is None:
                raise
            raise OSError(int(number[1]), os.strerror(int(number[1]))) from error
        # That made a new file under the name: it needs the mode and the sync of the old one.
        Path(file.name).chmod(mode)
        with Path(file.name).open("rb") as written:
            os.fsync(written.fileno())


def _nearest(wanted: str, known: list[str]) -> str:
    close = difflib.get_close_matches(wanted, known, n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""


def public_name(spec: str) -> str:
    """The spec without any path of this machine."""
    bare = spec.removeprefix("local-dir:")
    return Path(bare).resolve().name if Path(bare).is_dir() else spec


def _needs_quick_gelu(name: str, tag: str | None) -> bool:
    """Some tags (openai, ...) were trained with another GELU; open_clip only warns of it."""
    if tag is None:
        return False
    return bool((open_clip.get_pretrained_cfg(name, tag) or {}).get("quick_gelu", False))


def _model_config(name: str) -> dict[str, Any]:
    if name.startswith("hf-hub:"):
        return dict(open_clip.factory._get_hf_config(name.removeprefix("hf-hub:"))["model_cfg"])
    if name.startswith("local-dir:"):
        text = (Path(name.removeprefix("local-dir:")) / CONFIG_NAME).read_text("utf-8")
        return dict(json.loads(text)["model_cfg"])
    config = open_clip.get_model_config(name)
    if config is None:
        raise UserError(f"the configuration of {name!r} could not be read.")
    return dict(config)


def state_digest(state: Mapping[str, torch.Tensor]) -> str:
    """SHA-256 over names, types, shapes and bytes of tensors, in the order of the names."""
    digest = hashlib.sha256()
    for key in sorted(state):
        tensor = state[key].detach().cpu().contiguous()
        digest.update(f"{key} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        # Through uint8, since numpy has no bfloat16.
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
