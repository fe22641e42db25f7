"""The examples of the library's guide and of the README run as they stand there."""

from __future__ import annotations

import sys

from tests.guides.examples import blocks, run


def test_the_library_guide_runs_from_its_beginning_to_its_end(tmp_path):
    examples = blocks("docs/library.md", "python")
    assert len(examples) == 6
    told = run([sys.executable, "-c", "\n".join(examples)], tmp_path)
    assert "layer1.0" in told
    assert (tmp_path / "converted" / "config.json").exists()


def test_the_readmes_conversion_runs(tmp_path):
    _, _, converting = blocks("README.md", "python")
    assert "layer1" in run([sys.executable, "-c", converting], tmp_path)
