"""Tests of fovea.report."""
