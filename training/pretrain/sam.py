"""Trains the mini's segmenter: segment_anything's own classes on exact masks of the rendered drawings."""

from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from segment_anything.modeling import ImageEncoderViT, MaskDecoder, PromptEncoder, Sam, TwoWayTransformer
from torch import Tensor, nn

from ..data.pictures import SIZE, PictureSet
from ..loop import Schedule, can_compile, fit, training_device, write_atomically
from ..sheets import save_grid

PATCH = 4


@dataclass(frozen=True)
class SAMSettings:
    schedule: Schedule = field(
        default_factory=lambda: Schedule(steps=3600, batch=32, learning_rate=1e-3, weight_decay=0.05)
    )


def build_sam() -> Sam:
    """The mini's segmenter with random weights: segment_anything's shape, 64 px, patches of 4."""
    grid = SIZE // PATCH
    encoder = ImageEncoderViT(
        img_size=SIZE, patch_size=PATCH, embed_dim=96, depth=4, num_heads=3, out_chans=64,
        use_rel_pos=True, window_size=0, global_attn_indexes=(0, 1, 2, 3), norm_layer=partial(nn.LayerNorm, eps=1e-6),
    )  # fmt: skip
    prompts = PromptEncoder(
        embed_dim=64, image_embedding_size=(grid, grid), input_image_size=(SIZE, SIZE), mask_in_chans=16
    )
    transformer = TwoWayTransformer(depth=2, embedding_dim=64, mlp_dim=256, num_heads=8)
    decoder = MaskDecoder(transformer_dim=64, transformer=transformer, iou_head_hidden_dim=64)
    return Sam(encoder, prompts, decoder)


