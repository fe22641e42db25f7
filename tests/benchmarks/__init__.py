"""Measurements against the rivals: `make benchmark`, or `python -m tests.benchmarks [PART ...]`.

Every figure is a ratio within one run: methods take turns, the median of their times counts, and
bytes are counted tensor by tensor. A part fails when a claim of the documents no longer holds.
"""
