"""DepthCondition: a depth map, made elsewhere or here from a photo, or a segmentation map becomes a condition."""

import torch
from comfy_api.latest import io

from . import folders, host, inputs, running, sockets

AS_IS = "the image is a depth map"
SEGMENTATION = "none: the image is a segmentation map"


class DepthCondition(io.ComfyNode):
    """Encodes a map with the VQGAN; its codes stand in the prompt (paper section 3.4)."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="DepthCondition",
            display_name="Depth Condition",
            category="StyleAR",
            description=(
                "Makes the picture follow a composition. Connect a depth map from any depth node (near is "
                "white), a photo with a Depth Anything V2 model chosen here, or a segmentation map. It needs an "
                "adapter that was trained with such maps: the mini and the released one know depth maps alone, and "
                "read a segmentation map as one."
            ),
            search_aliases=[
                *("depth", "depth anything", "controlnet", "composition", "structure"),
                *("segmentation", "segmentation map", "semantic map", "mask to image"),
            ],
            inputs=[
                sockets.Model.Input("model", tooltip="From Load StyleAR."),
                io.Image.Input(
                    "image",
                    tooltip=(
                        "The map, or the photo to make a depth map from; its middle is used in the shape that fits the "
                        "model best. A segmentation map shows each area in one flat colour. The first of a batch."
                    ),
                ),
                io.Combo.Input(
                    "depth_from",
                    options=[AS_IS, SEGMENTATION, *folders.depth_model_choices()],
                    default=AS_IS,
                    optional=True,
                    tooltip=(
                        "What image is. To start from a photo, choose a Depth Anything V2 folder (Hugging Face layout) "
                        "of models/stylear. The borders of a segmentation map are kept sharp when it is resized."
                    ),
                ),
            ],
            outputs=[sockets.Condition.Output(display_name="condition", tooltip="The composition, for AR Sample.")],
        )

    @classmethod
    def execute(cls, model: host.HostedModel, image: torch.Tensor, depth_from: str = AS_IS) -> io.NodeOutput:
        from ..stylear.memory import picture_bytes

        held, picture = host.HostedModel.on(model), inputs.first_picture(image, "image")
        memory = picture_bytes(held.model.vqgan, (held.model.size, held.model.size))
        with running.contained():
            kind = "segmentation" if depth_from == SEGMENTATION else "depth"
            if depth_from not in (AS_IS, SEGMENTATION):
                from ..stylear.depth_model import depth_from_photo, load_depth_model

                with host.on_device(load_depth_model(folders.locate_model(depth_from))) as depth_model:
                    picture = depth_from_photo(picture, depth_model)
            return io.NodeOutput(held.ready("vqgan", memory=memory).encode_condition(picture, kind))
