"""Sparse autoencoders: one architecture, its settings and its objective a file; the same weights on disk as SAELens."""
