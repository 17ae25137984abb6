"""Which pairs become anchors: what is searched at all, and what of the retrieved is kept."""
