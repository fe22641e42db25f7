"""A momentum model as files: weights under their original names, and what it takes to load them.

details configuration    what is said of the model, and its versioned JSON
weights_file             one safetensors file with the configuration in its metadata
folder model_card        a folder in the layout of the Hugging Face hub
load                     the way back
"""

from momentum_core.bundle.configuration import BundleConfig
from momentum_core.bundle.details import BundleDetails
from momentum_core.bundle.folder import save
from momentum_core.bundle.load import load, read_config
from momentum_core.bundle.weights_file import save_weights, write_weights

__all__ = [
    "BundleConfig",
    "BundleDetails",
    "load",
    "read_config",
    "save",
    "save_weights",
    "write_weights",
]
