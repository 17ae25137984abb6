"""Building anchor sets with Beam: caption, embed, screen, retrieve, select, assemble.

Read ``build`` first: the composition. The folders are the kinds of steps, each with its options.
A stage is a file with one PTransform; it reads the files of the stage before and leaves one file
(a part) per unit of its input, written whole, so that each stage runs, resumes and can be looked
at on its own. Elements are references; image bytes are read where they are used and never cross a
shuffle.
"""

import logging

# Beam warns of this at every import, of a Google package that only its BigQuery reader wants.
logging.getLogger().addFilter(lambda record: "apitools not found" not in record.getMessage())
