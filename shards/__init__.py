"""Anchor sets on disk: reading, writing, checking and showing them. The only room that knows tars.

Read ``writer`` and ``reader`` first; ``sources`` reads everybody else's images; ``places`` is
where local paths and remote stores become the same thing. No models, no Beam.
"""
