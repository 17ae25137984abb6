"""How a step of Beam gets at its model: loaded once per process, shared by its threads."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch
from apache_beam.utils.shared import Shared

from pipelines.config import Machine
from pipelines.inference import Precision, choose_device

T = TypeVar("T")


def load_once(
    shared: Shared, machine: Machine, precision: Precision, load: Callable[[str], T]
) -> T:
    """The model of this process, loaded by the thread that comes first.

    Args:
        shared: of the step; made where the pipeline is built, so that all workers have the same.
        machine: torch takes its ``model_threads``, if that says anything.
        precision: that the model will run in.
        load: makes the model for a torch device.

    Raises:
        UserError: there is no such device, it lacks the precision, or the model does not load.
    """
    if machine.model_threads:
        torch.set_num_threads(machine.model_threads)
    device = choose_device(machine.device, precision)
    model: T = shared.acquire(lambda: load(device))
    return model
