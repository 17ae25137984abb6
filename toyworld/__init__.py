"""The embedded default: a procedural image world, with small models pretrained on it.

Everything here is data and models of ordinary kinds (an image folder, img2dataset tars,
CLIP_benchmark sets, an open_clip folder, a BLIP folder), so that the pipelines and the trainer
treat it like anybody's. Read ``vocabulary`` and ``scene`` first, then ``render``, ``world`` (what
is written to disk), ``pretrain`` (how the models in ``models/`` were made) and ``demo``.
"""
