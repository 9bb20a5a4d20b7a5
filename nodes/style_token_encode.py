"""StyleTokenEncode: a reference picture becomes style tokens."""

import torch
from comfy_api.latest import io

from . import host, inputs, running, sockets


class StyleTokenEncode(io.ComfyNode):
    """Looks at the reference with the image encoder and condenses what it sees to 16 style tokens."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="StyleTokenEncode",
            display_name="Style Token Encode",
            category="StyleAR",
            description=(
                "Reads the look of one reference picture. If things drawn in the reference turn up in your "
                "pictures, pass the tokens through SAM Subtract and Noise Inject before AR Sample."
            ),
            search_aliases=[
                "style reference",
                "style transfer",
                "image prompt",
                "ip-adapter",
                "reference image",
            ],
            inputs=[
                sockets.Model.Input("model", tooltip="From Load StyleAR."),
                io.Image.Input(
                    "image",
                    tooltip=(
                        "The picture whose look you want; the middle square of it is read, so crop to the "
                        "part that has the style. Of a batch, the first picture is taken."
                    ),
                ),
                io.Mask.Input(
                    "region",
                    optional=True,
                    tooltip=(
                        "White over the part to take the style from; nothing outside counts, so what is left out "
                        "cannot leak. A mask painted in Load Image fits, an empty one counts as none. The points, box "
                        "and mask of SAM Subtract are then on that part, cut out."
                    ),
                ),
            ],
            outputs=[sockets.Style.Output(display_name="style", tooltip="The look of the reference.")],
        )

    @classmethod
    def execute(cls, model: host.HostedModel, image: torch.Tensor, region: torch.Tensor | None = None) -> io.NodeOutput:
        held, picture = host.HostedModel.on(model), inputs.first_picture(image, "image")
        with running.contained():
            return io.NodeOutput(
                held.ready("image_encoder", "resampler").encode_style(picture, inputs.first_mask(region))
            )
