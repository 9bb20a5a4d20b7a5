"""Trains the mini's picture tokenizer: a small VQGAN without adversary, with a codebook kept alive."""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn

from stylear.vqgan import VQGAN, VQGANConfig

from ..data.pictures import PictureSet, depth_of
from ..loop import Schedule, can_compile, fit, training_device, write_atomically
from ..sheets import save_grid

MINI = VQGANConfig(channels=32, multipliers=(1, 2, 4), blocks=1, latent_channels=16, code_channels=16, codes=1024)


@dataclass(frozen=True)
class VQGANSettings:
    """`continuous` is the share of the steps that skip the codebook, which then starts from k-means of real latents."""

    continuous: float = 0.2
    commitment: float = 0.25
    depth_share: float = 0.05
    schedule: Schedule = field(default_factory=lambda: Schedule(steps=3000, batch=32, learning_rate=1e-3))


class LiveCodebook(nn.Module):
    """Codes as moving averages of the latents they stand for (van den Oord et al. 2017, appendix A.1).

    A code that is hardly used is moved onto a latent of the present batch.
    """

    def __init__(self, codes: int, channels: int, decay: float = 0.99):
        super().__init__()
        self.decay = decay
        self.register_buffer("count", torch.ones(codes))
        self.register_buffer("total", torch.zeros(codes, channels))

    def start(self, embedding: nn.Embedding, vectors: Tensor) -> None:
        """K-means of `vectors` [N, C] becomes the codebook."""
        codes = vectors[torch.randperm(len(vectors))[: embedding.num_embeddings]].clone()
        for _ in range(12):
            nearest = torch.cat([torch.cdist(part, codes).argmin(1) for part in vectors.split(8192)])
            count = torch.bincount(nearest, minlength=len(codes)).float()
            total = torch.zeros_like(codes).index_add_(0, nearest, vectors)
            used = count > 0
            codes[used] = total[used] / count[used, None]
            codes[~used] = vectors[torch.randint(len(vectors), (int((~used).sum()),))]
        embedding.weight.data.copy_(codes)
        self.total.copy_(codes)
        self.count.fill_(1.0)

    def follow(self, embedding: nn.Embedding, vectors: Tensor, chosen: Tensor) -> None:
        """Move the codes towards the latents [N, C] that chose them."""
        count = torch.bincount(chosen, minlength=len(self.count)).float()
        total = torch.zeros_like(self.total).index_add_(0, chosen, vectors)
        self.count.mul_(self.decay).add_(count, alpha=1 - self.decay)
        self.total.mul_(self.decay).add_(total, alpha=1 - self.decay)
        dead = self.count < 0.03
        if dead.any():
            fresh = vectors[torch.randint(len(vectors), (int(dead.sum()),))]
            self.total[dead], self.count[dead] = fresh, 1.0
        embedding.weight.data.copy_(self.total / self.count[:, None].clamp(min=1e-5))


def reconstruction_loss(made: Tensor, real: Tensor) -> Tensor:
    """L1 and L2 of pixels, L1 of their gradients and of two coarser scales; float [B, 3, H, W] in -1..1."""
    loss = (made - real).abs().mean() + 2 * (made - real).square().mean()
    for axis in (2, 3):
        loss = loss + 0.5 * (made.diff(dim=axis) - real.diff(dim=axis)).abs().mean()
    for scale in (2, 4):
        loss = loss + 0.5 * (F.avg_pool2d(made, scale) - F.avg_pool2d(real, scale)).abs().mean()
    return loss


def to_pixels(pictures: np.ndarray) -> Tensor:
    """uint8 [B, H, W, 3] to float [B, 3, H, W] in -1..1, channels last."""
    pixels = torch.from_numpy(np.ascontiguousarray(pictures)).permute(0, 3, 1, 2).float() / 127.5 - 1
    return pixels.contiguous(memory_format=torch.channels_last)


