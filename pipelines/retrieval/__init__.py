"""The nearest pool images of every finetune image: the search, and the stage that runs it."""
