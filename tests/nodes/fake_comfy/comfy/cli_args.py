"""Stands in for comfy.cli_args: the options our pack looks at."""

import enum
from types import SimpleNamespace


class LatentPreviewMethod(enum.Enum):
    NoPreviews = "none"
    Auto = "auto"


args = SimpleNamespace(preview_method=LatentPreviewMethod.NoPreviews, preview_size=512)
