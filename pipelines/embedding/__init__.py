"""Image embeddings of the frozen CLIP: the encoder, and the stage that runs it."""
