"""Methods: how a domain SAE relates to the frozen general SAE g. Nothing outside asks which one it is."""
