"""Batches on their way to the device: on a GPU the copy overlaps with the step before."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch

from trainer.data import Batch


def on_device(batches: Iterable[Batch], device: torch.device) -> Iterator[Batch]:
    """The same batches in the same order, on the device.

    On a GPU each is copied on a stream of its own. The loop asks for batch t + 1 once it has
    launched the kernels of step t, which the GPU has yet to work through, so the copy runs beside
    them; the loop's stream waits for it on the GPU, and the process not at all. No batch is asked
    for before the loop wants it, so a file that is gone ends the run after the last step that was
    possible. Elsewhere batches pass as they are.

    Args:
        batches: in page-locked memory, for a GPU; from other memory the copy holds up the process.
        device: of the model.
    """
    if device.type != "cuda":
        for batch in batches:
            yield batch.to(device)
        return
    side = torch.cuda.Stream(device)
    for batch in batches:
        with torch.cuda.stream(side):
            copied = batch.to(device)
        used = torch.cuda.current_stream(device)
        used.wait_stream(side)
        # Its memory belongs to the side stream, which would give it to a later copy while the
        # step still reads it.
        copied.record_stream(used)
        yield copied
