"""The objective, against open_clip's loss and against a computation written out by hand."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import open_clip
import pytest
import torch
import torch.nn.functional as F

from models.clip import Clip
from trainer.classifier import at_random, from_zero_shot
from trainer.data import Batch
from trainer.methods.arf import ARF, ARF_TC
from trainer.methods.classifier import FT
from trainer.methods.method import AnchorWeights, Ingredients
from trainer.objective.contrastive import contrastive_loss
from trainer.objective.features import Towers
from trainer.objective.terms import Loss, Term, objective, wanted
from trainer.parallel.gather import gather_rows


def unit(rows: int, seed: int, dimension: int = 16) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(rows, dimension, generator=generator), dim=-1)


def by_hand(image: np.ndarray, text: np.ndarray, log_scale: float, target: np.ndarray) -> float:
    """Loops and logarithms only, in float64."""
    logits = min(math.exp(log_scale), 100.0) * image.astype(np.float64) @ text.astype(np.float64).T
    total = 0.0
    for matrix in (logits, logits.T):
        for row, due in zip(matrix, target, strict=True):
            logs = row - math.log(sum(math.exp(value - row.max()) for value in row)) - row.max()
            total -= sum(due * logs) / len(logits)
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


SETS = (AnchorWeights("set", tc=0.5, itp=2.0),)


def batch(rows: int = 6, anchors: int = 4) -> Batch:
    generator = torch.Generator().manual_seed(3)

    def images(number: int) -> torch.Tensor:
        return torch.randn(number, 3, 32, 32, generator=generator)

    def tokens(number: int) -> torch.Tensor:
        return torch.randint(5, 15, (number, 12), generator=generator)

    return Batch(
        images={"finetune": images(rows), "pairs/set": images(anchors)},
        texts={"class": tokens(rows), "captions/set": tokens(3), "pairs/set": tokens(anchors)},
        classes=torch.arange(rows) % 2,
        rows={"captions/set": torch.tensor([0, 2, 5])},
    )


def value(towers: Towers, terms: Sequence[Term], data: Batch) -> Loss:
    loss = objective(terms, towers(wanted(terms, data)), data, towers, gather_rows)
    assert loss is not None
    return loss


def test_arf_is_the_weighted_sum_of_its_terms(clip: Clip) -> None:
    data, towers, encoders = batch(), Towers(clip.model), clip.model
    with torch.no_grad():
        loss = value(towers, ARF.phases[0].terms(Ingredients(SETS)), data)
        x = encoders.encode_image(data.images["finetune"], normalize=True)
        cls = encoders.encode_text(data.texts["class"], normalize=True)
        cap = encoders.encode_text(data.texts["captions/set"], normalize=True)
        u = encoders.encode_image(data.images["pairs/set"], normalize=True)
        s = encoders.encode_text(data.texts["pairs/set"], normalize=True)
        scale = clip.model.logit_scale.exp()
    reference = open_clip.ClipLoss()
    terms = [reference(x, cls, scale), reference(x[[0, 2, 5]], cap, scale), reference(u, s, scale)]
    for name, expected in zip(("class_text", "tc", "itp"), terms, strict=True):
        torch.testing.assert_close(loss.terms[name], expected)
    torch.testing.assert_close(loss.total, terms[0] + 0.5 * terms[1] + 2 * terms[2])


def test_the_image_tower_runs_once_for_the_finetune_images_and_not_for_absent_terms(
    clip: Clip,
) -> None:
    sizes: list[int] = []
    clip.model.visual.register_forward_hook(lambda _, inputs, __: sizes.append(len(inputs[0])))
    towers = Towers(clip.model)
    value(towers, ARF.phases[0].terms(Ingredients(SETS)), batch())
    assert sizes == [6, 4]
    sizes.clear()
    nothing = Ingredients((AnchorWeights("set", tc=0, itp=0),))
    loss = value(towers, ARF.phases[0].terms(nothing), batch())
    assert sizes == [6]
    assert loss.terms.keys() == {"class_text"}


def test_a_batch_without_captions_has_no_caption_term(clip: Clip) -> None:
    data = batch()
    none = replace(
        data,
        texts={**data.texts, "captions/set": data.texts["captions/set"][:0]},
        rows={"captions/set": torch.empty(0, dtype=torch.int64)},
    )
    terms = ARF_TC.phases[0].terms(Ingredients((AnchorWeights("set", tc=1, itp=0),)))
    assert [term.name for term in terms] == ["class_text", "tc"]
    loss = value(Towers(clip.model), terms, none)
    assert loss.terms.keys() == {"class_text"}
    assert torch.equal(loss.total, loss.terms["class_text"])


def test_terms_of_several_sets_are_told_apart() -> None:
    sets = (AnchorWeights("a", tc=1, itp=0.5), AnchorWeights("b", tc=0, itp=2))
    terms = ARF.phases[0].terms(Ingredients(sets))
    assert [(term.name, term.weight) for term in terms] == [
        *[("class_text", 1), ("tc/a", 1), ("itp/a", 0.5), ("itp/b", 2)]
    ]


@pytest.mark.parametrize("head", ["zero-shot", "random"])
def test_cross_entropy_begins_with_the_head_that_was_asked_for(clip: Clip, head: str) -> None:
    data = batch()
    with torch.no_grad():
        rows = unit(2, 5)
        scale = clip.model.logit_scale
        made = from_zero_shot(rows, scale) if head == "zero-shot" else at_random(2, 16, seed=1)
        loss = value(Towers(clip.model, made), FT.phases[0].terms(Ingredients()), data)
        x = clip.model.encode_image(data.images["finetune"], normalize=True)
        logits = scale.exp() * x @ rows.T if head == "zero-shot" else made(x)
        torch.testing.assert_close(loss.total, F.cross_entropy(logits, data.classes))
    assert not torch.equal(at_random(2, 16, seed=1).weight, at_random(2, 16, seed=2).weight)
