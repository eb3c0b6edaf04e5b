"""One real step of every model of a preset, at its real shapes."""
