"""The README is short, and what only it says is true: make targets, benchmarks. Its commands run in
test_docs.py.
"""

import re
from pathlib import Path

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def test_it_is_short():
    assert len(README.splitlines()) <= 110


def test_options_in_prose_exist():
    import typer

    from labelscape.cli import app

    commands = typer.main.get_command(app).commands
    known = {o for verb in ("train", "map") for p in commands[verb].params for o in p.opts}
    prose = re.sub(r"^```.*?^```$", "", README, flags=re.M | re.S)
    for option in re.findall(r"`(--[a-z-]+|-o)[ `]", prose):
        assert option in known


def test_make_targets_exist():
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M)
    pages = [
        README,
        (ROOT / "CONTRIBUTING.md").read_text(),
        *map(Path.read_text, (ROOT / "docs").rglob("*.md")),
    ]
    asked = {t for page in pages for t in re.findall(r"(?:`|^)make ([a-z-]+)", page, re.M)}
    assert {"demo", "demo-quick", "docs", "test"} <= asked
    assert asked <= set(targets)


def test_benchmarks_and_networks_exist():
    from labelscape.nets.catalog import NETWORKS

    for script in re.findall(r"benchmarks/\w+\.py", README):
        assert (ROOT / script).is_file()
    for network in NETWORKS:
        assert f"`{network}`" in README


def test_the_version_is_the_same_everywhere():
    import yaml

    from labelscape.version import __version__

    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == __version__
    assert f"\n## {__version__}\n" in (ROOT / "CHANGELOG.md").read_text()
    assert {"cff-version", "message", "title", "authors"} <= set(citation)


def test_the_five_papers_are_cited_with_all_authors():
    import yaml

    papers = yaml.safe_load((ROOT / "CITATION.cff").read_text())["references"]
    names = [[a["family-names"] for a in paper["authors"]] for paper in papers]
    assert names == [
        ["Maggiori", "Tarabalka", "Charpiat", "Alliez"],
        ["Tian", "Li", "Shi"],
        ["Yang", "Liu", "Lu", "Xia"],
        ["Zhu", "Zhu", "Liu", "Luo"],
        ["Li", "Fan", "Zou", "Zuo", "Jiang", "Liu"],
    ]
    for paper in papers:
        assert all(
            f"`{network}`" in README
            for network in re.findall(r"\b(?:fcn|dfcnet|mswbn|dgcwnet|ifbfnet)\b", paper["notes"])
        )


def test_make_and_pip_get_the_small_torch_from_one_place():
    """Two ways to install; what is said of one helps nobody who follows the other."""
    (pip,) = re.findall(r"--extra-index-url (\S+)", README)
    (make,) = re.findall(r"PIP_EXTRA_INDEX_URL=([^`\s]+)", README)
    assert pip == make
