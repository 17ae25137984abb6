"""Building anchor sets with Beam: caption, embed, retrieve, assemble.

Read ``build`` first: the composition. Each stage is a file with one PTransform; it reads the files
of the stage before and leaves one file per unit of its input, written whole, so that each stage
runs, resumes and can be looked at on its own. ``options`` is the one options class. Elements are
references; image bytes are read where they are used and never cross a shuffle.
"""

import logging

# Beam warns of this at every import, of a Google package that only its BigQuery reader wants.
logging.getLogger().addFilter(lambda record: "apitools not found" not in record.getMessage())
