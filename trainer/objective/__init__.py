"""What is minimised: features of the towers (features), and the terms made from them (terms).

A method (trainer.methods) is a list of terms. A term names the features that it wants; they are
computed once, whoever wants them, gathered over all processes, and handed to it.
"""
