"""Homeostat on a plant that nobody here wrote: `python -m benchmarks.foreign`."""
