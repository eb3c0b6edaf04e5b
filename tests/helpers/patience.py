"""How long tests wait for what must come, however slow and busy the machine is.

A bound that the product promises, such as ten seconds from an interrupt to the end, is never this.
"""

PATIENCE = 600.0  # seconds
