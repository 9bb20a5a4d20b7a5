"""A contact sheet: a row for each reference, which stands in the first column, a column for each prompt."""

from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont

MARGIN = 6
LABEL = 18


def contact_sheet(
    references: Sequence[Image.Image],
    columns: Sequence[str],
    rows: Sequence[Sequence[Image.Image]],
    side: int = 160,
) -> Image.Image:
    """Draw the sheet, RGB: `rows[i][j]` is of prompt `columns[j]` in the style of `references[i]`.

    Every picture is fitted into a square of `side` pixels, small ones enlarged pixel by pixel so that nothing
    is prettier than it is.
    """
    step = side + MARGIN
    sheet = Image.new("RGB", (MARGIN + step * (1 + len(columns)), LABEL + MARGIN + step * len(rows)), "white")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default()
    for column, label in enumerate(["reference", *columns]):
        pen.text((MARGIN + column * step, MARGIN // 2), _fitted(label, font, side), fill="black", font=font)
    for row, pictures in enumerate(rows):
        for column, picture in enumerate([references[row], *pictures]):
            fitted = _fit(picture, side)
            left, top = MARGIN + column * step, LABEL + row * step
            sheet.paste(fitted, (left + (side - fitted.width) // 2, top + (side - fitted.height) // 2))
    return sheet


def _fit(picture: Image.Image, side: int) -> Image.Image:
    scale = side / max(picture.size)
    size = tuple(max(1, round(length * scale)) for length in picture.size)
    return picture.convert("RGB").resize(size, Image.Resampling.NEAREST if scale > 1 else Image.Resampling.LANCZOS)


def _fitted(label: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int) -> str:
    """The label on one line, cut where it would run into the next column."""
    label = " ".join(label.split())
    if font.getlength(label) <= width:
        return label
    while label and font.getlength(label + "...") > width:
        label = label[:-1]
    return label + "..."
