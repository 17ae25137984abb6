"""Where the model runs and in which precision."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch

from schemas.errors import UserError


def choose_device(spec: str) -> torch.device:
    """``auto`` (the first GPU if there is one), ``cpu``, ``cuda`` or ``cuda:N``.

    Raises:
        UserError: no such device here.
    """
    if spec == "auto":
        spec = "cuda" if torch.cuda.is_available() else "cpu"
    if not re.fullmatch(r"cpu|cuda(:\d+)?", spec):
        raise UserError(f"--device {spec!r} is none of auto, cpu, cuda and cuda:N.")
    device = torch.device(spec)
    if device.type == "cuda":
        number = device.index or 0
        if number >= torch.cuda.device_count():
            raise UserError(
                f"--device {spec!r} is not here: torch sees {torch.cuda.device_count()} GPUs; "
                f"use cpu, or a torch built for the GPU."
            )
        device = torch.device("cuda", number)
    return device


def choose_precision(spec: str, device: torch.device) -> torch.dtype:
    """``auto`` is bfloat16 on a GPU and float32 elsewhere."""
    if spec == "auto":
        spec = "bf16" if device.type == "cuda" else "fp32"
    return {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[spec]


@contextmanager
def float32_products(device: torch.device, tf32: bool) -> Iterator[None]:
    """Matrix products of float32 in TF32, if asked for; as it was before, afterwards.

    Raises:
        UserError: TF32 is asked for on the CPU, which has none.
    """
    if device.type != "cuda":
        if tf32:
            raise UserError(f"--tf32 is for GPUs, and this run is on {device}; leave it out.")
        yield
        return
    before = torch.get_float32_matmul_precision()
    if tf32:
        torch.set_float32_matmul_precision("high")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def make_scaler(dtype: torch.dtype, device: torch.device) -> torch.amp.GradScaler | None:
    """What scales the loss so that small gradients survive float16; other types need none."""
    return torch.amp.GradScaler(device.type) if dtype == torch.float16 else None


def autocast(device: torch.device, dtype: torch.dtype) -> AbstractContextManager[object]:
    """Forward passes in ``dtype``; the weights stay float32."""
    if dtype == torch.float32:
        return nullcontext()
    return torch.autocast(device.type, dtype=dtype)
