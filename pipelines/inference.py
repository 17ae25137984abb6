"""How a model is run: in which number format, and how batches get to it."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from typing import Literal, get_args

import torch

from pipelines.flags import add
from schemas.errors import UserError

Precision = Literal["fp32", "bf16", "fp16"]
PRECISIONS: tuple[Precision, ...] = get_args(Precision)
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def add_options(parser: argparse.ArgumentParser) -> None:
    """Declare the option.

    Its default is the same on every machine: what a set holds must not depend on where it is
    built. On a GPU bf16 is what one wants.
    """
    add(
        parser,
        "precision",
        choices=PRECISIONS,
        default="fp32",
        help="number format of captioner and encoder; fp16 is for GPUs (default: %(default)s)",
    )


def choose_device(device: str, precision: Precision = "fp32") -> str:
    """``auto`` is the first GPU if there is one.

    Raises:
        UserError: torch knows no such device, this machine has none, or it lacks the precision.
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError):
        raise UserError(
            f"--device {device} is not to be had on this machine; give auto or cpu."
        ) from None
    if precision == "fp16" and torch.device(device).type == "cpu":
        raise UserError("--precision fp16 is for GPUs, and this is a CPU; give fp32 or bf16.")
    return device


def leaves_cores(device: str) -> bool:
    """True where images can be decoded while the model runs: on a GPU, or by few threads.

    A model that runs on all cores waits, at each of its operations, for the thread whose core is
    busy decoding: decoding first and running the model then is faster.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return torch.device(device).type != "cpu" or torch.get_num_threads() < (cores or 1)


def to_device(images: Sequence[torch.Tensor], device: str) -> torch.Tensor:
    """Tensors of one shape as one batch on the device, in their own format.

    To a GPU it goes from pinned memory, so that the copy does not wait for the work before it.
    """
    batch = torch.stack(list(images))
    if torch.device(device).type == "cuda":
        batch = batch.pin_memory().to(device, non_blocking=True)
    return batch.to(device)
