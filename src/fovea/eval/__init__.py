"""Measuring SAEs: per-document sums in one pass of the lm, from which metrics, intervals and comparisons follow."""
