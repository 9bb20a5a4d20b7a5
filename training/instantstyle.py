"""Draws a prompt in the style of a picture with InstantStyle: SDXL and an IP-Adapter that speaks in one block only."""

import importlib
import json
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from reprlib import repr as short
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from pydantic import Field
from torch import Tensor, nn

from stylear.checkpoint.files import PICKLES, WeightFile, open_weights
from stylear.checks import SEEDS, whole
from stylear.errors import BadCheckpoint, BadInput, MissingPart
from stylear.files import read_text
from stylear.images import to_rgb
from stylear.pipeline import DTYPES

from .config import Settings
from .inputs import files_at, files_of

STYLE_BLOCK = "up_blocks.0.attentions.1"
NEGATIVE = "text, watermark, lowres, low quality, worst quality, deformed, blurry"
SDXL = "stabilityai/stable-diffusion-xl-base-1.0 --exclude '*.onnx*' --exclude '*.msgpack' --exclude 'sd_xl_*'"
# Each part with weights: library, class, and the name of its file without a suffix.
PARTS = {
    "unet": ("diffusers", "UNet2DConditionModel", "diffusion_pytorch_model"),
    "vae": ("diffusers", "AutoencoderKL", "diffusion_pytorch_model"),
    "text_encoder": ("transformers", "CLIPTextModel", "model"),
    "text_encoder_2": ("transformers", "CLIPTextModelWithProjection", "model"),
}
IMAGE_ENCODER = ("transformers", "CLIPVisionModelWithProjection", "model")


class InstantStyleSettings(Settings):
    """Which models, and how they draw; scale, steps and guidance as in InstantStyle's own infer_style.py."""

    sdxl: Path = Field(Path("work/example/sdxl"), description="folder of Stable Diffusion XL in diffusers' layout")
    ip_adapter: Path = Field(Path("work/example/ip_adapter"), description="folder as h94/IP-Adapter has it")
    weights: str = Field("sdxl_models/ip-adapter_sdxl.safetensors", description="the IP-Adapter's file in `ip_adapter`")
    image_encoder: str = Field("sdxl_models/image_encoder", description="its image encoder's folder in `ip_adapter`")
    scale: float = Field(1.0, gt=0, le=2, description=f"strength of the style, in {STYLE_BLOCK} alone")
    steps: int = Field(30, ge=1, le=1000, description="steps of the sampler")
    guidance: float = Field(5.0, ge=1, le=50, description="guidance towards the prompt; 1 is none")
    size: int = Field(1024, ge=64, le=4096, multiple_of=32, description="side of the picture in pixels")
    negative: str = Field(NEGATIVE, description="what to keep away from; nothing at guidance 1")
    device: str | None = Field(None, description="cpu, cuda, cuda:1, mps; by default the GPU if there is one")
    dtype: Literal["float32", "bfloat16", "float16"] | None = Field(
        None, description="of the weights; by default float16 on CUDA, else float32"
    )
    offload: Literal["none", "model", "sequential"] = Field(
        "none", description="keep what does not run in main memory: whole models (about 8 GB of GPU) or single layers"
    )


