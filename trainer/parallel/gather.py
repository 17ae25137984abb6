"""Rows of all processes in one tensor, with gradients to each row's own process."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch.distributed.nn.functional import all_gather


def together() -> bool:
    """True where this process trains with others."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def gather_rows(rows: torch.Tensor) -> torch.Tensor:
    """The rows of all processes, in the order of their ranks.

    Every process then computes the loss of the whole batch. The gradient of a row is the sum over
    the processes, so once gradients of the weights are averaged over the processes (as
    DistributedDataParallel does), they are those of one process with the whole batch.

    Args:
        rows: [n, ...]; n may differ between processes, and be 0.

    Returns:
        [sum of n, ...]; the tensor itself where there is only one process.
    """
    if not together():
        return rows
    sizes = _sizes(rows)
    most = max(sizes)
    if most == 0:
        return rows
    padded = rows.new_zeros((most, *rows.shape[1:]))
    padded = torch.cat([rows, padded[len(rows) :]])
    if rows.requires_grad:
        found = list(all_gather(padded))
    else:
        found = [torch.empty_like(padded) for _ in sizes]
        dist.all_gather(found, padded.contiguous())
    return torch.cat([part[:size] for part, size in zip(found, sizes, strict=True)])


def _sizes(rows: torch.Tensor) -> list[int]:
    mine = torch.tensor([len(rows)], device=rows.device)
    found = [torch.empty_like(mine) for _ in range(dist.get_world_size())]
    dist.all_gather(found, mine)
    return [int(size) for size in found]
