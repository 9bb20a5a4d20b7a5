"""The door ComfyUI opens; it imports inside, so that opening it elsewhere (pytest does) needs no ComfyUI."""

WEB_DIRECTORY = "web"  # the help pages, which ComfyUI asks for under the name of the pack's folder


async def comfy_entrypoint():
    """Return the pack's extension (ComfyUI's V3 protocol): its nodes and their model folders."""
    from .nodes import StyleARExtension

    return StyleARExtension()
