"""GradCache: the gradient of a large contrastive batch in the memory of a small one.

Gao et al., "Scaling Deep Contrastive Learning Batch Size under Memory Limited Setup", RepL4NLP
2021 (arXiv 2101.06983). The features of the whole batch are computed without a graph, chunk by
chunk; the loss gives their gradients; then each chunk is computed again, with a graph, and its
gradient is carried on into the weights. Two forward passes instead of one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager

import torch

from trainer.objective.features import Feature, Features
from trainer.objective.terms import Loss

Inputs = Mapping[Feature, torch.Tensor]
Encode = Callable[[Inputs], Features]
Seeded = Callable[[int], AbstractContextManager[object]]
"""Fixes what the towers draw (dropout, dropped patches) in the chunk of that number."""


def backward(
    encode: Encode,
    inputs: Inputs,
    loss: Callable[[Features], Loss | None],
    *,
    chunk: int,
    seeded: Seeded,
    scaler: torch.amp.GradScaler | None = None,
) -> Loss | None:
    """Add the gradient of ``loss(encode(inputs))`` to the weights.

    Exactly the gradient of the whole batch, up to floating-point rounding, for towers whose rows
    do not depend on each other (no batch normalisation).

    Args:
        encode: inputs to features, [n, ...] to [n, D]; called twice for each chunk.
        inputs: of the whole batch.
        loss: of the features of the whole batch.
        chunk: rows that are encoded at once.
        seeded: see Seeded.
        scaler: multiplies the loss, and so the gradient, by its scale.

    Returns:
        The loss; None where there is none, and so no gradient.
    """
    parts = list(_chunks(inputs, chunk))
    cached: dict[Feature, torch.Tensor] = {}
    with torch.no_grad():
        for number, (feature, rows) in enumerate(parts):
            with seeded(number):
                found = encode({feature: rows})[feature]
            cached[feature] = torch.cat([cached[feature], found]) if feature in cached else found
    for features in cached.values():
        features.requires_grad_()
    value = loss(cached)
    if value is None:
        return None
    total = value.total if scaler is None else scaler.scale(value.total)
    total.backward()  # type: ignore[no-untyped-call]
    done = dict.fromkeys(cached, 0)
    for number, (feature, rows) in enumerate(parts):
        start = done[feature]
        done[feature] += len(rows)
        gradient = cached[feature].grad
        if gradient is None or not len(rows):
            continue  # nothing followed from it
        with seeded(number):
            found = encode({feature: rows})[feature]
        torch.autograd.backward(found, gradient[start : start + len(rows)])
    return value


def _chunks(inputs: Inputs, chunk: int) -> Iterator[tuple[Feature, torch.Tensor]]:
    for feature, rows in inputs.items():
        for part in rows.split(chunk) if len(rows) else (rows,):
            yield feature, part
