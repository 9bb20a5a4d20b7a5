"""What must be true of the drawing corpus: its sources, its concepts, its pictures and how it is built."""

import base64
import hashlib
import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen
from PIL import Image, ImageFont

from stylear.errors import BadInput, MissingPart
from training.data import concepts, icons, packages
from training.data.packages import Package, fetch, read_file, read_files

DOG, ROCKET, HEART = "1f436", "1f680", "2764"
NAMES = {
    "🐶": {"name": "dog face", "group": "Animals & Nature"},
    "🚀": {"name": "rocket", "group": "Travel & Places"},
    "❤️": {"name": "red heart", "group": "Smileys & Emotion"},
    "🇹🇷": {"name": "flag Turkey", "group": "Flags"},
    "👋🏽": {"name": "waving hand medium skin tone", "group": "People & Body"},
    "👩‍🚀": {"name": "woman astronaut", "group": "People & Body"},
    "💃": {"name": "woman dancing", "group": "People & Body"},
    "👞": {"name": "man’s shoe", "group": "Objects"},
    "🕐": {"name": "one o’clock", "group": "Travel & Places"},
    "🔫": {"name": "water pistol", "group": "Activities"},
}
TAGS = [{"emoji": "🐶", "tags": ["dog face", "puppy", "pet"]}, {"emoji": "❤️", "tags": ["love"]}]
DISC = '<circle cx="8" cy="8" r="4" fill="{}"/>'


@pytest.fixture(scope="module")
def table():
    return concepts.concept_table(NAMES, TAGS)


# Packages


def test_every_pinned_family_may_be_passed_on_and_names_its_author():
    pins = json.loads(icons.PACKAGES.read_text(encoding="utf-8"))
    for pin in pins["families"].values():
        assert pin["licence"] in {"Apache-2.0", "MIT", "CC-BY-4.0", "OFL-1.1"}
        assert pin["author"] in pin["attribution"] and pin["licence"] in pin["attribution"]
    for pin in [*pins["families"].values(), *pins["texts"].values()]:
        assert pin["integrity"].startswith("sha512-")


def test_a_package_that_is_there_is_used_without_npm(tmp_path, monkeypatch):
    monkeypatch.setattr(packages.shutil, "which", lambda name: None)
    package = pack(tmp_path, "@set/one", {"icons.json": b"{}"})
    assert read_file(fetch(package, tmp_path), "icons.json") == b"{}"


def test_a_package_with_another_checksum_is_refused(tmp_path):
    package = pack(tmp_path, "one", {"icons.json": b"{}"})
    pack(tmp_path, "one", {"icons.json": b"[]"})
    with pytest.raises(BadInput, match="one-1.0.0.tgz is not the pinned package"):
        fetch(package, tmp_path)


def test_a_fetched_package_with_another_checksum_is_not_kept(tmp_path, monkeypatch):
    source, store = tmp_path / "source", tmp_path / "store"
    package = pack(source, "one", {"icons.json": b"{}"})
    pack(source, "one", {"icons.json": b"[]"})
    npm = f'for last; do :; done; cp "{source}/one-1.0.0.tgz" "$last"'
    monkeypatch.setattr(packages.shutil, "which", lambda name: script(tmp_path, npm))
    with pytest.raises(BadInput):
        fetch(package, store)
    assert not list(store.iterdir())


def test_without_npm_the_error_names_the_package_and_the_ways_out(tmp_path, monkeypatch):
    monkeypatch.setattr(packages.shutil, "which", lambda name: None)
    with pytest.raises(MissingPart, match=r"fetch @set/one@1.0.0.*install Node.js, or put .*--downloads"):
        fetch(Package("@set/one", "1.0.0", "sha512-"), tmp_path)


def test_when_npm_fails_its_reason_is_passed_on(tmp_path, monkeypatch):
    monkeypatch.setattr(packages.shutil, "which", lambda name: script(tmp_path, "echo no route >&2; exit 1"))
    with pytest.raises(MissingPart, match=r"check the network[\s\S]*no route"):
        fetch(Package("one", "1.0.0", "sha512-"), tmp_path)


