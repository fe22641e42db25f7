"""A momentum model as files: weights under their original names, and what it takes to load them."""

from momentum_core.bundle.bundle import BundleConfig, load, read_config, save_weights

__all__ = ["BundleConfig", "load", "read_config", "save_weights"]
