"""What is done to a training image: FLYP's random crop, or the transforms of a file.

All of them draw from torch's global generator, which the caller seeds for each image.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
import yaml
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image
from torchvision.transforms import v2

from schemas.errors import BadSample, UserError
from shards import places
from trainer.options import nearest

Transform = Callable[[Image.Image], torch.Tensor]

_RATIO = 3 / 4  # least ratio of a random crop's sides, RandomResizedCrop's default
_OURS = {
    "Normalize": "the model's own mean and standard deviation are applied after all",
    "Lambda": "a function cannot stand in a file",
    "CutMix": "it mixes images of a batch with their labels",
    "MixUp": "it mixes images of a batch with their labels",
}
_KNOWN = {
    name: kind
    for name, kind in vars(v2).items()
    if isinstance(kind, type) and issubclass(kind, v2.Transform) and kind is not v2.Transform
}
_TRIALS = ((500, 375), (375, 500), (64, 48))  # width and height
_DRAWS = 4


def train_transform(preprocess_cfg: dict[str, Any], crop_min: float) -> Transform:
    """open_clip's training transform: a random crop, resized; normalised as the model wants it.

    Args:
        preprocess_cfg: the model's.
        crop_min: least share of the image's area that a crop keeps (FLYP: 0.9).

    Returns:
        RGB image to float32 [3, H, W]; it draws from torch's global generator.
    """
    cfg = PreprocessCfg(**preprocess_cfg)
    transform: Transform = image_transform_v2(cfg, is_train=True, aug_cfg={"scale": (crop_min, 1)})
    return transform


def least_side(preprocess_cfg: dict[str, Any], crop_min: float) -> int:
    """Pixels of an image's shorter side from which on no crop of train_transform is enlarged."""
    _, height, width = _shape(preprocess_cfg)
    return math.ceil(max(height, width) / math.sqrt(crop_min * _RATIO))


def read_steps(path: str) -> list[dict[str, Any]]:
    """The steps of a file of transforms: each a name and its settings.

    Args:
        path: of a YAML file with a list of names of torchvision.transforms.v2, each with its
            arguments: ``- RandomResizedCrop: {size: 224, scale: [0.5, 1]}``.

    Raises:
        UserError: the file is not there, is no YAML, or is no such list.
    """
    if not places.exists(path) or places.is_folder(path):
        raise UserError(f"--augment {path!r} is no file; give a YAML file with a list of steps.")
    try:
        steps = yaml.safe_load(places.read_bytes(path))
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        mark = getattr(error, "problem_mark", None)
        line = "" if mark is None else f", line {mark.line + 1}"
        problem = getattr(error, "problem", None) or "it cannot be parsed"
        raise UserError(f"--augment {path!r}{line}: no YAML: {problem}.") from None
    return _listed(steps, path)


def _listed(steps: Any, path: str) -> list[dict[str, Any]]:
    """Each step as a name and its settings, those of nested steps too."""
    if not isinstance(steps, list) or not steps:
        raise UserError(
            f"--augment {path!r} holds no list of steps; write one a line, such as "
            f"- RandomHorizontalFlip: {{p: 0.5}}."
        )
    found: list[dict[str, Any]] = []
    for step in steps:
        name, given = (step if isinstance(step, str) else None), None
        if isinstance(step, dict) and len(step) == 1:
            ((name, given),) = step.items()
        settings: Any = {} if given is None else given
        if not isinstance(name, str) or not isinstance(settings, dict):
            raise UserError(
                f"--augment {path!r}: {step!r} is no step; write - NAME: {{setting: value}}."
            )
        if not all(isinstance(key, str) for key in settings):
            raise UserError(f"--augment {path!r}: a setting of {name} has a name that is no word.")
        for key, value in settings.items():
            if not _is_plain(value):
                raise UserError(f"--augment {path!r}: {key} of {name} is no plain value.")
        if "transforms" in settings:
            settings = settings | {"transforms": _listed(settings["transforms"], path)}
        found.append({name: settings})
    return found


def _is_plain(value: Any) -> bool:
    """As JSON has it; YAML knows dates and sets besides."""
    if isinstance(value, dict):
        return all(isinstance(key, str) and _is_plain(one) for key, one in value.items())
    if isinstance(value, list):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, (bool, int, float, str))


