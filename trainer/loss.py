"""The objective: L = CL(x, t_cls) + lambda_tc CL(x, t_cap) + lambda_itp CL(u, s).

Han et al., "Anchor-based Robust Finetuning of Vision-Language Models", CVPR 2024. With both
lambdas 0 it is FLYP's (Goyal et al., CVPR 2023), to the bit: a term of weight 0 is not computed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F

from trainer.data import Batch

MAX_LOG_SCALE = math.log(100)
"""CLIP's bound: logits are at most 100 times the cosine."""


@dataclass(frozen=True)
class Weights:
    """Weights of the anchors' terms; 0 leaves a term out."""

    tc: float
    itp: float


@dataclass(frozen=True)
class Features:
    """Unit-length features of a batch, float32 [rows, D]; None where a term is left out."""

    image: torch.Tensor
    class_text: torch.Tensor
    caption: torch.Tensor | None
    anchor_image: torch.Tensor | None
    anchor_text: torch.Tensor | None


@dataclass(frozen=True)
class Loss:
    """The objective's value and its terms before weighting; float32 scalars."""

    total: torch.Tensor
    class_text: torch.Tensor
    tc: torch.Tensor | None
    itp: torch.Tensor | None


def contrastive_loss(
    image_features: torch.Tensor,
    text_features: torch.Tensor,
    logit_scale: torch.Tensor,
    classes: torch.Tensor | None = None,
) -> torch.Tensor:
    """CLIP's symmetric contrastive loss (Radford et al., ICML 2021).

    Args:
        image_features: unit rows, float32 [N, D]; row i belongs to row i of the texts.
        text_features: unit rows, float32 [N, D].
        logit_scale: log of the scale, a scalar; its exponential is clamped at 100.
        classes: int64 [N]. If given, the target of a row is spread evenly over all rows of its
            class (multi-positive); if not, every other row is a negative.

    Returns:
        The mean of the cross-entropies over rows and over columns, a float32 scalar.
    """
    # Clamped before the exponential, so that at the bound itself the gradient still flows.
    scale = logit_scale.float().clamp(max=MAX_LOG_SCALE).exp()
    logits = scale * image_features.float() @ text_features.float().T
    if classes is None:
        target = torch.arange(len(logits), device=logits.device)
    else:
        same = (classes[:, None] == classes[None, :]).float()
        target = same / same.sum(dim=1, keepdim=True)
    return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2


def encode(model: Any, batch: Batch, weights: Weights) -> Features:
    """The forward passes that the objective needs, and no others.

    The finetune images go through the image tower once, for both terms they serve. Anchors come
    last, so that what goes before does not depend on them (a tower with batch normalisation
    sees each of the two image batches by its own statistics).

    Args:
        model: open_clip's module, on the batch's device.
        batch: at least one finetune image.
        weights: of the anchors' terms.
    """
    image = _unit(model.encode_image(batch.images, normalize=False))
    class_text = _unit(model.encode_text(batch.class_texts, normalize=False))
    caption = anchor_image = anchor_text = None
    if weights.tc and len(batch.captions):
        caption = _unit(model.encode_text(batch.captions, normalize=False))
    if weights.itp and len(batch.anchor_images):
        anchor_image = _unit(model.encode_image(batch.anchor_images, normalize=False))
        anchor_text = _unit(model.encode_text(batch.anchor_texts, normalize=False))
    return Features(image, class_text, caption, anchor_image, anchor_text)


def _unit(features: torch.Tensor) -> torch.Tensor:
    """Unit rows in float32, whatever the precision of the towers."""
    return F.normalize(features.float(), dim=-1)


def objective(
    features: Features,
    logit_scale: torch.Tensor,
    batch: Batch,
    weights: Weights,
    *,
    multi_positive: bool = False,
) -> Loss:
    """ARF's objective over one batch.

    The caption term is over those images of the batch that have a caption; it is left out of a
    batch where none has.

    Args:
        features: of the batch; see encode.
        logit_scale: the model's, a scalar.
        batch: for the rows with captions and the classes.
        weights: of the anchors' terms.
        multi_positive: in the class-text term, spread targets over the same class.
    """
    classes = batch.classes if multi_positive else None
    class_text = contrastive_loss(features.image, features.class_text, logit_scale, classes)
    total, tc, itp = class_text, None, None
    if features.caption is not None:
        tc = contrastive_loss(features.image[batch.caption_rows], features.caption, logit_scale)
        total = total + weights.tc * tc
    if features.anchor_image is not None and features.anchor_text is not None:
        itp = contrastive_loss(features.anchor_image, features.anchor_text, logit_scale)
        total = total + weights.itp * itp
    return Loss(total, class_text, tc, itp)
