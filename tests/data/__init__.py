"""Tests of the way from documents to rows of activations."""
