"""ARSample: style tokens and a prompt become pictures."""

import torch
from comfy_api.latest import io

from ..stylear.errors import BadInput
from . import host, inputs, running, sockets

_AS_CFG = -1.0


class ARSample(io.ComfyNode):
    """Draws the picture code by code with the decoder and turns the codes into pixels with the VQGAN."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ARSample",
            display_name="AR Sample",
            category="StyleAR",
            description=(
                "Draws what the prompt says in the look of the reference, row by row. The same seed gives "
                "the same picture; picture k of a batch is the one its own seed, seed + k, gives alone."
            ),
            search_aliases=[
                "stylear sampler",
                "generate image",
                "autoregressive sampler",
                "text to image",
                "ksampler",
            ],
            inputs=[
                sockets.Model.Input("model", tooltip="From Load StyleAR."),
                sockets.Style.Input(
                    "style",
                    tooltip=(
                        "From Style Token Encode or any node after it, or from Load Style Preset. If things of the "
                        "reference turn up in the pictures, put SAM Subtract and Noise Inject between."
                    ),
                ),
                io.String.Input(
                    "prompt",
                    multiline=True,
                    dynamic_prompts=True,
                    tooltip=(
                        "What to draw. Leave words for style out: the look comes from the reference, and "
                        "style words pull away from it. The mini knows only a few words; this node's help page lists "
                        "them."
                    ),
                ),
                _side("width"),
                _side("height"),
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=0xFFFFFFFFFFFFFFFF,
                    control_after_generate=True,
                    tooltip="Which of the possible pictures. Change it for another one.",
                ),
                io.Int.Input(
                    "batch_size",
                    default=1,
                    min=1,
                    max=64,
                    tooltip=(
                        "How many pictures, of seed, seed + 1 and so on. Together they are faster than one "
                        "after the other, and take more memory."
                    ),
                ),
                io.Float.Input(
                    "cfg",
                    default=4.0,
                    min=1.0,
                    max=30.0,
                    step=0.1,
                    tooltip=(
                        "How strongly prompt and style are followed: with too little both are weak, with too much "
                        "pictures look overdone and break up. The mini is best at 2 to 4. 1 is none, and twice as fast."
                    ),
                ),
                io.Int.Input(
                    "top_k",
                    default=2000,
                    min=1,
                    max=65536,
                    advanced=True,
                    tooltip=(
                        "From how many of the likeliest codes each piece is drawn. Lower it when pictures "
                        "are messy, raise it when they are flat. 1 always takes the likeliest, whatever the "
                        "seed."
                    ),
                ),
                io.Float.Input(
                    "temperature",
                    default=1.0,
                    min=0.05,
                    max=5.0,
                    step=0.05,
                    advanced=True,
                    tooltip="How daring the draw is. Lower it for calm pictures, raise it for variety.",
                ),
                sockets.Condition.Input(
                    "condition", optional=True, tooltip="From Depth Condition: the composition to follow."
                ),
                io.Combo.Input(
                    "window",
                    options=["auto", "1", "2", "4", "8", "16", "32", "64"],
                    default="auto",
                    optional=True,
                    advanced=True,
                    tooltip=(
                        "How many codes of the picture are drawn at once. auto is what is fastest here, and the "
                        "larger the faster only up to a point. In float32 it never changes the picture; in 16 bits "
                        "another window may draw another one."
                    ),
                ),
                io.Float.Input(
                    "style_cfg",
                    default=_AS_CFG,
                    min=_AS_CFG,
                    max=30.0,
                    step=0.1,
                    optional=True,
                    advanced=True,
                    tooltip=(
                        "How strongly the style alone is followed; cfg is then for the prompt. The mini loses prompt "
                        "and style by any pair that differs much; other models may gain. Below 0 it is as cfg, as "
                        "released; any other value takes 50 % longer."
                    ),
                ),
                io.Float.Input(
                    "style_strength",
                    default=1.0,
                    min=0.0,
                    max=5.0,
                    step=0.05,
                    optional=True,
                    advanced=True,
                    tooltip=(
                        "How much of the style: 0 is none, as on an empty white sheet, 1 is as encoded, above 1 "
                        "exaggerates. Other models may gain above 1; the bundled mini loses style there. Lower it "
                        "when pictures fall apart."
                    ),
                ),
                sockets.Style.Input(
                    "negative",
                    optional=True,
                    tooltip=(
                        "A style to keep away from: that of a picture with the look that creeps in. style_cfg, or cfg, "
                        "is how hard it is pushed away. Drawing takes about twice as long."
                    ),
                ),
            ],
            outputs=[io.Image.Output(display_name="image", tooltip="The pictures, one for each seed.")],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(
        cls,
        model: host.HostedModel,
        style,
        prompt: str,
        width: int,
        height: int,
        seed: int,
        batch_size: int,
        cfg: float,
        top_k: int,
        temperature: float,
        condition=None,
        window: str = "auto",
        style_cfg: float = _AS_CFG,
        style_strength: float = 1.0,
        negative=None,
    ) -> io.NodeOutput:
        from ..stylear.drawing import SamplingSettings
        from ..stylear.memory import sampling_bytes

        held = host.HostedModel.on(model)
        size = held.model.picture_size(width, height)
        window = _window(window)
        batch_size, style_strength, style_cfg = inputs.settings(
            cls, batch_size=batch_size, style_strength=style_strength, style_cfg=style_cfg
        )
        cfg, top_k, temperature = inputs.settings(cls, cfg=cfg, top_k=top_k, temperature=temperature)
        if condition is not None and not (isinstance(condition, torch.Tensor) and condition.ndim == 2):
            raise BadInput(f"condition is a {type(condition).__name__}. Connect it to Depth Condition.")
        settings = SamplingSettings(cfg, top_k, temperature, None if style_cfg < 0 else style_cfg)
        readings = settings.weights(negative is not None)
        parts, device = (held.model.base, held.model.vqgan), host.compute_device()
        most = None if window == "auto" else window
        memory = sampling_bytes(*parts, size, batch_size, len(readings), condition, device, most)
        reading = ("image_encoder", "resampler") if "plain" in readings or style_strength != 1 else ()
        run = running.Run()
        with running.contained():
            engine = held.ready("base", "vqgan", *reading, memory=memory)
            images = engine.generate(
                prompt,
                style,
                condition=condition,
                width=width,
                height=height,
                seed=seed,
                batch_size=batch_size,
                cfg=settings.cfg,
                top_k=settings.top_k,
                temperature=settings.temperature,
                window=window,
                progress=run.progress,
                cancelled=run.cancelled,
                preview=run.preview,
                previews=1,
                style_cfg=settings.style_cfg,
                style_strength=style_strength,
                negative=negative,
            )
        if note := engine.untaught(prompt):
            running.show(cls, note)
        return io.NodeOutput(host.to_output(images))


def _window(choice: str) -> int | str:
    """What the engine takes for a choice of the combo, which an API may have made of anything."""
    if isinstance(choice, str) and choice == "auto":
        return choice
    try:
        return int(choice)
    except (TypeError, ValueError, OverflowError, RuntimeError) as error:
        raise BadInput("window is neither auto nor a whole number. Choose one of the list.") from error


def _side(name: str) -> io.Int.Input:
    return io.Int.Input(
        name,
        default=0,
        min=0,
        max=4096,
        step=8,
        tooltip=(
            f"{name.capitalize()} in pixels, taken to the nearest multiple of the model's grid: 32 for the "
            "7B model, 8 for the mini, whose largest is 128. 0 is the model's own size, which it draws best."
        ),
    )