def train_vqgan(
    data: Path, out: Path, settings: VQGANSettings | None = None, device: torch.device | None = None
) -> None:
    """Train on the picture set in `data` and write `out`/vqgan.safetensors; resumes from `out`/state.pt."""
    settings, device = settings or VQGANSettings(), device or training_device()
    torch.manual_seed(settings.schedule.seed)
    pictures = PictureSet(data)
    train, test = pictures.where("train"), pictures.where("pair")[::8][:512]
    model = VQGAN(MINI).to(device, memory_format=torch.channels_last)
    model.quantize.embedding.weight.requires_grad_(False)
    model.register_module("live", LiveCodebook(MINI.codes, MINI.code_channels).to(device))
    model.register_buffer("codebook", model.quantize.embedding.weight.data)  # saved with the state
    batch, steps = settings.schedule.batch, settings.schedule.steps
    first_quantised = round(settings.continuous * steps)

    def draw(count: int) -> Tensor:
        chosen = train[torch.randint(len(train), (count,)).numpy()]
        images = pictures.pictures[np.sort(chosen)]
        for i in range(round(settings.depth_share * count)):
            images[i] = depth_of(pictures.masks[chosen[i]] / 255)[..., None]
        return to_pixels(images).to(device)

    def encode(pixels: Tensor) -> Tensor:
        with torch.autocast(device.type, torch.bfloat16):
            return model.latents(pixels).float()

    def error(latents: Tensor, pixels: Tensor) -> Tensor:
        with torch.autocast(device.type, torch.bfloat16):
            made = model.decode_latents(latents).float()
        return reconstruction_loss(made, pixels)

    if can_compile(device):
        encode, error = torch.compile(encode), torch.compile(error)

    def loss_of(step: int) -> tuple[Tensor, dict[str, float]]:
        pixels = draw(batch)
        if step < first_quantised:
            latents = encode(pixels)
            return error(latents, pixels) + 1e-3 * latents.square().mean(), {}
        if step == first_quantised:
            with torch.no_grad():
                vectors = torch.cat([encode(draw(batch)).permute(0, 2, 3, 1).flatten(0, 2) for _ in range(4)])
            model.live.start(model.quantize.embedding, vectors)
        latents = encode(pixels)
        vectors = latents.permute(0, 2, 3, 1)
        with torch.no_grad():
            codes = model.quantize.nearest(vectors)
            quantised = model.quantize.embedding(codes)
            model.live.follow(model.quantize.embedding, vectors.flatten(0, 2), codes.flatten())
        commitment = F.mse_loss(vectors, quantised)
        passed = (vectors + (quantised - vectors).detach()).permute(0, 3, 1, 2)
        loss = error(passed, pixels) + settings.commitment * commitment
        share = torch.bincount(codes.flatten(), minlength=MINI.codes) / codes.numel()
        return loss, {"perplexity": torch.special.entr(share).sum().exp().item()}

    def evaluate(step: int) -> dict[str, float]:
        if step <= first_quantised:
            return {}
        psnr, codes = [], []
        with torch.no_grad():
            for part in np.array_split(test, -(-len(test) // 32)):
                real = to_pixels(pictures.pictures[part]).to(device)
                found = model.encode(real)
                made = model.decode(found).clamp(-1, 1)
                psnr.append(-10 * ((made - real) / 2).square().mean((1, 2, 3)).log10())
                codes.append(found.flatten())
            save_grid([*zip(real[:16], made[:16], strict=True)], out / "reconstructions.png")
        share = torch.bincount(torch.cat(codes), minlength=MINI.codes).float()
        entropy = torch.special.entr(share / share.sum()).sum().exp()
        quality, style = torch.cat(psnr).cpu().numpy(), pictures.style[test]
        return {
            "psnr": float(quality.mean()),
            "worst_style": min(float(quality[style == name].mean()) for name in np.unique(style)),
            "perplexity": entropy.item(),
        }

    fit("vqgan", model, model.parameters(), loss_of, settings.schedule, out, evaluate)
    product = {
        k: v.half().contiguous() for k, v in model.state_dict().items() if not k.startswith(("live.", "codebook"))
    }
    write_atomically(out / "vqgan.safetensors", lambda path: save_file(product, path))
