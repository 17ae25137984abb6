"""What an anchor set says: records, manifest, table schemas, the format version.

Pure data, checked on the way in. No I/O, no torch, no Beam. Read ``record`` first, then
``manifest``; ``tables`` holds the Arrow schemas that the stages hand to each other.
"""
