"""What transformers 4 and 5 call differently."""

import transformers


def pil_processor(kind: str) -> type:
    """The image processor of a `kind` of model that works on pictures of Pillow, not of torchvision."""
    found = getattr(transformers, f"{kind}ImageProcessorPil", None)
    return found or getattr(transformers, f"{kind}ImageProcessor")  # 4.x: the other one is called Fast there
