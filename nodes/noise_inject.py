"""NoiseInject: a little noise on the style tokens blurs content and keeps style."""

from comfy_api.latest import io

from . import inputs, sockets


class NoiseInject(io.ComfyNode):
    """Adds gamma times standard normal noise to the tokens, drawn from the seed (paper section 3.3)."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="NoiseInject",
            display_name="Noise Inject",
            category="StyleAR",
            description=(
                "Adds noise to style tokens. Fine detail, which is mostly content, drowns first; the look "
                "survives. The same seed always adds the same noise. SAM Subtract first, then Noise Inject: "
                "SAM Subtract starts from the reference again and would drop the noise. To take out several "
                "things use one mask or several points there."
            ),
            search_aliases=["style noise", "gamma", "content leakage", "variation", "style strength"],
            inputs=[
                sockets.Style.Input("style", tooltip="From Style Token Encode, SAM Subtract or Style Blend."),
                io.Float.Input(
                    "gamma",
                    default=0.1,
                    min=0.0,
                    max=5.0,
                    step=0.05,
                    tooltip=(
                        "How much noise. 0.1 to 0.3 is usual. Raise it when the reference's content shows or "
                        "every picture looks alike; lower it when the style gets lost. 0 adds none."
                    ),
                ),
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=0xFFFFFFFFFFFFFFFF,
                    control_after_generate=io.ControlAfterGenerate.fixed,
                    tooltip=(
                        "Which noise. Keep it fixed while you try prompts; change it for another reading of "
                        "the same style."
                    ),
                ),
            ],
            outputs=[sockets.Style.Output(display_name="style", tooltip="The style with noise.")],
        )

    @classmethod
    def execute(cls, style, gamma: float, seed: int) -> io.NodeOutput:
        from ..stylear.style import check_style

        check_style(style)
        (gamma,) = inputs.settings(cls, gamma=gamma)
        return io.NodeOutput(style.with_noise(gamma, seed))
