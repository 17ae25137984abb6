"""Anchor sets on disk: the only room that knows tars. No models, no Beam.

Here are reading (``reader`` by offset, ``stream`` in order), writing (``writer``, ``completion``),
what every part shares (``places`` makes local paths and remote stores the same thing), and the
guards against what strangers send (``guards``, ``tars``, ``images``, ``parquet``). The folders are
what is done with sets: ``sources`` (everybody else's images), ``checking``, ``deriving``,
``sharing``, ``showing``; ``commands`` is their side towards a terminal.
"""
