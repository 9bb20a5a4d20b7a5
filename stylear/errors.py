"""The errors a user can meet; the first line of each says what is wrong and the one thing to do."""


class StyleARError(Exception):
    """Anything this library refuses, with a message meant for a person."""


class MissingPart(StyleARError):
    """A part of the model was not found where it was looked for."""


class BadCheckpoint(StyleARError):
    """A file was found but its keys or shapes are not those of the part it should be."""


class BadInput(StyleARError, ValueError):
    """A picture, a prompt or a number that cannot be used."""


class Cancelled(StyleARError):
    """The caller's `cancelled` callable asked for a stop."""
