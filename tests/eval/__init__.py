"""Tests of fovea.eval."""
