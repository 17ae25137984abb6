"""Teachers: models that the trained one is held to, by the term of ``objective.distill``.

``make_teacher`` in ``teacher`` says what there is; ``features`` is what a step asks of one.
"""
