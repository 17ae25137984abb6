"""For every test: nothing is fetched, and open_clip and transformers can be imported."""

from __future__ import annotations

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # before transformers: nothing here needs the network

import models  # noqa: F401  makes torchvision importable beside a CPU build of torch
