"""Finetuning CLIP with anchors, and measuring what came of it. No Beam.

Read ``loss`` (the objective) and ``loop`` (the whole training loop) first, then ``data``: every
batch is a pure function of the seed and the step. ``train`` puts the parts together;
``evaluate`` measures a model with the zero-shot head of its own text tower.
"""

import models  # noqa: F401  (before open_clip: it makes torchvision importable)
