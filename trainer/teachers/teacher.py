"""The kinds of teachers: what each is, and how it moves while the run does."""

from __future__ import annotations

import math
from dataclasses import dataclass

from trainer.averages import Average
from trainer.config import TeacherConfig
from trainer.objective.features import Towers

DECAY, BETA = 0.999, (0.5, 0.5)


@dataclass(frozen=True)
class BetaKernel:
    """Weights along a run by the density of a Beta distribution over the share of it that is done.

    Of T steps there are T + 1 points, the start model and the weights after each step; point t
    lies at (t + 1/2) / (T + 1), and the mean is a running one, as in TRACER (arXiv 2605.29380) and
    its code: the teacher of step t is the mean over points 0 to t, with the weights that they will
    have at the end. With a = b = 1/2, TRACER's, the start and the end of the run count most; with
    a = b = 1 all points count the same.

    Ours are two parameters where TRACER has one for both, weights kept as logarithms, and that the
    statistics of batch normalisation are averaged too.

    Attributes:
        a, b: of the distribution; above 0.
        total: steps of the run, T.
    """

    a: float
    b: float
    total: int

    def log_weight(self, done: int) -> float:
        """See trainer.averages.Kernel; the constant of the density is left out."""
        place = (done + 0.5) / (self.total + 1)
        return (self.a - 1) * math.log(place) + (self.b - 1) * math.log1p(-place)


@dataclass(frozen=True)
class Teacher:
    """A teacher and how it moves.

    Attributes:
        towers: in eval mode, without gradients.
        average: what moves them, and is kept in checkpoints; None where they stay as they are.
    """

    towers: Towers
    average: Average | None = None


def make_teacher(config: TeacherConfig, towers: Towers, total: int) -> Teacher | None:
    """The teacher of a run that begins with these towers, and that they learn from from now on.

    ``frozen`` is the start model throughout; ``ema`` follows the weights as an exponential moving
    average; ``wma`` is the mean over the run so far that BetaKernel describes.

    Args:
        config: the options.
        towers: as the run begins, on its device, before a checkpoint is loaded.
        total: steps of the run.

    Returns:
        None where the options ask for none.
    """
    if config.teacher == "none":
        return None
    if config.teacher == "frozen":
        teacher = Teacher(towers.copy())
    else:
        if config.teacher == "ema":
            average = Average(towers, decay=decay_of(config))
        else:
            average = Average(towers, kernel=BetaKernel(*beta_of(config), total))
        teacher = Teacher(average.towers, average)
    towers.learn_from(teacher.towers)
    return teacher


def decay_of(config: TeacherConfig) -> float:
    """The decay as given, or its default."""
    return DECAY if config.teacher_decay is None else config.teacher_decay


def beta_of(config: TeacherConfig) -> tuple[float, float]:
    """The two parameters as given, or their defaults."""
    return (config.teacher_beta[0], config.teacher_beta[1]) if config.teacher_beta else BETA


def describe_teacher(config: TeacherConfig) -> dict[str, object] | None:
    """What the options came to, for config.json."""
    if config.teacher == "none":
        return None
    told: dict[str, object] = {"kind": config.teacher}
    if config.teacher == "ema":
        told["decay"] = decay_of(config)
    if config.teacher == "wma":
        told["beta"] = list(beta_of(config))
    return told