class InstantStyle:
    """Stable Diffusion XL that takes the style of a picture, but not its content, through one attention block.

    InstantStyle (arXiv 2404.02733; infer_style.py of its release): of the IP-Adapter's layers only those of
    up_blocks.0.attentions.1, which carry style, are on. No pickle is opened, nothing is downloaded, and no watermark
    is drawn into the pictures.
    """

    def __init__(self, settings: InstantStyleSettings):
        """Load. MissingPart naming the file that is not there and how to get it, BadCheckpoint for one that does not
        fit, BadInput for a device that is not there."""
        self.settings = settings
        self.device = _device(settings.device)
        if self.device.type == "cpu" and settings.offload != "none":
            raise BadInput(f"offload is {settings.offload!r} but there is no GPU to spare. Set offload=none.")
        dtype = DTYPES[settings.dtype or ("float16" if self.device.type == "cuda" else "float32")]
        with quiet():
            self.pipe = _pipeline(settings, dtype)
        self.pipe.set_ip_adapter_scale({"up": {"block_0": [0.0, settings.scale, 0.0]}})
        self.pipe.set_progress_bar_config(disable=True)
        if settings.offload == "model":
            self.pipe.enable_model_cpu_offload(device=self.device)
        elif settings.offload == "sequential":
            self.pipe.enable_sequential_cpu_offload(device=self.device)
        else:
            self.pipe.to(self.device)

    def __call__(self, style: Image.Image, prompt: str, seed: int) -> Image.Image:
        """One picture of `prompt`, RGB, `size` x `size` pixels. On one machine the same seed gives the same bytes."""
        return self.batch(style, [prompt], [seed])[0]

    @torch.inference_mode()
    def batch(self, style: Image.Image, prompts: Sequence[str], seeds: Sequence[int]) -> list[Image.Image]:
        """Several prompts in one style at once; each as it is alone, but for rounding.

        Seeds (0 to 2**64 - 1) draw the noise on the CPU, so it is the same on every device. Raises BadInput for a
        style picture that cannot be read, FloatingPointError for pixels that are not finite.
        """
        if not prompts:
            return []
        s = self.settings
        seeds = [whole("seed", seed, 0, SEEDS - 1) for _, seed in zip(prompts, seeds, strict=True)]
        drawn = self.pipe(
            prompt=list(prompts),
            negative_prompt=[s.negative] * len(prompts),
            ip_adapter_image=to_rgb(style, name="style picture"),
            num_inference_steps=s.steps,
            guidance_scale=s.guidance,
            height=s.size,
            width=s.size,
            generator=[torch.Generator().manual_seed(seed) for seed in seeds],
            output_type="np",
        ).images
        if not np.isfinite(drawn).all():
            raise FloatingPointError(f"SDXL drew pixels that are no numbers (seeds {seeds}). Set dtype=float32.")
        return [Image.fromarray((picture * 255).round().astype(np.uint8)) for picture in drawn]


def model_files(settings: InstantStyleSettings) -> list[Path]:
    """Every file that `InstantStyle` reads; MissingPart or BadCheckpoint as there for one that is not there."""
    places = _Places(settings)
    weights = [part.find()[1] for part in (places.encoder, *places.parts)] + [places.adapter()]
    settled = [settings.sdxl / name for name in ("tokenizer", "tokenizer_2", "scheduler")]
    files = [file for folder in settled if folder.is_dir() for file in files_at(folder)]
    return [settings.sdxl / "model_index.json", *files, *(file for one in weights for file in files_of(one))]


class _Places:
    """Where the models are: `parts` of SDXL, the `encoder` of the IP-Adapter, and its `file`."""

    def __init__(self, settings: InstantStyleSettings):
        """MissingPart for an SDXL without its index or a tokenizer."""
        sdxl, adapter, self.remedy = settings.sdxl, settings.ip_adapter, _remedy(SDXL, settings.sdxl)
        weights, clip = Path(settings.weights).with_suffix(".safetensors").as_posix(), settings.image_encoder
        wanted = f"h94/IP-Adapter {weights} {clip}/config.json {clip}/model.safetensors"
        self.adapter_remedy = _remedy(wanted, adapter)
        if not (sdxl / "model_index.json").is_file():
            raise MissingPart(f"There is no Stable Diffusion XL in {sdxl} (no model_index.json). {self.remedy}")
        _check_index(sdxl / "model_index.json", self.remedy)
        for folder in (sdxl / "tokenizer", sdxl / "tokenizer_2"):
            if not any((folder / name).is_file() for name in ("vocab.json", "tokenizer.json")):
                raise MissingPart(f"There is no vocab.json in {folder}. {self.remedy}")
        self.parts = [_Part(sdxl / name, *how, self.remedy) for name, how in PARTS.items()]
        self.encoder = _Part(adapter / clip, *IMAGE_ENCODER, self.adapter_remedy)
        self.file = adapter / settings.weights

    def adapter(self) -> WeightFile:
        """The IP-Adapter's file."""
        if self.file.suffix in PICKLES:
            raise BadCheckpoint(
                f"{self.file} is a pickle, which could run code, and is not opened. Set `weights` to a .safetensors. "
                f"{self.adapter_remedy}"
            )
        if not self.file.is_file():
            raise MissingPart(f"There is no IP-Adapter {self.file}. {self.adapter_remedy}")
        return _open(self.file, self.adapter_remedy)


