"""Layouts of other libraries, in both directions: the only code that knows them.

They are here and not to the right of the pipeline because a reference to an SAE must be able to name any of them, and
imports point left only; a layout's reader and writer share its names, so both are in one file.

files of a library --guard, tensors, pickled: nothing is executed, nothing is believed--> its names and conventions
    --one module per library--> Plain (SAELens names, what was converted) --fovea.sae.files.assemble--> SAE
"""
