"""StyleTokenEncode: a reference picture becomes style tokens."""

import torch
from comfy_api.latest import io

from . import host, sockets


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
            ],
            outputs=[sockets.Style.Output(display_name="style", tooltip="The look of the reference.")],
        )

    @classmethod
    def execute(cls, model: host.HostedModel, image: torch.Tensor) -> io.NodeOutput:
        held, picture = host.HostedModel.on(model), host.first_picture(image, "image")
        with host.contained():
            return io.NodeOutput(held.ready("image_encoder", "resampler").encode_style(picture))
