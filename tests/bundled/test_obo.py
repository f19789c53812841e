"""Terms of ontologies as sentences, relatives together."""

from fovea.bundled.obo import Term, family_documents, terms

FILE = """format-version: 1.2

[Term]
id: X:1
name: cell division
def: "The process by which a cell \\"divides\\".\\nIt ends in two cells." [source]
comment: Note that nuclear division is another term.
is_a: X:9 ! cellular process
is_a: X:8 ! reproduction

[Term]
id: X:2
name: old thing
def: "OBSOLETE. Gone." []
is_obsolete: true

[Term]
id: X:3
name: undefined thing

[Typedef]
id: part_of
name: part of
def: "A relation." []
"""


def test_current_defined_terms_are_read_with_their_escapes_undone():
    (term,) = terms(FILE)
    assert term.parents == ("cellular process", "reproduction")
    assert term.sentence == (
        'Cell division: The process by which a cell "divides". It ends in two cells. '
        "Note that nuclear division is another term."
    )


def test_a_large_family_has_documents_of_its_own_and_small_ones_share():
    def family(parent: str, size: int) -> list[Term]:
        return [Term(f"{parent} {number}", "word " * 40, "", (parent,)) for number in range(size)]

    documents = family_documents([*family("large", 30), *family("b", 2), *family("a", 2)])
    assert sum(text.count("Large") for text in documents) == 30
    assert not any("Large" in text and "A 0" in text for text in documents)
    assert documents[-1].startswith("A 0")
    assert "B 1" in documents[-1]
    assert all(len(text) <= 3000 for text in documents)
