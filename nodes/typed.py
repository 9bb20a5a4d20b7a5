"""What a person typed into a text widget, read; BadInput in the widget's own words for what is none."""

import unicodedata

from ..stylear.errors import BadInput


def text(name: str, value: object) -> str:
    """A widget's text, its full-width signs and digits made plain; BadInput with its name for what is no text."""
    if not isinstance(value, str):
        raise BadInput(f"{name} is a {type(value).__name__}. Give text, which may be empty.")
    return unicodedata.normalize("NFKC", value)


def numbers(name: str, text: str, form: str, of: str = "numbers") -> tuple[float, ...]:
    """What is between the commas of a widget's text; BadInput with its name and form if that is not numbers."""
    try:
        return tuple(map(float, text.split(",")))
    except ValueError as error:
        raise BadInput(f"{name}: {text.strip()!r} is not in the form {form}. Write {of} like that.") from error