def test_links_in_an_archive_are_not_followed_and_nothing_is_unpacked(tmp_path):
    archive = tmp_path / "bad.tgz"
    with tarfile.open(archive, "w:gz") as tar:
        link = tarfile.TarInfo("package/link")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/hostname"
        tar.addfile(link)
        climber = tarfile.TarInfo("package/../../climber")
        climber.size = 1
        tar.addfile(climber, io.BytesIO(b"x"))
    assert "link" not in read_files(archive, lambda path: True)
    assert [path.name for path in tmp_path.iterdir()] == ["bad.tgz"]


def test_a_file_a_package_lacks_is_named(tmp_path):
    package = pack(tmp_path, "one", {"icons.json": b"{}"})
    with pytest.raises(MissingPart, match="one-1.0.0.tgz has no chars.json"):
        read_file(fetch(package, tmp_path), "chars.json")


# Concepts


def test_flags_skin_tones_joined_and_gendered_people_clocks_and_the_pistol_are_no_concepts(table):
    assert [entry["name"] for entry in table.values()] == ["dog face", "rocket", "red heart", "man’s shoe"]


def test_the_keywords_of_a_concept_leave_out_its_name(table):
    assert table[DOG]["keywords"] == ["puppy", "pet"]
    assert table[HEART]["keywords"] == ["love"]


def test_drawings_are_matched_by_code_point_with_or_without_variation_selector(table):
    assert concepts.match_codes(table, {"2764-FE0F": "heart", "1f680": "rocket", "1f1f9": "t"}) == {
        ROCKET: "rocket",
        HEART: "heart",
    }


def test_a_family_can_correct_a_name_and_drop_a_drawing(table):
    own, usual = {"dog": DOG, "rocket": ""}, {"dog": "1f415", "rocket": ROCKET}
    assert concepts.match_names(table, ["dog", "rocket"], [own, usual]) == {DOG: "dog"}


def test_the_more_trusted_name_of_two_drawings_wins(table):
    spellings = [{"dogface": DOG}, {"dog": DOG}]
    assert concepts.match_names(table, ["dog", "dog-face"], spellings) == {DOG: "dog-face"}


def test_of_numbered_variants_the_first_is_taken(table):
    assert concepts.match_names(table, ["rocket-2", "rocket-1"], [{"rocket": ROCKET}]) == {ROCKET: "rocket-1"}


def test_former_names_of_a_set_with_code_points_are_known():
    aliases = {"old-dog": {"parent": "dog-face"}, "mirrored": {"parent": "dog-face", "hFlip": True}}
    spelling = concepts.iconify_spelling({"aliases": aliases}, {"1f436": "dog-face"})
    assert spelling == {"dogface": DOG, "olddog": DOG}


def test_a_drawing_in_one_ink_never_stands_for_a_concept_named_after_a_colour(table):
    assert HEART not in concepts.without_colour_names(table)
    assert DOG in concepts.without_colour_names(table)


# Pictures


def test_alpha_is_coverage_and_colour_is_not_mixed_with_a_background():
    svg = icons.svg_of(iconify({"a": DISC.format("#f00") + '<g opacity=".5">' + DISC.format("#f00") + "</g>"}), "a")
    picture = np.array(icons.draw_svg(svg, 32))
    assert picture[16, 16].tolist() == [255, 0, 0, 255]
    assert picture[0, 0, 3] == 0
    half = np.array(icons.draw_svg(icons.svg_of(iconify({"a": DISC.format("rgba(255,0,0,.5)")}), "a"), 32))
    assert half[16, 16, :3].tolist() == [255, 0, 0] and abs(int(half[16, 16, 3]) - 128) <= 1


