"""The three socket types of this pack; their names match by string across packs, so they carry ours."""

from comfy_api.latest import io

Model = io.Custom("STYLEAR_MODEL")
"""A `host.HostedModel`: the engine's model, its weights in ComfyUI's care."""

Style = io.Custom("STYLE_TOKENS")
"""A `stylear.style.StyleTokens`, immutable."""

Condition = io.Custom("STYLEAR_CONDITION")
"""What `StyleAR.encode_condition` returns: the codes of a depth or segmentation map."""
