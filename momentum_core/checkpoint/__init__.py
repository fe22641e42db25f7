"""Strangers' checkpoints and data sets, read without torch and without running any of them.

limits refusal          what a file may ask for; how it is refused
byte_source tensor      bounded reading; a tensor where it lies
sniff                   which format a file has
pickle_*                the interpreter that can build but never call
zip_directory torch_zip torch_legacy safetensors_reader      the accepted formats
state_dict              the weights inside what a file holds
signatures matching     the architectures, and which one fits
npz_dataset             data sets
safetensors_writer inspection           the canonical file; all of it, on an open file
"""

from momentum_core.checkpoint.facts import CheckpointFacts, DatasetFacts
from momentum_core.checkpoint.library_signature import LibrarySignature
from momentum_core.checkpoint.limits import DEFAULT_LIMITS, Limits
from momentum_core.checkpoint.matching import ArchitectureMatch, find_architecture
from momentum_core.checkpoint.npz_dataset import Dataset, read_dataset, read_dataset_facts
from momentum_core.checkpoint.reader import Checkpoint, read_checkpoint
from momentum_core.checkpoint.safetensors_writer import write_safetensors
from momentum_core.checkpoint.signatures import ARCHITECTURES, input_shape
from momentum_core.checkpoint.tensor import StoredTensor

__all__ = [
    "ARCHITECTURES",
    "DEFAULT_LIMITS",
    "ArchitectureMatch",
    "Checkpoint",
    "CheckpointFacts",
    "Dataset",
    "DatasetFacts",
    "LibrarySignature",
    "Limits",
    "StoredTensor",
    "find_architecture",
    "input_shape",
    "read_checkpoint",
    "read_dataset",
    "read_dataset_facts",
    "write_safetensors",
]
