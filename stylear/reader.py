"""The half of a model that reads pictures: a reference to style tokens, and what must not come along out of them."""

from collections.abc import Callable, Iterable, Sequence

from PIL import Image
from torch import Tensor

from .checkpoint import PARTS
from .checks import MAX_SETTING, number
from .encoder import ImageEncoder
from .errors import BadInput, MissingPart
from .images import Picture, to_mask, to_rgb
from .resampler import Resampler
from .segment import Segmenter, content_picture, package, region_picture
from .style import StyleTokens, check_style, enhance, resample


class StyleReader:
    """What turns pictures into styles; `StyleAR` is one that also draws.

    Attributes: `image_encoder`, `resampler`, `segmenter` (or None), `segmenter_left` (whether there is one that was
    left out because Python's segment_anything was not installed), `size` (pixels of a side of the empty sheet).
    """

    image_encoder: ImageEncoder
    resampler: Resampler
    segmenter: Segmenter | None
    segmenter_left: bool = False
    size: int

    def encode_style(self, image: Picture, region: Picture | None = None) -> StyleTokens:
        """The style of a reference picture: R(F), and F for `subtract` (paper 3.2). BadInput: no picture.

        region: a mask, 1 where the style is taken from; what is cut out there (`region_picture`) is then the reference,
        whose pixels points and boxes count.
        """
        image = to_rgb(image, name="style picture")
        image = image if region is None else region_picture(image, region)
        features = self.image_encoder.encode(image)
        return StyleTokens(resample(self.resampler, features)[0], features, image)

    def empty_style(self) -> Tensor:
        """The tokens float32 [M, C] of no style: those of an empty sheet, which is a white picture.

        Guidance calls a prompt with these in the place of the style's plain.
        """
        return self.encode_style(Image.new("RGB", (self.size, self.size), "white")).tokens

    def strengthen(self, style: StyleTokens, strength: float) -> StyleTokens:
        """A style whose tokens depart `strength` times as far from `empty_style`: E + strength (S - E).

        strength: 0 is the empty style, 1 as it is, above 1 exaggerates; up to 1000. It comes last: noise on the tokens
        is scaled with them, and a later subtraction starts anew from the features. Raises BadInput.
        """
        strength = number("style_strength", strength, 0, MAX_SETTING)
        return style if strength == 1 else style.with_tokens(self.empty_style().lerp(style.tokens, strength))

    def need_segmenter(self) -> Segmenter:
        """The segmenter; raises MissingPart where there is none, saying how to get one."""
        if self.segmenter is not None:
            return self.segmenter
        package()  # first say so if Python's segment_anything is what is missing
        if self.segmenter_left:
            raise MissingPart(
                "Python's segment_anything was installed after this model was loaded: load it again (in ComfyUI: "
                "restart ComfyUI)."
            )
        part = PARTS["segmenter"]
        raise MissingPart(
            f"This model was loaded without a {part.name}: {part.get}, and load it with segmenter=PATH (in "
            "ComfyUI: segmenter of Load StyleAR).\n"
            f"Accepted: {part.files}."
        )

    def segment(
        self,
        image: Picture,
        points: Iterable[Sequence[float]] | None = None,
        box: Sequence[float] | None = None,
    ) -> Tensor:
        """The mask of one object, float32 [H, W]: at `points`, in `box`, or the salient one without either.

        points: (x, y) or (x, y, 1 or 0); box: (left, top, right, bottom); both in pixels of the picture.
        Raises MissingPart without a segmenter, BadInput where nothing is found.
        """
        return self.need_segmenter().mask(image, points, box)

    def content_mask(
        self,
        style: StyleTokens,
        content: Picture | None = None,
        mask: Picture | None = None,
        points: Iterable[Sequence[float]] | None = None,
        box: Sequence[float] | None = None,
        segment: Callable[..., Tensor] | None = None,
    ) -> tuple[Image.Image, Tensor | None]:
        """What `subtract` takes out: a picture, RGB, and where in it, float32 [H, W], or None for all of it.

        `segment`: finds an object as (picture, points, box), by default this model's. Raises as `subtract`.
        """
        check_style(style)
        if style.features is None:
            raise BadInput(
                "Nothing can be subtracted from this style, a preset or a blend. Subtract from the style of a picture, "
                "before it is saved or blended."
            )
        if content is None and style.picture is None:
            raise BadInput("This style has no picture to cut from. Encode its picture again, or pass content.")
        if mask is not None and (points is not None or box is not None):
            raise BadInput("Both a mask and points or a box were given. Leave points and box empty, or the mask out.")
        image = to_rgb(style.picture if content is None else content, name="content")
        if mask is not None:
            return image, to_mask(mask, image.size)
        if content is None or points is not None or box is not None:
            return image, (segment or self.segment)(image, points, box)
        return image, None

    def subtract(
        self,
        style: StyleTokens,
        content: Picture | None = None,
        mask: Picture | None = None,
        points: Iterable[Sequence[float]] | None = None,
        box: Sequence[float] | None = None,
        alpha: float = 0.2,
        beta: float = 0.8,
    ) -> StyleTokens:
        """A style without what must not come along: alpha R(F) + (1 - alpha) R(F - beta F_S) (paper 3.3).

        That is the object in the style's own picture: at `points`, in `box`, under `mask` (1 where it is), or the
        salient one without any of them. Or it is what `content` shows: a picture taken whole (as released), or
        where mask, points or box say. F_S is of the cut-out on white. alpha, beta: -1000 to 1000.

        It starts from F every time, so what an earlier subtraction or `with_noise` did to the tokens is gone:
        to take out several things use one mask or several points, and add noise last.
        Raises BadInput, or MissingPart.
        """
        image, mask = self.content_mask(style, content, mask, points, box)
        if mask is not None:
            image = content_picture(image, mask)
        return style.with_tokens(enhance(self.resampler, style.features, self.image_encoder.encode(image), alpha, beta))
