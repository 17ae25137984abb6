"""For every test: nothing is fetched, one thread, open_clip and transformers can be imported."""

from __future__ import annotations

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # before transformers: nothing here needs the network
# The tests share out the cores, and threads that wait for a core which another has are slow.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import models  # noqa: F401  makes torchvision importable beside a CPU build of torch
