"""The frozen language model: where to hook it, how to load it, how to stop, resume and patch its forward pass."""
