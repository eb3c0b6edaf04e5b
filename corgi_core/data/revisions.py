"""Revisions of the code behind the data stages: raised when it gives other results.

The assets, DVC's stages and the gate's own records read them here.
"""

INGEST_REVISION = 3
GATE_REVISION = 4
