"""Training: many SAEs on one pass over one stream of activations, resumable to the same bytes."""
