"""DepthCondition: a depth map, made elsewhere or here from a photo, becomes a condition on composition."""

import torch
from comfy_api.latest import io

from . import host, sockets

AS_IS = "the image is a depth map"


class DepthCondition(io.ComfyNode):
    """Encodes a depth map with the VQGAN; its codes stand in the prompt (paper section 3.4)."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="DepthCondition",
            display_name="Depth Condition",
            category="StyleAR",
            description=(
                "Makes the picture follow a composition. Connect a depth map from any depth node (near is "
                "white), or a photo with a Depth Anything V2 model chosen here. It needs an adapter that was "
                "trained with depth maps."
            ),
            search_aliases=["depth", "depth anything", "controlnet", "composition", "structure"],
            inputs=[
                sockets.Model.Input("model", tooltip="From Load StyleAR."),
                io.Image.Input(
                    "image",
                    tooltip=(
                        "The depth map, or the photo to make one from; its middle is used in the shape that "
                        "fits the model best. The first of a batch."
                    ),
                ),
                io.Combo.Input(
                    "depth_from",
                    options=[AS_IS, *host.depth_model_choices()],
                    default=AS_IS,
                    optional=True,
                    tooltip=(
                        "Leave it when image is a depth map already. To start from a photo, choose a Depth "
                        "Anything V2 folder (Hugging Face layout) of models/stylear."
                    ),
                ),
            ],
            outputs=[sockets.Condition.Output(display_name="condition", tooltip="The composition, for AR Sample.")],
        )

    @classmethod
    def execute(cls, model: host.HostedModel, image: torch.Tensor, depth_from: str = AS_IS) -> io.NodeOutput:
        from ..stylear.memory import picture_bytes

        held, picture = host.HostedModel.on(model), host.first_picture(image, "image")
        memory = picture_bytes(held.model.vqgan, (held.model.size, held.model.size))
        with host.contained():
            if depth_from != AS_IS:
                from ..stylear.condition import depth_from_photo, load_depth_model

                with host.on_device(load_depth_model(host.locate_model(depth_from))) as depth_model:
                    picture = depth_from_photo(picture, depth_model)
            return io.NodeOutput(held.ready("vqgan", memory=memory).encode_condition(picture))
