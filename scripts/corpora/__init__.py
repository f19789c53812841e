"""How each committed corpus is made from public packages: one module per corpus, `make(work) -> Corpus`."""
