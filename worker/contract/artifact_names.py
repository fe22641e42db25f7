"""The names of a job's files: what the worker writes, and the API serves."""

from __future__ import annotations

WEIGHTS_FILE = "model.safetensors"
"""The momentum network's weights."""
ORIGINAL_FILE = "original.safetensors"
"""The same weights under exactly the original network's names."""
EVALUATION_FILE = "evaluation.safetensors"
"""Logits of the networks on the test images."""
BUNDLE_FILE = "bundle.zip"
REPORT_FILE = "report.json"
PAGE_FILE = "report.html"
TABLE_FILE = "report.csv"
HISTORY_FILE = "history.json"
"""Of training, step by step."""
