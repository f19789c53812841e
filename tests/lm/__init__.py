"""Tests of the frozen language model."""
