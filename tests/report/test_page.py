"""report.html: one file that needs nothing else, says what is missing, and shows text as text."""

import base64
import hashlib
import json
import re
import struct
import zlib
from pathlib import Path

import pytest

from fovea.errors import ConfigError, RunError
from fovea.report import drawing
from fovea.report.page import write_report
from tests.report.make_run import Shape, make_run, read_lines, write_lines
from tests.report.pages import Page

pytestmark = pytest.mark.slow

HOSTILE = '"><script>alert(1)</script><img src=x onerror=alert(2)>'


def test_the_page_is_well_formed_and_its_ids_are_unique(report: Path) -> None:
    page = Page(report)
    assert not page.faults
    assert not page.open
    assert len(page.ids) == len(set(page.ids))


def test_the_page_loads_nothing(report: Path) -> None:
    page = Page(report)
    loading = {"link", "img", "iframe", "object", "embed", "image", "use", "source", "video", "audio"}
    assert not loading & {tag for tag, _ in page.tags}
    sources = [a for _, attributes in page.tags for a in attributes if a in ("src", "srcset", "data", "style")]
    assert not sources
    assert not re.search(r"https?://|url\((?!#)|@import", report.read_text())


def test_links_stay_in_the_page_or_the_run_folder(report: Path) -> None:
    page = Page(report)
    for link in page.all("a"):
        target = str(link["href"])
        assert target[1:] in page.ids if target[0] == "#" else (report.parent / target).is_file(), target


def test_labels_name_fields_that_exist(report: Path) -> None:
    page = Page(report)
    assert {label["for"] for label in page.all("label")} == {field["id"] for field in page.all("input")}


