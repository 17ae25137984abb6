"""The pretrained models, as both the pipelines and the trainer load them.

One obvious place for the question "which weights does this name mean": ``clip`` resolves an
open_clip model from a name, a hub id or a folder. Importing this package makes torchvision
importable beside a CPU build of torch (``torchvision_fix``), so import it before open_clip.
"""

from models.torchvision_fix import ensure_torchvision

ensure_torchvision()
