"""Tests mirror the folders they test; `benchmarks` measures, and is run by hand."""
