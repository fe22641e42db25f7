"""All hostile and broken files, for every test that sends them somewhere."""

from __future__ import annotations

from tests.corpus.archive_files import ARCHIVE_CASES
from tests.corpus.case import Case
from tests.corpus.foreign_files import FOREIGN_CASES
from tests.corpus.image_files import IMAGE_CASES
from tests.corpus.npz_files import NPZ_CASES
from tests.corpus.safetensors_files import SAFETENSORS_CASES
from tests.corpus.torch_files import TORCH_CASES

CASES: tuple[Case, ...] = (
    *TORCH_CASES,
    *SAFETENSORS_CASES,
    *FOREIGN_CASES,
    *NPZ_CASES,
    *ARCHIVE_CASES,
    *IMAGE_CASES,
)
