"""The nodes, as the one extension that ComfyUI loads."""

from comfy_api.latest import ComfyExtension, io

from . import folders
from .ar_sample import ARSample
from .depth_condition import DepthCondition
from .load_stylear import LoadStyleAR
from .noise_inject import NoiseInject
from .sam_subtract import SAMSubtract
from .style_blend import StyleBlend
from .style_presets import LoadStylePreset, SaveStylePreset
from .style_token_encode import StyleTokenEncode


class StyleARExtension(ComfyExtension):
    """What ComfyUI asks for: a moment to set up, then the node classes."""

    async def on_load(self) -> None:
        folders.register_folders()
        folders.offer_pictures()

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return [
            LoadStyleAR,
            StyleTokenEncode,
            SAMSubtract,
            NoiseInject,
            DepthCondition,
            ARSample,
            StyleBlend,
            SaveStylePreset,
            LoadStylePreset,
        ]
