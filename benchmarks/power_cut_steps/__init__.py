"""What `benchmarks.power_cuts` is made of."""
