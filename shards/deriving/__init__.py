"""Sets made from sets.

Read ``derive`` first, what all of them share; then ``merge``, ``subset``, ``reshard``, ``strip``,
``join``. ``diff`` only compares; ``upgrade`` writes sets of older format versions anew.
"""
