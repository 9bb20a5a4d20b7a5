"""What the node tests share: where things are, and an engine that only remembers."""

from types import SimpleNamespace

import torch
from comfy_pack import FAKE, PACK_NAME, ROOT

from stylear.chameleon import Chameleon
from stylear.chameleon_config import ChameleonConfig
from stylear.images import to_rgb

__all__ = ["FAKE", "PACK_NAME", "ROOT", "StubEngine"]


class StubEngine:
    """Has the engine's methods and remembers how each was called."""

    def __init__(self) -> None:
        names = ("base", "resampler", "image_encoder", "segmenter", "vqgan")
        self.parts = {name: torch.nn.Linear(2, 2) for name in names}
        self.base = Chameleon(ChameleonConfig(9, 40, 8, 3, 5, 5)).half()
        self.vqgan = SimpleNamespace(config=SimpleNamespace(channels=2, multipliers=(1,), codes=9), downsampling=4)
        patches = SimpleNamespace(proj=SimpleNamespace(kernel_size=(16, 16)))
        blocks = [SimpleNamespace(attn=SimpleNamespace(num_heads=1))]
        encoder = SimpleNamespace(img_size=64, patch_embed=patches, blocks=blocks)
        self.segmenter = SimpleNamespace(sam=SimpleNamespace(image_encoder=encoder))
        self.size, self.grid = 64, 8
        self.calls = []

    def _remember(self, method, *args, **kwargs):
        self.calls.append(SimpleNamespace(method=method, args=args, **kwargs))

    def encode_style(self, image, region=None):
        self._remember("encode_style", image, region=region)
        return "style"

    def picture_size(self, width, height):
        return width or self.size, height or self.size

    def segment(self, image, points=None, box=None):
        self._remember("segment", image, points=points, box=box)
        return torch.ones(image.height, image.width)

    def content_mask(self, style, content=None, mask=None, points=None, box=None, segment=None):
        self._remember("content_mask", style, content=content, mask=mask, points=points, box=box)
        picture = to_rgb(style.picture if content is None else content)
        return picture, segment(picture, points, box) if content is None and mask is None else mask

    def subtract(self, style, content=None, mask=None, alpha=None, beta=None):
        self._remember("subtract", style, content=content, mask=mask, alpha=alpha, beta=beta)
        return "less style"

    def encode_condition(self, image, kind="depth"):
        self._remember("encode_condition", image, kind)
        return "condition"

    def untaught(self, prompt):
        return f"none of {prompt}" if "zebra" in prompt else None

    def generate(self, prompt, style, **options):
        self._remember("generate", prompt, style, **options)
        for done in range(1, 5):
            options["cancelled"]()
            options["progress"](done, 4)
            if options["preview"]:
                options["preview"](torch.full((options["batch_size"], 4, 8, 3), done / 4))
        return torch.zeros(options["batch_size"], 8, 8, 3)
