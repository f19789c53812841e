"""fovea: domain-specific sparse autoencoders, trained side by side, measured honestly, handed over."""

__version__ = "0.1.0"
