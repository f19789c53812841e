"""Blind studies: packets that come back, a study in a run of somebody else's, notes."""

from pathlib import Path

from scripts.fuzzing.mutations import Files
from scripts.fuzzing.reader import Reader, files_of
from tests.rating.made_study import made, work

from fovea.app.notes import Notes
from fovea.rating.packet import Packet, import_packet, make_packet
from fovea.rating.packetfile import check_is_closed, read_packed
from fovea.rating.study import Study
from fovea.rating.words import result_text, status_text
from fovea.report.studies import studies

SMALL = {"features_per_arm": 2, "n_practice": 1, "n_guesses": 2, "repeat_share": 0.1}


def packets(folder: Path) -> dict[str, Files]:
    """A study, and the packet of one of its raters: only the packet is damaged."""
    study = made(folder / "run", **SMALL)
    work(study.rater(study.tokens()["ann"]), n_steps=3)
    make_packet(study, "ann", folder / "ann.sqlite")
    study.close()
    packet = Packet(folder / "ann.sqlite")
    work(packet.rater(packet.token), n_steps=4)
    packet.close()
    return {"ann": {"ann.sqlite": (folder / "ann.sqlite").read_bytes()}}


def read_packet(folder: Path, seed: str) -> None:  # noqa: ARG001
    """Import it into the study, and open it as its rater does."""
    path = folder / "ann.sqlite"
    if path.is_symlink():  # the user names the file, and may name a link
        return
    check_is_closed(path)
    read_packed(path)
    if (folder.parent / "study").is_dir():
        study = Study.open(folder.parent / "study", "one")
        try:
            import_packet(study, path)
        finally:
            study.close()
    packet = Packet(path)
    try:
        packet.rater(packet.token).next_item()
    finally:
        packet.close()


def rated(folder: Path) -> dict[str, Files]:
    """A run with a study that is unblinded."""
    study = made(folder / "run", **SMALL)
    work(study.rater(study.tokens()["ann"]), n_steps=4)
    study.unblind(force_reason="time is up")
    study.store._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    study.close()
    notes = Notes(folder / "run")
    notes.add("g", 0, "a note")
    notes.close()
    return {"run": files_of(folder / "run")}


def read_study(folder: Path, seed: str) -> None:  # noqa: ARG001
    """What status, unblind, serve and report do with it."""
    notes = Notes(folder)
    try:
        notes.refresh()
        notes.of("g", 0)
    finally:
        notes.close()
    studies(folder)
    study = Study.open(folder, "one")
    try:
        status_text(study.status())
        session = study.session(1)
        session.progress()
        session.answers()
        session.told()
        result_text(study.unblind())
    finally:
        study.close()


PACKETS = Reader("packet", packets, read_packet, share=4, is_rewritten=True)
STUDIES = Reader("study", rated, read_study, share=2, is_rewritten=True)
