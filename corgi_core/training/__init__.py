"""One training loop for every model: step, moving average, checkpoint, exact resume."""
