"""The objective, against open_clip's loss and against a computation written out by hand."""

from __future__ import annotations

import math

import numpy as np
import open_clip
import pytest
import torch
import torch.nn.functional as F

from models.clip import Clip
from trainer.data import Batch
from trainer.loss import Weights, contrastive_loss, encode, objective


def unit(rows: int, seed: int, dimension: int = 16) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(rows, dimension, generator=generator), dim=-1)


def by_hand(image: np.ndarray, text: np.ndarray, log_scale: float, target: np.ndarray) -> float:
    """Loops and logarithms only, in float64."""
    logits = min(math.exp(log_scale), 100.0) * image.astype(np.float64) @ text.astype(np.float64).T
    total = 0.0
    for matrix in (logits, logits.T):
        for row, wanted in zip(matrix, target, strict=True):
            logs = row - math.log(sum(math.exp(value - row.max()) for value in row)) - row.max()
            total -= sum(wanted * logs) / len(logits)
    return total / 2


@pytest.mark.parametrize("log_scale", [0.0, 2.66, math.log(100), 6.0])
def test_contrastive_loss_is_the_one_written_by_hand(log_scale: float) -> None:
    image, text = unit(7, 1), unit(7, 2)
    loss = contrastive_loss(image, text, torch.tensor(log_scale))
    assert float(loss) == pytest.approx(
        by_hand(image.numpy(), text.numpy(), log_scale, np.eye(7)), rel=1e-5
    )


def test_contrastive_loss_is_open_clips_with_its_gradient() -> None:
    ours = [unit(9, 1).requires_grad_(), unit(9, 2).requires_grad_()]
    theirs = [tensor.detach().clone().requires_grad_() for tensor in ours]
    scale = torch.tensor(2.66)
    contrastive_loss(*ours, scale).backward()
    open_clip.ClipLoss()(*theirs, scale.exp()).backward()
    for left, right in zip(ours, theirs, strict=True):
        torch.testing.assert_close(left.grad, right.grad, rtol=1e-5, atol=1e-6)


def test_multi_positive_spreads_the_target_over_the_class() -> None:
    image, text = unit(5, 1), unit(5, 2)
    classes = torch.tensor([0, 1, 0, 2, 0])
    same = (classes[:, None] == classes[None]).numpy().astype(float)
    target = same / same.sum(1, keepdims=True)
    loss = contrastive_loss(image, text, torch.tensor(2.0), classes)
    assert float(loss) == pytest.approx(by_hand(image.numpy(), text.numpy(), 2.0, target), rel=1e-5)
    apart = contrastive_loss(image, text, torch.tensor(2.0), torch.arange(5))
    torch.testing.assert_close(apart, contrastive_loss(image, text, torch.tensor(2.0)))


def test_the_gradient_flows_at_the_bound_of_the_scale_and_not_beyond() -> None:
    for log_scale, flows in ((math.log(100), True), (5.0, False)):
        scale = torch.tensor(log_scale, requires_grad=True)
        contrastive_loss(unit(6, 1), unit(6, 2), scale).backward()
        assert bool(scale.grad != 0) is flows


def batch(rows: int = 6, anchors: int = 4) -> Batch:
    generator = torch.Generator().manual_seed(3)

    def images(number: int) -> torch.Tensor:
        return torch.randn(number, 3, 32, 32, generator=generator)

    def tokens(number: int) -> torch.Tensor:
        return torch.randint(5, 15, (number, 12), generator=generator)

    return Batch(
        images=images(rows),
        classes=torch.arange(rows) % 2,
        class_texts=tokens(rows),
        captions=tokens(3),
        caption_rows=torch.tensor([0, 2, 5]),
        anchor_images=images(anchors),
        anchor_texts=tokens(anchors),
    )


def test_objective_is_the_weighted_sum_of_its_terms(clip: Clip) -> None:
    data, scale = batch(), clip.model.logit_scale
    encoders = clip.model
    with torch.no_grad():
        features = encode(encoders, data, Weights(tc=0.5, itp=2.0))
        loss = objective(features, scale, data, Weights(tc=0.5, itp=2.0))
        x = encoders.encode_image(data.images, normalize=True)
        cls = encoders.encode_text(data.class_texts, normalize=True)
        cap = encoders.encode_text(data.captions, normalize=True)
        u = encoders.encode_image(data.anchor_images, normalize=True)
        s = encoders.encode_text(data.anchor_texts, normalize=True)
    reference = open_clip.ClipLoss()
    terms = [
        reference(x, cls, scale.exp()),
        reference(x[[0, 2, 5]], cap, scale.exp()),
        reference(u, s, scale.exp()),
    ]
    torch.testing.assert_close(loss.class_text, terms[0])
    torch.testing.assert_close(loss.tc, terms[1])
    torch.testing.assert_close(loss.itp, terms[2])
    torch.testing.assert_close(loss.total, terms[0] + 0.5 * terms[1] + 2 * terms[2])


def test_the_image_tower_runs_once_for_the_finetune_images_and_not_for_absent_terms(
    clip: Clip,
) -> None:
    sizes: list[int] = []
    clip.model.visual.register_forward_hook(lambda _, inputs, __: sizes.append(len(inputs[0])))
    encode(clip.model, batch(), Weights(tc=1, itp=1))
    assert sizes == [6, 4]
    sizes.clear()
    features = encode(clip.model, batch(), Weights(tc=0, itp=0))
    assert sizes == [6]
    assert features.caption is None
    assert features.anchor_image is None


def test_a_batch_without_captions_has_no_caption_term(clip: Clip) -> None:
    data = batch()
    none = Batch(
        **{
            **vars(data),
            "captions": torch.empty(0, dtype=torch.int64),
            "caption_rows": torch.empty(0, dtype=torch.int64),
        }
    )
    weights = Weights(tc=1, itp=0)
    loss = objective(encode(clip.model, none, weights), clip.model.logit_scale, none, weights)
    assert loss.tc is None
    assert torch.equal(loss.total, loss.class_text)
