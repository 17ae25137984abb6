"""Batches on their way to the device keep their order and are not asked for early."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from schemas.errors import UserError
from trainer.data import Batch
from trainer.prefetch import on_device

DEVICES = [
    "cpu",
    pytest.param(
        "cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
    ),
]


def batch(number: int) -> Batch:
    return Batch(
        {"finetune": torch.full((2, 3, 4, 4), float(number))},
        {"class": torch.full((2, 5), number)},
        torch.tensor([number, number]),
        {"captions/set": torch.tensor([1])},
        (("finetune", str(number), "empty_file", "no bytes"),),
        {"finetune": ("a", "b")},
    )


@pytest.mark.parametrize("kind", DEVICES)
def test_every_batch_comes_once_in_order_and_whole(kind: str) -> None:
    device = torch.device(kind)
    seen = list(on_device(map(batch, range(5)), device))
    assert len(seen) == 5
    for number, found in enumerate(seen):
        wanted = batch(number)
        assert found.bad == wanted.bad
        assert found.keys == wanted.keys
        for name in ("images", "texts", "rows"):
            mine, theirs = getattr(found, name), getattr(wanted, name)
            assert mine.keys() == theirs.keys()
            assert all(mine[one].device.type == kind for one in mine)
            assert all(torch.equal(mine[one].cpu(), theirs[one]) for one in mine)
        assert torch.equal(found.classes.cpu(), wanted.classes)


@pytest.mark.parametrize("kind", DEVICES)
def test_no_batch_is_asked_for_before_it_is_wanted(kind: str) -> None:
    asked = 0

    def some() -> Iterator[Batch]:
        nonlocal asked
        for number in range(2):
            asked += 1
            yield batch(number)
        raise UserError("a tar is gone.")

    ahead = on_device(some(), torch.device(kind))
    for number in range(2):
        next(ahead)
        assert asked == number + 1
    with pytest.raises(UserError, match="a tar is gone"):
        next(ahead)
