"""The door ComfyUI opens; it imports inside, so that opening it elsewhere (pytest does) needs no ComfyUI."""


async def comfy_entrypoint():
    """Return the pack's extension (ComfyUI's V3 protocol): its nodes and their model folders."""
    from .nodes import StyleARExtension

    return StyleARExtension()
