"""The linear classifier that plain finetuning trains, over the image tower's unit features."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from models.clip import save_tensors
from schemas.errors import UserError
from trainer.draws import Stream, draw_seed

CLASSIFIER_NAME = "classifier.safetensors"
_CLASSES = "classes"


class Classifier(torch.nn.Module):
    """Logits of classes from unit image features: ``features @ weight.T + bias``.

    Attributes:
        weight: float32 [classes, D].
        bias: float32 [classes].
    """

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None = None) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(weight)
        self.bias = torch.nn.Parameter(torch.zeros(len(weight)) if bias is None else bias)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Unit features, float32 [N, D], to logits, float32 [N, classes]."""
        return torch.nn.functional.linear(features, self.weight, self.bias)


def from_zero_shot(head: torch.Tensor, logit_scale: torch.Tensor) -> Classifier:
    """A classifier that begins with the logits of the zero-shot head.

    Args:
        head: unit rows, float32 [classes, D]; see trainer.head.
        logit_scale: log of the scale, a scalar.
    """
    return Classifier((head * logit_scale.detach().float().exp()).clone())


def at_random(classes: int, dimension: int, seed: int) -> Classifier:
    """A classifier that begins as torch's linear layers do, drawn from the run's seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(draw_seed(seed, Stream.CLASSIFIER))
        layer = torch.nn.Linear(dimension, classes)
    return Classifier(layer.weight.detach().clone(), layer.bias.detach().clone())


def save_classifier(classifier: Classifier, classes: Sequence[str], folder: Path) -> None:
    """Write ``classifier.safetensors``, with the names of its classes in the header."""
    save_tensors(
        classifier.state_dict(), folder / CLASSIFIER_NAME, {_CLASSES: json.dumps(list(classes))}
    )


@dataclass(frozen=True)
class Trained:
    """A run's classifier, and the names of its classes."""

    classifier: Classifier
    classes: tuple[str, ...]


def load_classifier(model: str | Path) -> Trained | None:
    """The classifier of a run's folder; None if the run trained none, or it is no folder.

    Raises:
        UserError: the file is broken.
    """
    path = Path(str(model).removeprefix("local-dir:")) / CLASSIFIER_NAME
    if not path.is_file():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            classes = tuple(str(name) for name in json.loads(file.metadata()[_CLASSES]))
            weight, bias = file.get_tensor("weight"), file.get_tensor("bias")
        if weight.shape[0] != len(classes) or bias.shape != (len(classes),):
            raise ValueError("its tensors do not fit its classes")
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"{str(path)!r} cannot be read ({error}); train the run again.") from None
    return Trained(Classifier(weight, bias), classes)


def classifier_for(trained: Trained, classes: Sequence[str]) -> Classifier | None:
    """The classifier with these classes in this order; None if it does not know them all."""
    position = {name: number for number, name in enumerate(trained.classes)}
    if not all(name in position for name in classes):
        return None
    rows = [position[name] for name in classes]
    held = trained.classifier
    return Classifier(held.weight.detach()[rows].clone(), held.bias.detach()[rows].clone())