def all_masks(
    sam: Sam, embedding: Tensor, points: tuple[Tensor, Tensor] | None, boxes: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Logits [B, 4, H, W] and estimated IoU [B, 4] of one prompt for each of a batch of embeddings [B, C, h, w].

    The decoder of segment_anything takes one picture with many prompts; this is the same network for many pictures.
    """
    sparse, dense = sam.prompt_encoder(points=points, boxes=boxes, masks=None)
    if points is None and boxes is None:
        sparse, dense = sparse.expand(len(embedding), -1, -1), dense.expand(len(embedding), -1, -1, -1)
    decoder = sam.mask_decoder
    tokens = torch.cat([decoder.iou_token.weight, decoder.mask_tokens.weight]).expand(len(embedding), -1, -1)
    places = sam.prompt_encoder.get_dense_pe().expand(len(embedding), -1, -1, -1)
    found, seen = decoder.transformer(embedding + dense, places, torch.cat([tokens, sparse], dim=1))
    upscaled = decoder.output_upscaling(seen.transpose(1, 2).reshape(embedding.shape))
    count = decoder.num_mask_tokens
    kernels = torch.stack([decoder.output_hypernetworks_mlps[i](found[:, 1 + i]) for i in range(count)], dim=1)
    return (kernels @ upscaled.flatten(2)).unflatten(2, upscaled.shape[2:]), decoder.iou_prediction_head(found[:, 0])


def iou(mask: Tensor, truth: Tensor) -> Tensor:
    """Intersection over union of boolean masks over the last two axes."""
    return (mask & truth).sum((-2, -1)) / (mask | truth).sum((-2, -1)).clamp(min=1)


def train_sam(data: Path, out: Path, settings: SAMSettings | None = None, device: torch.device | None = None) -> None:
    """Train on the picture set in `data` and write `out`/sam.safetensors; resumes from `out`/state.pt.

    A third of the batches has a point inside the object (and sometimes one outside), a third a box, a third nothing.
    """
    settings, device = settings or SAMSettings(), device or training_device()
    torch.manual_seed(settings.schedule.seed)
    pictures = PictureSet(data)
    train, test = pictures.where("train"), pictures.where("pair")[::20]
    sam = build_sam().to(device)
    encode = torch.compile(sam.image_encoder) if can_compile(device) else sam.image_encoder

    def batch_of(chosen: np.ndarray, rng: np.random.Generator, move: bool) -> tuple[Tensor, Tensor]:
        """Pixels as the encoder takes them, on the device; true masks, on the CPU."""
        pixels = torch.from_numpy(pictures.pictures[chosen]).permute(0, 3, 1, 2).float()
        truth = torch.from_numpy(pictures.masks[chosen]).float() / 255
        if move:  # zoom and shift picture and mask alike, so that the object is not always centred
            scale = torch.from_numpy(rng.uniform(0.7, 1.4, len(chosen))).float()
            theta = torch.zeros(len(chosen), 2, 3)
            theta[:, 0, 0] = theta[:, 1, 1] = 1 / scale
            theta[:, :, 2] = torch.from_numpy(rng.uniform(-0.3, 0.3, (len(chosen), 2))).float()
            grid = F.affine_grid(theta, [len(chosen), 1, SIZE, SIZE], align_corners=False)
            pixels = F.grid_sample(pixels, grid, padding_mode="reflection", align_corners=False)
            truth = F.grid_sample(truth[:, None], grid, align_corners=False)[:, 0]
        pixels = (pixels.to(device) - sam.pixel_mean) / sam.pixel_std
        return pixels, truth > 0.5

    def point_in(truth: Tensor, rng: np.random.Generator) -> Tensor:
        places = np.zeros((len(truth), 2), np.float32)
        for i, mask in enumerate(truth.numpy()):
            ys, xs = np.nonzero(mask)
            k = rng.integers(len(xs)) if len(xs) else 0
            places[i] = (xs[k] + 0.5, ys[k] + 0.5) if len(xs) else (SIZE / 2, SIZE / 2)
        return torch.from_numpy(places)

    def prompt(
        kind: int, truth: Tensor, rng: np.random.Generator
    ) -> tuple[tuple[Tensor, Tensor] | None, Tensor | None]:
        if kind == 0:
            places = torch.stack([point_in(truth, rng), point_in(~truth, rng)], 1)
            labels = torch.tensor([[1, 0]]).expand(len(truth), -1)
            single = rng.random() < 0.7
            return (places[:, : 1 if single else 2].to(device), labels[:, : 1 if single else 2].to(device)), None
        if kind == 1:
            boxes = np.tile(np.array([0, 0, SIZE, SIZE], np.float32), (len(truth), 1))
            for i, mask in enumerate(truth.numpy()):
                ys, xs = np.nonzero(mask)
                if len(xs):
                    boxes[i] = (xs.min(), ys.min(), xs.max() + 1, ys.max() + 1)
            return None, torch.from_numpy(boxes + rng.normal(0, 1.5, boxes.shape).astype(np.float32)).to(device)
        return None, None

    def loss_of(step: int) -> tuple[Tensor, dict[str, float]]:
        rng = np.random.default_rng([settings.schedule.seed, step])
        chosen = np.sort(rng.choice(train, settings.schedule.batch, replace=False))
        pixels, truth = batch_of(chosen, rng, move=True)
        points, boxes = prompt(step % 3, truth, rng)
        truth = truth.to(device)
        with torch.autocast(device.type, torch.bfloat16):
            embedding = encode(pixels)
        logits, guess = all_masks(sam, embedding.float(), points, boxes)
        logits, target = logits.float(), truth[:, None].float().expand(-1, 4, -1, -1)
        probability = logits.sigmoid()
        dice = 1 - (2 * (probability * target).sum((2, 3)) + 1) / (probability.sum((2, 3)) + target.sum((2, 3)) + 1)
        with torch.no_grad():
            real = iou(logits > 0, truth[:, None])
        loss = F.binary_cross_entropy_with_logits(logits, target) + dice.mean() + F.mse_loss(guess.float(), real)
        return loss, {"iou": real.mean().item()}

    def evaluate(step: int) -> dict[str, float]:
        rng = np.random.default_rng(1)
        pixels, truth = batch_of(test, rng, move=False)
        result, shown = (
            {},
            [[*pictures.pictures[test[:16]]], [*(pictures.masks[test[:16], :, :, None].repeat(3, 3))]],
        )
        with torch.no_grad():
            for kind, label in enumerate(("point", "box", "none")):
                points, boxes = prompt(kind, truth, rng)
                logits = all_masks(sam, sam.image_encoder(pixels), points, boxes)[0][:, 0].cpu()
                result[label] = iou(logits > 0, truth).mean().item()
                shown.append([*((logits[:16] > 0)[..., None].numpy().repeat(3, 3) * np.uint8(255))])
        save_grid(shown, out / "masks.png")
        return result

    fit("sam", sam, sam.parameters(), loss_of, settings.schedule, out, evaluate)
    product = {k: v.half().contiguous() for k, v in sam.state_dict().items()}
    write_atomically(out / "sam.safetensors", lambda path: save_file(product, path))