def _check_index(index: Path, remedy: str) -> None:
    """BadCheckpoint for parts of another library than the two there are, such as a module that lies beside them.

    Older versions of diffusers import what a folder names without asking.
    """
    try:
        told = json.loads(read_text(index))
    except (ValueError, RecursionError, BadCheckpoint) as error:
        raise BadCheckpoint(f"{index} is damaged: {error}. {remedy}") from error
    parts = told.values() if isinstance(told, dict) else [told]
    named = [part[0] for part in parts if isinstance(part, list) and part]
    if other := [library for library in named if library not in (None, "diffusers", "transformers")]:
        raise BadCheckpoint(f"{index} names custom code, {short(other[0])}, which is not run. {remedy}")


def _pipeline(settings: InstantStyleSettings, dtype: torch.dtype) -> Any:
    """The pipeline on the CPU, its IP-Adapter loaded."""
    from diffusers import StableDiffusionXLPipeline  # seconds to import, and --help needs none of it

    places = _Places(settings)
    sdxl, file, parts, encoder = settings.sdxl, places.file, places.parts, places.encoder
    remedy, adapter_remedy = places.remedy, places.adapter_remedy
    variants = {part: part.find()[0] for part in (encoder, *parts)}  # all are looked for before one is read
    halves = _halves(places.adapter(), adapter_remedy)
    models = {part.folder.name: part.load(variants[part], dtype) for part in parts}
    models["image_encoder"] = encoder.load(variants[encoder], dtype)
    _check_unet(models["unet"], sdxl)
    _check_encoder(halves["image_proj"], models["image_encoder"], file)
    with _naming(sdxl, remedy):
        pipe = StableDiffusionXLPipeline.from_pretrained(
            sdxl, **models, feature_extractor=None, local_files_only=True, add_watermarker=False
        )
    with _naming(file, adapter_remedy):
        pipe.load_ip_adapter(halves, subfolder="", weight_name="")
    return pipe


@dataclass(frozen=True)
class _Part:
    """One model of `library`, in a folder with config.json and `stem`.safetensors; `remedy`: how to get it."""

    folder: Path
    library: str
    name: str
    stem: str
    remedy: str

    def find(self) -> tuple[str | None, WeightFile]:
        """Which variant is there: None, or "fp16"; in one file or in shards, which are opened. MissingPart if none."""
        for variant, dot in ((None, ""), ("fp16", ".fp16")):
            for name in (f"{self.stem}{dot}.safetensors", f"{self.stem}.safetensors.index{dot}.json"):
                if (self.folder / name).is_file():
                    return variant, _open(self.folder / name, self.remedy)
        pickles = sorted(path.name for path in self.folder.glob("*") if path.suffix in PICKLES)
        why = f": {pickles[0]} is a pickle, which can run code, and is not opened" if pickles else ""
        raise MissingPart(f"There is no {self.stem}.safetensors in {self.folder}{why}. {self.remedy}")

    def load(self, variant: str | None, dtype: torch.dtype) -> nn.Module:
        """The model; BadCheckpoint unless every one of its weights is in the file."""
        kind = getattr(importlib.import_module(self.library), self.name)
        with _naming(self.folder, self.remedy):
            model, info = kind.from_pretrained(
                self.folder,
                torch_dtype=dtype,
                variant=variant,
                use_safetensors=True,
                local_files_only=True,
                output_loading_info=True,
            )
        if missing := sorted(info["missing_keys"]):
            raise BadCheckpoint(f"{self.folder} has no {missing[0]} ({len(missing)} missing in all). {self.remedy}")
        return model.eval()


