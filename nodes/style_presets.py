"""SaveStylePreset and LoadStylePreset: a style kept in a small file, to use again or to hand on."""

import os

from comfy_api.latest import io

from ..stylear.errors import StyleARError
from . import folders, host, inputs, running, sockets


class SaveStylePreset(io.ComfyNode):
    """Writes a style, with a thumbnail, into models/stylear_presets."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SaveStylePreset",
            display_name="Save Style Preset",
            category="StyleAR",
            description=(
                "Keeps a style as a small file in models/stylear_presets, with a thumbnail of its reference in it, to "
                "use again or to hand on. What SAM Subtract, Noise Inject and Style Blend did is kept; SAM Subtract "
                "cannot follow later."
            ),
            search_aliases=["save style", "export style", "style library", "share style"],
            is_output_node=True,
            inputs=[
                sockets.Style.Input("style", tooltip="From Style Token Encode or any node after it."),
                io.String.Input(
                    "name",
                    default="my style",
                    tooltip=(
                        "What to call it, in up to 60 characters, emoji too. Refused is what cannot be a file's name "
                        "on every system, for instance with / or : in it, and invisible signs. Load Style Preset lists "
                        "it after R."
                    ),
                ),
                io.Boolean.Input(
                    "overwrite",
                    default=False,
                    optional=True,
                    tooltip="Replace another preset of this name. Off: it is kept, and you are told.",
                ),
                io.Image.Input(
                    "thumbnail",
                    optional=True,
                    tooltip="Another picture to show in place of the reference, for instance one drawn in the style.",
                ),
            ],
            outputs=[],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(cls, style, name: str, overwrite: bool = False, thumbnail=None) -> io.NodeOutput:
        from ..stylear.presets import preset_path, save_preset

        shown = None if thumbnail is None else inputs.first_picture(thumbnail, "thumbnail")
        path = preset_path(folders.presets_folder(), name)
        written = save_preset(style, path, shown, overwrite is True)
        said = f"Saved{'' if written else ' already'} as {path.name}\nin {path.parent}"
        running.show(cls, said)
        return io.NodeOutput(ui={"text": (said,)})

    @classmethod
    def fingerprint_inputs(cls, **_) -> float:
        """Unequal to itself: a run always looks whether the file is there, whatever ComfyUI's cache holds."""
        return float("nan")


class LoadStylePreset(io.ComfyNode):
    """Reads a style of models/stylear_presets; a file that is not a sound preset of this model is refused."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LoadStylePreset",
            display_name="Load Style Preset",
            category="StyleAR",
            description=(
                "Takes a style from a file of models/stylear_presets in place of a reference picture. It fits the "
                "model it was made with."
            ),
            search_aliases=["load style", "import style", "style library", "saved style"],
            inputs=[
                sockets.Model.Input("model", tooltip="From Load StyleAR: the model the preset was made with."),
                io.Combo.Input(
                    "preset",
                    options=folders.preset_choices(),
                    tooltip="A file of models/stylear_presets. New ones appear after R (refresh), without a restart.",
                ),
            ],
            outputs=[
                sockets.Style.Output(display_name="style", tooltip="The saved style."),
                io.Image.Output(display_name="thumbnail", tooltip="The picture kept with it; white if there is none."),
            ],
        )

    @classmethod
    def execute(cls, model: host.HostedModel, preset: str) -> io.NodeOutput:
        from PIL import Image

        from ..stylear.images import to_float
        from ..stylear.presets import load_preset

        config = host.HostedModel.on(model).model.resampler.config
        style, shown = load_preset(folders.locate_preset(preset), (config.tokens, config.output))
        picture = to_float(shown or Image.new("RGB", (64, 64), "white"))
        return io.NodeOutput(style, host.to_output(picture[None]))

    @classmethod
    def fingerprint_inputs(cls, preset: str | None = None, **_) -> tuple[int, ...] | float:
        """Which file it is, as it lies there now; unequal to itself if there is none, or a wire brings the name."""
        try:
            found = os.stat(folders.locate_preset(preset))
        except (StyleARError, OSError):
            return float("nan")
        return found.st_ino, found.st_size, found.st_mtime_ns
