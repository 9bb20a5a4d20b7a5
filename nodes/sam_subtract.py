"""SAMSubtract: what the reference shows is taken out of the style tokens, so that only how it looks stays."""

import torch
from comfy_api.latest import io

from . import host, inputs, running, sockets


class SAMSubtract(io.ComfyNode):
    """Cuts the subject out with Segment Anything and subtracts its features (paper section 3.3)."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SAMSubtract",
            display_name="SAM Subtract",
            category="StyleAR",
            description=(
                "Keeps the subject of the reference out of your pictures. Segment Anything finds it by "
                "itself; help it with a point or a box, or connect a mask made elsewhere. Look at the mask "
                "output: it should cover what must not come along. SAM Subtract first, then Noise Inject; to "
                "take out several things use one mask or several points, as a second SAM Subtract starts anew."
            ),
            search_aliases=[
                "segment anything",
                "remove content",
                "content leakage",
                "negative style",
                "no leak",
            ],
            inputs=[
                sockets.Model.Input("model", tooltip="From Load StyleAR."),
                sockets.Style.Input("style", tooltip="From Style Token Encode; it brings its reference picture along."),
                io.Float.Input(
                    "alpha",
                    default=0.2,
                    min=0.0,
                    max=1.0,
                    step=0.05,
                    tooltip=(
                        "How much of the untouched style stays. Raise it when the style becomes weak; lower "
                        "it when the subject still shows. 1 switches the subtraction off."
                    ),
                ),
                io.Float.Input(
                    "beta",
                    default=0.8,
                    min=0.0,
                    max=2.0,
                    step=0.05,
                    tooltip=(
                        "How strongly the subject is subtracted. Raise it when the subject still shows; "
                        "lower it when colours or strokes get lost with it."
                    ),
                ),
                io.Image.Input(
                    "content",
                    optional=True,
                    tooltip=(
                        "In place of the reference itself: a picture that shows what must not come along, for "
                        "instance a cut-out or a photo of the same thing. It is subtracted whole, or where mask, "
                        "points or box say. The first of a batch."
                    ),
                ),
                io.Mask.Input(
                    "mask",
                    optional=True,
                    tooltip=(
                        "Instead of points and box: white over what must not come along. A mask painted in "
                        "Load Image fits. An empty one counts as none. The first of a batch."
                    ),
                ),
                io.String.Input(
                    "points",
                    default="",
                    optional=True,
                    placeholder="x,y; x,y",
                    tooltip=(
                        "Points on the subject, in pixels of the reference from its top left corner: 120,80; 200,95. "
                        "Add ,0 to a point that does not belong to it: 10,10,0. Empty: the subject that "
                        "stands out."
                    ),
                ),
                io.String.Input(
                    "box",
                    default="",
                    optional=True,
                    placeholder="left,top,right,bottom",
                    tooltip="A box around the subject, in pixels of the reference: left,top,right,bottom.",
                ),
            ],
            outputs=[
                sockets.Style.Output(display_name="style", tooltip="The style without the subject."),
                io.Mask.Output(display_name="mask", tooltip="What was subtracted, in white."),
            ],
        )

    @classmethod
    def execute(
        cls,
        model: host.HostedModel,
        style,
        alpha: float,
        beta: float,
        content: torch.Tensor | None = None,
        mask: torch.Tensor | None = None,
        points: str = "",
        box: str = "",
    ) -> io.NodeOutput:
        from ..stylear.memory import segmenting_bytes

        held = host.HostedModel.on(model)
        alpha, beta = inputs.settings(cls, alpha=alpha, beta=beta)

        def segment(*prompt) -> torch.Tensor:
            segmenter = held.model.segmenter
            memory = 0 if segmenter is None else segmenting_bytes(segmenter)
            return held.ready("segmenter", memory=memory).segment(*prompt)

        content = None if content is None else inputs.first_picture(content, "content")
        region = inputs.first_mask(mask), parse_points(points), parse_box(box)
        with running.contained():
            picture, mask = held.model.content_mask(style, content, *region, segment)
            engine = held.ready("image_encoder", "resampler")
            cleaned = engine.subtract(style, picture, mask, alpha=alpha, beta=beta)
        shown = torch.ones(picture.height, picture.width) if mask is None else mask
        return io.NodeOutput(cleaned, host.to_output(shown[None]))


def parse_points(text: str) -> list[tuple[float, ...]] | None:
    """Read "x,y; x,y,0" as [(x, y), (x, y, 0)]; None for blank text. The engine checks the values."""
    points = [part for part in inputs.text("points", text).split(";") if part.strip()]
    return [inputs.numbers("points", part, "x,y; x,y", "numbers of pixels") for part in points] or None


def parse_box(text: str) -> tuple[float, ...] | None:
    """Read "left,top,right,bottom" as numbers; None for blank text. The engine checks the values."""
    box = inputs.text("box", text)
    return inputs.numbers("box", box, "left,top,right,bottom", "numbers of pixels") if box.strip() else None