def test_a_wide_drawing_is_centred_and_not_stretched():
    wide = {"icons": {"a": {"body": '<rect width="32" height="16"/>', "width": 32}}, "height": 16}
    alpha = np.array(icons.draw_svg(icons.svg_of(wide, "a"), 32))[..., 3]
    rows = np.flatnonzero(alpha.max(axis=1))
    assert (rows[0], rows[-1]) == (8, 23)


def test_a_single_colour_drawing_is_drawn_in_the_ink():
    svg = icons.svg_of(iconify({"a": DISC.format("currentColor")}), "a")
    assert np.array(icons.draw_svg(svg, 16))[8, 8].tolist() == [26, 26, 26, 255]


def test_a_resized_bitmap_keeps_its_colour_up_to_the_edge():
    source = np.zeros((64, 64, 4), np.uint8)
    source[16:48, 16:48] = (0, 200, 0, 255)
    picture = np.array(icons.draw_bitmap(webp(source), 24))
    seen = picture[picture[..., 3] > 64]
    assert picture[0, 0, 3] == 0 and np.abs(seen[:, :3].astype(int) - (0, 200, 0)).max() <= 4


def test_a_glyph_fills_the_square_up_to_the_margin():
    font = ImageFont.truetype(io.BytesIO(square_font("A")), 64)
    alpha = np.array(icons.draw_glyph(font, "A", 50))[..., 3]
    columns = np.flatnonzero(alpha.max(axis=0))
    assert (columns[0], columns[-1]) == (3, 46)


# The build


def test_a_corpus_holds_each_family_in_order_with_its_names_and_licences(corpus):
    out, store = corpus
    built = icons.open_icons(icons.build_icons(out, store, 16, workers=1))
    shown = [(row["family"], row["concept"]) for row in built.rows]
    assert shown == [("coded", DOG), ("coded", ROCKET), ("named", DOG), ("bitmap", ROCKET), ("glyph", DOG)]
    assert built.pixels.shape == (5, 16, 16, 4) and built.pixels.dtype == np.uint8
    assert [tuple(pixel) for pixel in built.pixels[:4, 8, 8]] == [
        (255, 0, 0, 255),
        (0, 0, 255, 255),
        (0, 255, 0, 255),
        (0, 200, 0, 255),
    ]
    assert not built.pixels[:, 0, 0].any()
    assert built.concepts.keys() == {DOG, ROCKET}
    assert built.families["glyph"]["licence"] == "OFL-1.1" and built.families["glyph"]["colour"] is False


def test_a_finished_corpus_is_left_alone(corpus):
    out, store = corpus
    icons.build_icons(out, store, 16, workers=1)
    before = (out / "icons.npy").stat().st_mtime_ns
    for package in store.iterdir():
        package.unlink()
    icons.build_icons(out, store, 16, workers=1)
    assert (out / "icons.npy").stat().st_mtime_ns == before
    assert sorted(path.name for path in out.iterdir()) == ["icons.json", "icons.npy"]


