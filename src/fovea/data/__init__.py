"""From documents to rows of activations: read, split, clean, tokenise, run the lm, keep, mix."""
