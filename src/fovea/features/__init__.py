"""Evidence about each latent: what it fires on, what it writes, what is near it; collected once, read page by page."""
