"""LoadStyleAR: a folder of models/stylear, or the bundled mini, becomes a model on a wire."""

from comfy_api.latest import io

from . import folders, host, running, sockets

_DTYPES = ["auto", "bfloat16", "float16", "float32"]
_WHOLE = "none"


class LoadStyleAR(io.ComfyNode):
    """Loads the decoder, adapter, VQGAN, image encoder and segmenter; ComfyUI manages their memory."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        listed = folders.Listing()
        return io.Schema(  # a new input goes last: workflows keep a node's values by their order
            node_id="LoadStyleAR",
            display_name="Load StyleAR",
            category="StyleAR",
            description=(
                "Loads a StyleAR model. The mini ships with this pack and draws 64 x 64 pictures at once. A "
                "model of your own goes to models/stylear/NAME with its parts in base, adapter, vqgan, "
                "image_encoder and, for SAM Subtract, segmenter."
            ),
            search_aliases=[
                "stylear",
                "style model",
                "lumina mgpt",
                "chameleon",
                "autoregressive",
                "model loader",
            ],
            inputs=[
                io.Combo.Input(
                    "model",
                    options=folders.model_choices(listed),
                    default=folders.MINI,
                    tooltip=(
                        "The bundled mini, or a folder of models/stylear or models/diffusion_models. New folders "
                        "appear after R (refresh), without a restart."
                    ),
                ),
                io.Combo.Input(
                    "dtype",
                    options=_DTYPES,
                    default="auto",
                    optional=True,
                    advanced=True,
                    tooltip=(
                        "How precisely the weights are held. auto: bfloat16 on GPUs that have it, else "
                        "float32. A 7B model takes about 14 GB in 16 bits and 28 GB in float32. Choose "
                        "float16 on older cards (before RTX 30); go back to float32 if pictures come out as "
                        "noise."
                    ),
                ),
                _part(listed, "adapter", "The LoRA and style resampler: what was trained on top of the base model."),
                _part(listed, "vqgan", "Turns codes into pixels, and depth maps into codes."),
                _part(listed, "image_encoder", "The CLIP ViT through which the reference picture is looked at."),
                _part(listed, "segmenter", "The segment-anything model that SAM Subtract cuts subjects out with."),
                io.Combo.Input(
                    "quantize",
                    options=[_WHOLE, "int8", "int4"],
                    default=_WHOLE,
                    optional=True,
                    advanced=True,
                    tooltip=(
                        "Keeps the decoder's matrices in fewer bits, for cards that it does not fit: of the about "
                        "14 GB of a 7B model in 16 bits int8 leaves about 7.5 and int4 about 5. It costs time, as "
                        "every pass widens them again, and precision: int8 little, int4 much. The same seed then "
                        "gives another picture."
                    ),
                ),
            ],
            outputs=[sockets.Model.Output(display_name="model", tooltip="For every other StyleAR node.")],
        )

    @classmethod
    def execute(cls, model: str, dtype: str = "auto", quantize: str = _WHOLE, **parts: str) -> io.NodeOutput:
        from ..stylear.pipeline import StyleAR

        base = "mini" if model == folders.MINI else folders.locate_model(model)
        chosen = {part: folders.locate_part(name, part) for part, name in parts.items() if name != folders.WITH_MODEL}
        with running.contained():
            loaded = StyleAR.load(
                base,
                **chosen,
                dtype=host.weights_dtype(dtype),
                device=host.offload_device(),
                quantize=None if quantize == _WHOLE else quantize,
            )
        return io.NodeOutput(host.HostedModel(loaded))


def _part(listed: folders.Listing, part: str, tooltip: str) -> io.Combo.Input:
    return io.Combo.Input(
        part,
        options=folders.part_choices(part, listed),
        default=folders.WITH_MODEL,
        optional=True,
        advanced=True,
        tooltip=f"{tooltip} Change it only if this part lies elsewhere in ComfyUI's models.",
    )