def test_an_interrupted_build_goes_on_where_it_stopped(corpus, monkeypatch):
    out, store = corpus
    drawn = []

    def stop(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(icons, "_merge", stop)
        with pytest.raises(KeyboardInterrupt):
            icons.build_icons(out, store, 16, lambda done, of, family: drawn.append(family), workers=1)
    assert sorted(drawn) == ["bitmap", "coded", "glyph", "named"]
    icons.build_icons(out, store, 16, lambda done, of, family: drawn.append(family), workers=1)
    assert len(drawn) == 4 and len(icons.open_icons(out).rows) == 5


def test_the_summary_says_what_is_there_now(corpus):
    out, store = corpus
    assert "5 drawings of 2 concepts from 4 families, 16 pixels wide" in icons.main(out, store, 16)


def test_a_folder_without_drawings_says_how_to_build_them(tmp_path):
    with pytest.raises(MissingPart, match="python -m training pretrain icons"):
        icons.open_icons(tmp_path)


def test_tiny_sizes_are_refused(tmp_path):
    with pytest.raises(BadInput, match="at least 8"):
        icons.build_icons(tmp_path, tmp_path, 4)


# Helpers


@pytest.fixture
def corpus(tmp_path, monkeypatch):
    """A folder to build in and the downloads of four tiny families, one of each kind."""
    out, store = tmp_path / "out", tmp_path / "store"
    coded = iconify({"puppy": DISC.format("#f00"), "ship": DISC.format("#00f")})
    named = iconify({"dog-face": DISC.format("#0f0"), "stranger": DISC.format("#0f0")})
    disc = np.zeros((32, 32, 4), np.uint8)
    disc[8:24, 8:24] = (0, 200, 0, 255)
    families = {
        "coded": family(
            pack(store, "@set/coded", text({"icons.json": coded, "chars.json": {DOG: "puppy", ROCKET: "ship"}}))
        ),
        "named": family(pack(store, "@set/named", text({"icons.json": named, "chars.json": {}}))),
        "bitmap": family(pack(store, "bitmap", {"assets/1f680.webp": webp(disc)}), kind="webp"),
        "glyph": family(
            pack(store, "glyph", {"a.ttf": square_font("🐶")}),
            kind="font",
            file="a.ttf",
            colour=False,
            licence="OFL-1.1",
        ),
    }
    shortcodes = {f"en/shortcodes/{name}.json": {} for name in icons.SHORTCODES}
    texts = {
        "names": pin(pack(store, "names", text({"data-by-emoji.json": NAMES}))),
        "keywords": pin(pack(store, "keywords", text({"en/data.json": TAGS, **shortcodes}))),
    }
    pins = tmp_path / "packages.json"
    pins.write_text(json.dumps({"texts": texts, "families": families}), encoding="utf-8")
    monkeypatch.setattr(icons, "PACKAGES", pins)
    return out, store


def family(package: Package, **more) -> dict:
    usual = {"kind": "iconify", "licence": "MIT", "author": "A", "colour": True, "attribution": "by A, MIT"}
    return {**pin(package), **usual, **more}


def pin(package: Package) -> dict:
    return {"package": package.name, "version": package.version, "integrity": package.integrity}


def pack(folder: Path, name: str, files: dict[str, bytes]) -> Package:
    """Writes an npm archive of `files` into `folder` and returns its pin."""
    folder.mkdir(exist_ok=True)
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for path, content in files.items():
            member = tarfile.TarInfo(f"package/{path}")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    digest = base64.b64encode(hashlib.sha512(buffer.getvalue()).digest()).decode()
    package = Package(name, "1.0.0", f"sha512-{digest}")
    (folder / package.filename).write_bytes(buffer.getvalue())
    return package


def text(files: dict[str, object]) -> dict[str, bytes]:
    return {path: json.dumps(content).encode() for path, content in files.items()}


def script(folder: Path, body: str) -> str:
    path = folder / "npm"
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)
    return str(path)


def iconify(bodies: dict[str, str]) -> dict:
    return {"icons": {name: {"body": body} for name, body in bodies.items()}, "width": 16, "height": 16}


def webp(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "WEBP", lossless=True)
    return file.getvalue()


def square_font(character: str) -> bytes:
    """A font whose only drawn glyph is a filled square."""
    pen = TTGlyphPen(None)
    pen.moveTo((100, 0))
    for corner in ((100, 800), (900, 800), (900, 0)):
        pen.lineTo(corner)
    pen.closePath()
    font = FontBuilder(1000, isTTF=True)
    font.setupGlyphOrder([".notdef", "square"])
    font.setupCharacterMap({ord(character): "square"})
    font.setupGlyf({".notdef": TTGlyphPen(None).glyph(), "square": pen.glyph()})
    font.setupHorizontalMetrics({".notdef": (1000, 0), "square": (1000, 100)})
    font.setupHorizontalHeader(ascent=1000, descent=-200)
    font.setupNameTable({"familyName": "Square", "styleName": "Regular"})
    font.setupOS2()
    font.setupPost()
    file = io.BytesIO()
    font.font.save(file)
    return file.getvalue()
