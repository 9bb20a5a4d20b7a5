"""What the drawings show: the table of concepts, and which drawing of a family shows which concept."""

import re
import unicodedata
from collections.abc import Iterable

GROUPS = frozenset(
    {
        "Smileys & Emotion",
        "People & Body",
        "Animals & Nature",
        "Food & Drink",
        "Travel & Places",
        "Activities",
        "Objects",
    }
)
# People whose gender is the point or differs between families, clock faces, phases of the moon, and the
# pistol, which is a toy in some families and a revolver in the others.
UNSUITABLE = re.compile(
    r"\b(man|men|woman|women|boy|girl|prince|princess|child|person|people|couple|family|bunny|bust|busts|kiss"
    r"|pregnant|breast-feeding|Santa|Mrs)\b(?!’)|o’clock$|-thirty$|quarter moon|gibbous"
    r"|(new|waxing|waning)\b.*moon|^water pistol$"
)
KEPT = frozenset({"kiss mark"})
COLOURED = re.compile(r"^(light blue|red|pink|orange|yellow|green|blue|purple|brown|grey|black|white)\b")


def concept_table(emoji: dict, tags: Iterable[dict]) -> dict[str, dict]:
    """Builds {key: {name, group, keywords}}; a key is the code point in lower-case hexadecimal, as "1f436".

    `emoji` is data-by-emoji.json of unicode-emoji-json, `tags` is en/data.json of emojibase-data. Only single
    code points of the pictorial groups are kept: no flags, skin tones, joined sequences or gendered people.
    """
    keywords = {_code(entry["emoji"]): entry.get("tags", []) for entry in tags}
    table = {}
    for character, entry in emoji.items():
        key, name = _code(character), entry["name"]
        if "-" in key or entry["group"] not in GROUPS or (UNSUITABLE.search(name) and name not in KEPT):
            continue
        words = [word for word in keywords.get(key, []) if word != name]
        table[key] = {"name": name, "group": entry["group"], "keywords": words}
    return table


def without_colour_names(table: dict) -> dict[str, dict]:
    """The concepts a drawing in one ink can show: all but those named after a colour, as "green apple"."""
    return {key: entry for key, entry in table.items() if not COLOURED.match(entry["name"])}


def match_codes(table: dict, names: dict[str, str]) -> dict[str, str]:
    """Maps concepts to drawings by code point: {key: name} from {code points in hexadecimal: name}."""
    by_key = {_key(code): name for code, name in names.items()}
    return {key: by_key[key] for key in table if key in by_key}


def match_names(table: dict, icons: Iterable[str], spellings: Iterable[dict[str, str]]) -> dict[str, str]:
    """Maps concepts to drawings by name: {key: icon}.

    `spellings` are dictionaries {squeezed name: key}, the most trusted first: the first that knows the name
    of an icon decides (the key "" says that the icon shows nothing of use), and of two icons for one concept
    the one found in the more trusted dictionary wins. Of variants ("cloud-1", "cloud-2") the first counts.
    """
    found: dict[str, tuple[int, str]] = {}
    for icon in icons:
        squeezed = squeeze(icon.removesuffix("-1"))
        for rank, spelling in enumerate(spellings):
            key = spelling.get(squeezed)
            if key is not None:
                if key in table and (key not in found or rank < found[key][0]):
                    found[key] = rank, icon
                break
    return {key: found[key][1] for key in table if key in found}


def unicode_spelling(table: dict) -> dict[str, str]:
    """The names of the Unicode standard: {squeezed name: key}."""
    return {squeeze(unicodedata.name(chr(int(key, 16)), "")): key for key in table}


def cldr_spelling(emoji: dict) -> dict[str, str]:
    """The current names of unicode-emoji-json: {squeezed name: key}, also of what is no concept here."""
    return {squeeze(entry["name"]): _code(character) for character, entry in emoji.items()}


def iconify_spelling(icons: dict, codes: dict[str, str]) -> dict[str, str]:
    """The present and former names in an icon set whose code points are known: {squeezed name: key}."""
    key_of = {}
    for code, name in codes.items():
        key_of.setdefault(name, _key(code))
    for name, alias in icons.get("aliases", {}).items():
        if set(alias) == {"parent"} and alias["parent"] in key_of:
            key_of.setdefault(name, key_of[alias["parent"]])
    return {squeeze(name): key for name, key in key_of.items()}


def shortcode_spelling(shortcodes: dict[str, str | list[str]]) -> dict[str, str]:
    """One table of emojibase-data shortcodes: {squeezed shortcode: key}."""
    spelling: dict[str, str] = {}
    for code, names in shortcodes.items():
        for name in [names] if isinstance(names, str) else names:
            spelling.setdefault(squeeze(name), _key(code))
    return spelling


def squeeze(name: str) -> str:
    """Keeps the unaccented lower-case letters and digits of a name, so that all its spellings agree."""
    plain = unicodedata.normalize("NFKD", name.lower())
    return re.sub(r"[^a-z0-9]", "", plain)


def _key(code: str) -> str:
    """Brings code points in hexadecimal to the form of our keys: lower case, no variation selector."""
    return re.sub(r"-fe0f\b", "", code.lower()).lstrip("0")


def _code(character: str) -> str:
    return "-".join(f"{ord(part):x}" for part in character if part != "\ufe0f")
