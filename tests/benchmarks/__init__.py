"""Measurements, each one command that writes its numbers to `results/`.

python -m tests.benchmarks.refine_cost   forest scoring against the plain loop and padded batches
python -m tests.benchmarks.refine_scale  rows per second, driver memory, speed-up with actors (no model)
"""
