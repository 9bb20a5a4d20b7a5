"""StyleBlend: several styles become one between them."""

from reprlib import repr as short

from comfy_api.latest import io

from ..stylear.errors import BadInput
from . import inputs, sockets

_MOST = 16


class StyleBlend(io.ComfyNode):
    """The weighted mean of styles; in which order they are connected does not matter."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="StyleBlend",
            display_name="Style Blend",
            category="StyleAR",
            description=(
                "Makes one style of several: between them, or mostly one with a touch of another. SAM Subtract comes "
                "before it, for each reference; Noise Inject best after it."
            ),
            search_aliases=["mix styles", "several references", "multiple references", "merge styles", "average style"],
            inputs=[
                io.Autogrow.Input(
                    "styles",
                    template=io.Autogrow.TemplatePrefix(sockets.Style.Input("style"), prefix="style", min=2, max=_MOST),
                    optional=True,
                    tooltip="The styles, of the same model; a new socket appears with each that is connected.",
                ),
                io.String.Input(
                    "weights",
                    default="",
                    optional=True,
                    placeholder="2, 1",
                    tooltip=(
                        "How much of each style, from the first socket on: 2, 1 is two parts of the first and one of "
                        "the second. Only their ratio counts. Raise that of a style that is weak, lower that of one "
                        "whose content leaks. Empty: equal parts."
                    ),
                ),
            ],
            outputs=[sockets.Style.Output(display_name="style", tooltip="The style between them.")],
        )

    @classmethod
    def execute(cls, styles: dict | None = None, weights: str = "", **others) -> io.NodeOutput:
        from ..stylear.style import blend

        if others:  # ComfyUI passes on every socket of this prefix that an API names
            raise BadInput(f"There is no socket {short(min(others))}. Connect up to {_MOST} styles, from style0 on.")
        styles = {} if styles is None else styles
        if not isinstance(styles, dict):
            raise BadInput(f"styles is a {type(styles).__name__}, not sockets. Connect Style Token Encode to them.")
        parts = inputs.numbers("weights", weights, "2, 1") if inputs.text("weights", weights).strip() else None
        return io.NodeOutput(blend([style for style in styles.values() if style is not None], parts))