def test_the_content_policy_allows_the_one_style_and_the_one_script(report: Path) -> None:
    html = report.read_text()
    policy = next(str(m["content"]) for m in Page(report).all("meta") if m.get("http-equiv"))
    assert policy.startswith("default-src 'none'")
    assert "unsafe" not in policy
    for element in ("style", "script"):
        [content] = re.findall(rf"<{element}>(.*?)</{element}>", html, flags=re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert f"{element}-src 'sha256-{digest}'" in policy


def test_every_section_is_there_in_order(report: Path) -> None:
    wanted = [
        "finding",
        "figure-1",
        "figure-2",
        "figure-3",
        "results",
        "matched",
        "ledger",
        "definitions",
        "excluded",
        "provenance",
    ]
    assert [section["id"] for section in Page(report).all("section")] == wanted


def test_every_figure_has_a_label_with_numbers_and_a_caption(report: Path) -> None:
    page = Page(report)
    labels = [str(svg["aria-label"]) for svg in page.all("svg")]
    assert len(labels) == 2 * len(page.all("figure")) == 2 * len(page.all("figcaption"))
    assert all(re.search(r"\d", label) for label in labels)
    assert "finetune 0.633 [0.613, 0.652] at L0 23.6" in labels[0]


def test_captions_say_how_much_text_and_which_formula(report: Path) -> None:
    text = Page(report).text
    assert "(ce_g \u2212 ce) / (ce_g \u2212 ce_clean)" in text
    assert "biology, 214 documents, 109,568 tokens" in text
    assert "N = 204,800 general tokens" in text


def test_points_keep_their_digits_in_tooltips(report: Path) -> None:
    assert "<title>finetune l1_4: 0.633 [0.613, 0.652] at L0 23.6</title>" in report.read_text()


def test_figures_lie_beside_the_page_as_svg_and_png(report: Path) -> None:
    figures = report.parent / "figures"
    names = {path.stem for path in figures.glob("*.svg")}
    assert names == {path.stem for path in figures.glob("*.png")}
    assert {"pareto-loss-recovered-gap", "pareto-fvu", "density-biology", "novelty-biology"} <= names
    for name in names:
        svg, png = (figures / f"{name}.svg").read_text(), (figures / f"{name}.png").read_bytes()
        box = re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', svg)
        assert box is not None
        width, height = struct.unpack(">II", png[16:24])
        assert png[:8] == b"\x89PNG\r\n\x1a\n"
        assert abs(width - 2 * float(box[1])) <= 2
        assert abs(height - 2 * float(box[2])) <= 2
        assert len(set(_pixels(png))) > 20, f"{name}.png is blank"


def test_the_drawn_files_are_the_light_ones(report: Path) -> None:
    svg = (report.parent / "figures" / "pareto-fvu.svg").read_text()
    assert 'fill="#ffffff"' in svg
    assert "#0072b2" in svg


def test_the_same_run_gives_the_same_page(report: Path, tmp_path: Path) -> None:
    assert write_report(make_run(tmp_path / "run")).read_bytes() == report.read_bytes()


def test_nothing_half_written_is_left(report: Path) -> None:
    assert not [path for path in report.parent.rglob("*") if "partial" in path.name]


def test_gaps_have_reasons_and_values_far_below_g_compress_the_axis(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", Shape(nulls=True))
    lines = read_lines(run / "metrics.jsonl")
    for line in lines:
        if line["method"] == "direct" and line["metric"] == "loss_recovered_gap" and line["corpus"] == "general":
            line |= {"value": -24.0, "ci_low": -26.0, "ci_high": -22.0}
    write_lines(run / "metrics.jsonl", lines)
    path = write_report(run)
    assert '<span class="sr">none: KL was switched off</span>' in path.read_text()
    assert re.search(r"<sup>[a-z]</sup> KL was switched off", path.read_text())
    assert "The vertical axis of general text is compressed" in Page(path).text


def test_each_missing_part_is_named_with_its_consequence(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    optional = (
        "comparisons.jsonl definitions.json excluded.json provenance.json experiment.toml features/baselines.json"
    )
    for name in optional.split():
        (run / name).unlink()
    for path in [*run.glob("features/*/latents.parquet"), *run.glob("saes/*/job.json")]:
        path.unlink()
    text = Page(write_report(run)).text
    assert "Missing from this run folder" in text
    for name in [*optional.split(), "saes/*/job.json"]:
        assert f"{name}: " in text
    for said in (
        "no method is called the winner",
        "Not drawn: no features/JOB/latents.parquet with firing counts",
        "Not drawn: no features/JOB/latents.parquet with cosines",
        "No cost is known",
        "so the metrics are only named here",
        "The run cannot be repeated from this folder",
    ):
        assert said in text


def test_a_complete_run_reports_nothing_missing(report: Path) -> None:
    assert "Missing from this run folder" not in Page(report).text


def test_hostile_names_are_shown_as_text(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    for name in ("metrics.jsonl", "comparisons.jsonl"):
        lines = [
            json.loads(json.dumps(line).replace('"biology"', json.dumps(HOSTILE))) for line in read_lines(run / name)
        ]
        write_lines(run / name, lines)
    excluded = json.loads((run / "excluded.json").read_text())
    (run / "excluded.json").write_text(json.dumps({HOSTILE: {HOSTILE: HOSTILE}, **excluded}))
    (run / "experiment.toml").write_text(f"name = '{HOSTILE}'\n")
    path = write_report(run)
    page = Page(path)
    assert len(page.all("script")) == 1
    assert not page.all("img")
    assert not page.faults
    assert HOSTILE in page.text
    assert all(re.fullmatch(r"[a-z0-9.-]+", file.name) for file in (run / "figures").iterdir())


@pytest.mark.parametrize(
    "shape",
    [
        Shape(one_sparsity="ssae", intervals=False, n_documents=9),
        Shape(domains=("biology", "mathematics"), seeds=2),
    ],
    ids=["one point, no interval, few documents", "two domains, two seeds"],
)
def test_unusual_runs_are_reported(tmp_path: Path, shape: Shape) -> None:
    page = Page(write_report(make_run(tmp_path / "run", shape)))
    assert not page.faults
    assert len(page.ids) == len(set(page.ids))
    assert "NaN" not in page.text


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"holds no metrics\.jsonl.*give the folder of a finished run"):
        write_report(tmp_path)


def test_without_the_extra_the_message_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drawing, "find_spec", lambda name: None if name == "vl_convert" else name)
    with pytest.raises(ConfigError, match=r'vl_convert.*pip install "fovea-sae\[report\]"'):
        write_report(make_run(tmp_path / "run"))


def _pixels(png: bytes) -> list[bytes]:
    """Every 997th four bytes of the decoded rows: enough to tell a drawing from a blank."""
    data, at = b"", 8
    while at < len(png):
        length, kind = struct.unpack(">I4s", png[at : at + 8])
        data += png[at + 8 : at + 8 + length] if kind == b"IDAT" else b""
        at += 12 + length
    rows = zlib.decompress(data)
    return [rows[i : i + 4] for i in range(0, len(rows), 997)]