def _halves(file: WeightFile, remedy: str) -> dict[str, dict[str, Tensor]]:
    """The IP-Adapter's two halves, image_proj and ip_adapter, without those words before their keys."""
    tensors = file.read()
    halves = {
        half: {key.removeprefix(f"{half}."): value for key, value in tensors.items() if key.startswith(f"{half}.")}
        for half in ("image_proj", "ip_adapter")
    }
    for half, weights in halves.items():
        if not weights:
            raise BadCheckpoint(f"{file.path} is no IP-Adapter: it has no {half}.* weights. {remedy}")
    return halves


def _open(file: Path, remedy: str) -> WeightFile:
    found = open_weights(file)
    if found.is_pickle:
        raise BadCheckpoint(f"{file} is a pickle under another name, and is not read. {remedy}")
    return found


def _check_unet(unet: nn.Module, folder: Path) -> None:
    """That the style block is where SDXL has it, with the blocks on either side that stay off."""
    blocks = getattr(unet.up_blocks[0], "attentions", ())
    if len(blocks) != 3 or unet.config.addition_embed_type != "text_time":
        raise BadCheckpoint(f"{folder} is not Stable Diffusion XL: its UNet has other blocks. Set `sdxl` to one.")


def _check_encoder(projection: Mapping[str, Tensor], encoder: nn.Module, file: Path) -> None:
    """That the image encoder makes features of the width that the adapter was trained on."""
    plain, plus = projection.get("proj.weight"), projection.get("proj_in.weight")
    if plain is None and plus is None:
        raise BadCheckpoint(f"{file} is an IP-Adapter of another kind. Use ip-adapter_sdxl or ip-adapter-plus_sdxl.")
    wanted = (plus if plain is None else plain).shape[1]
    made = encoder.config.hidden_size if plain is None else encoder.config.projection_dim
    if wanted != made:
        raise BadCheckpoint(
            f"{file} takes picture features {wanted} wide, but its image encoder makes {made}. Set `image_encoder`: "
            "models/image_encoder for *_vit-h files, sdxl_models/image_encoder for ip-adapter_sdxl."
        )


def _remedy(what: str, folder: Path) -> str:
    return f"Get it: hf download {what} --local-dir {folder}"


@contextmanager
def _naming(place: Path, remedy: str) -> Iterator[None]:
    """What a loader raises for files that do not fit together (nearly anything) as BadCheckpoint naming the place."""
    try:
        yield
    except Exception as error:
        told = " ".join(f"{type(error).__name__}: {error}".split())[:400]
        raise BadCheckpoint(f"{place} cannot be loaded: files are missing or damaged. {remedy} ({told})") from error


@contextmanager
def quiet() -> Iterator[None]:
    """No bars and no advice from the two libraries while this loads; afterwards as before."""
    import diffusers
    import transformers

    logs = [library.utils.logging for library in (diffusers, transformers)]
    before = [(log.get_verbosity(), log.is_progress_bar_enabled()) for log in logs]
    try:
        for log in logs:
            log.set_verbosity_error()
            log.disable_progress_bar()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            yield
    finally:
        for log, (level, bars) in zip(logs, before, strict=True):
            log.set_verbosity(level)
            log.enable_progress_bar() if bars else log.disable_progress_bar()


def _device(name: str | None) -> torch.device:
    if name is None:
        return torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).item()  # only use tells: a name may stand for a device that is not there
    except (RuntimeError, AssertionError) as error:
        raise BadInput(f"There is no device {name!r} for this PyTorch. Use cpu, cuda or mps.") from error
    return device