class Augmentation:
    """Transforms of torchvision, then the tensor and the normalisation that the model wants.

    Args:
        steps: see read_steps.
        preprocess_cfg: the model's.
        path: of the steps, for errors.

    Raises:
        UserError: a step that is none, settings that it does not take, or steps that do not make
            an image of the model's size of any image.
    """

    def __init__(
        self, steps: list[dict[str, Any]], preprocess_cfg: dict[str, Any], path: str
    ) -> None:
        self._shape = _shape(preprocess_cfg)
        cfg = PreprocessCfg(**preprocess_cfg)
        self._own = v2.Compose(_built(steps, path))
        self._tensor = v2.Compose([v2.ToImage(), v2.ToDtype(torch.float32, scale=True)])
        self._normalise = v2.Normalize(list(cfg.mean), list(cfg.std))
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(0)
            for size in _TRIALS:
                for _ in range(_DRAWS):
                    self._try(size, path)

    def __call__(self, image: Image.Image) -> torch.Tensor:
        """RGB image to float32 [3, H, W].

        Raises:
            BadSample: ``augmentation_failed``: a step cannot work on this image.
        """
        try:
            pixels = self._pixels(image)
        except Exception as error:  # whatever a transform raises of an image that it cannot take
            raise BadSample("augmentation_failed", f"{type(error).__name__}: {error}") from None
        if pixels.shape != self._shape:
            raise BadSample("augmentation_failed", f"it came to {list(pixels.shape)}")
        return self._normalised(pixels)

    def _pixels(self, image: Image.Image) -> torch.Tensor:
        made = self._own(image)
        if not isinstance(made, (Image.Image, torch.Tensor)):
            raise TypeError(f"the steps make {type(made).__name__}, not an image")
        pixels: torch.Tensor = self._tensor(made)
        return pixels

    def _normalised(self, pixels: torch.Tensor) -> torch.Tensor:
        normalised: torch.Tensor = self._normalise(pixels)
        return normalised.as_subclass(torch.Tensor)  # v2's own class would follow it everywhere

    def _try(self, size: tuple[int, int], path: str) -> None:
        told = f"--augment {path!r}: an image of {size[0]} x {size[1]} pixels"
        try:
            pixels = self._pixels(Image.new("RGB", size, (255, 127, 0)))
        except Exception as error:
            reason = str(error).strip().split("\n", 1)[0].rstrip(".")
            raise UserError(f"{told} cannot pass ({type(error).__name__}: {reason}).") from error
        if pixels.shape != self._shape:
            raise UserError(
                f"{told} comes to {list(pixels.shape)}, and the model wants {list(self._shape)}; "
                f"mend the step that sets the size."
            )
        if pixels.min() < -1 or pixels.max() > 2:
            raise UserError(
                f"{told} comes to values up to {float(pixels.max()):g}, where 1 is white; give "
                f"ToDtype scale: true."
            )


def _shape(preprocess_cfg: dict[str, Any]) -> tuple[int, int, int]:
    """[3, H, W] of the images that a model takes."""
    size = PreprocessCfg(**preprocess_cfg).size
    height, width = (size, size) if isinstance(size, int) else (int(size[0]), int(size[1]))
    return 3, height, width


def _built(steps: list[dict[str, Any]], path: str) -> list[Any]:
    """The transforms of steps."""
    built: list[Any] = []
    for step in steps:
        ((name, settings),) = step.items()
        if name in _OURS:
            raise UserError(f"--augment {path!r}: leave {name} out; {_OURS[name]}.")
        if name not in _KNOWN:
            hint = nearest(name, _KNOWN)
            raise UserError(
                f"--augment {path!r}: torchvision.transforms.v2 has no transform {name!r}{hint}."
            )
        try:
            given = {key: _read(key, value, path) for key, value in settings.items()}
            built.append(_KNOWN[name](**given))
        except UserError:
            raise
        except Exception as error:  # each class checks its settings in its own way
            reason = str(error).replace(f"{name}.__init__() ", "").rstrip(".")
            raise UserError(f"--augment {path!r}: {name}: {reason}.") from None
    return built


def _read(key: str, value: Any, path: str) -> Any:
    """A setting as the class takes it: what is no plain value goes by its name."""
    if key == "transforms":
        return _built(value, path)
    if key == "interpolation" and isinstance(value, str):
        return v2.InterpolationMode(value)
    if key == "policy" and isinstance(value, str):
        return v2.AutoAugmentPolicy(value)
    if key == "dtype":
        kinds = {"float32": torch.float32, "uint8": torch.uint8}
        if value not in kinds:
            raise ValueError(f"dtype is one of {', '.join(kinds)}, not {value!r}")
        return kinds[value]
    return value
