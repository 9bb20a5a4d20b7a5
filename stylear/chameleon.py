"""The Chameleon decoder for sampling, with Hugging Face's keys and a preallocated key/value cache."""

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .chameleon_config import ChameleonConfig
from .errors import BadCheckpoint

_NORM = ("weight", "bias")
QK_NORM_EPS = 1e-5  # fixed in Chameleon, unlike rms_norm_eps


@dataclass
class Cache:
    """Keys and values of what a call has read so far, and the rotary tables for its positions; made once a call.

    `kept`: [layers, rows, slots, 2 kv_heads, head_dim], keys before values; `turns`: [slots, 2, head_dim], cosines
    before sines, whose first half is negative; `places`: int64 [slots], counting; `first`: int64 [rows, 1], the first
    slot of each row among those of all; `lengths`: filled slots of each row. Slots behind it are never read, so setting
    a length back forgets.
    """

    kept: Tensor
    turns: Tensor
    places: Tensor
    first: Tensor
    lengths: list[int] = field(default_factory=list)

    def share(self, source: int, rows: range) -> None:
        """Give each of `rows` what row `source` holds."""
        length = self.lengths[source]
        for row in rows:
            if row != source:
                self.kept[:, row, :length] = self.kept[:, source, :length]
                self.lengths[row] = length

    def keep(self, rows: list[int]) -> None:
        """Forget all but `rows`, which ascend; they move to the front of the memory there is."""
        for row, source in enumerate(rows):
            length = self.lengths[source]
            if row != source:
                self.kept[:, row, :length] = self.kept[:, source, :length]
        self.kept, self.lengths = self.kept[:, : len(rows)], [self.lengths[row] for row in rows]


@dataclass(frozen=True)
class Step:
    """What every layer needs to know of one forward pass: where rows are written and what they may see."""

    slots: Tensor  # [rows n], where these rows are written, counting the slots of all rows
    total: int  # slots to read
    mask: Tensor | None  # [rows, 1, n, total], 0 where a query may look, else -inf; None: everywhere
    cos: Tensor  # [rows, n, 1, head_dim]
    sin: Tensor

    @classmethod
    def at(cls, positions: Tensor, slots: Tensor, total: int, masked: bool, cache: Cache) -> "Step":
        """The pass over `positions` int64 [rows, n] of rows that are kept at `slots`, of the same shape."""
        mask = None
        if masked:
            behind = cache.places[:total] > positions[:, None, :, None]
            mask = behind.new_zeros(behind.shape, dtype=cache.kept.dtype).masked_fill_(behind, -math.inf)
        cos, sin = cache.turns[positions].chunk(2, dim=2)
        return cls(slots.flatten(), total, mask, cos, sin)


class Chameleon(nn.Module):
    """Chameleon's language model (arXiv 2405.09818): embeddings in, hidden states and logits out.

    Its state dict has Hugging Face's keys. Inside, projections that read the same input are one matrix: loading
    joins them and `state_dict` hands out views.
    """

    def __init__(self, config: ChameleonConfig):
        super().__init__()
        self.config = config
        self.model = _Decoder(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.compiled: Callable[..., Tensor] | None = None

    def embed(self, ids: Tensor) -> Tensor:
        """Embeddings [..., hidden] of token ids int64 [...]."""
        return F.embedding(ids, self.model.embed_tokens.weight)

    def attends_in(self, device: torch.device | None = None) -> torch.dtype:
        """What keys and values are kept in on a device, or where the weights are: their dtype, on a CPU float32.

        Attention of a few queries in half precision is slow there.
        """
        weight = self.model.embed_tokens.weight
        return torch.float32 if (device or weight.device).type == "cpu" else weight.dtype

    def new_cache(self, rows: int, slots: int) -> Cache:
        """An empty cache for `rows` sequences of up to `slots` tokens, on the weights' device."""
        config, like = self.config, self.model.embed_tokens.weight
        shape = (config.num_hidden_layers, rows, slots, 2 * config.num_key_value_heads, config.head_dim)
        channels = torch.arange(0, config.head_dim, 2, dtype=torch.float32, device=like.device)
        frequencies = 1.0 / config.rope_theta ** (channels / config.head_dim)
        places = torch.arange(slots, device=like.device)
        angles = places[:, None] * frequencies
        cos, sin = angles.cos(), angles.sin()
        return Cache(
            kept=like.new_zeros(shape, dtype=self.attends_in()),
            turns=torch.cat((cos, cos, -sin, sin), dim=-1).to(self.attends_in()).unflatten(-1, (2, -1)),
            places=places,
            first=torch.arange(0, rows * slots, slots, device=like.device)[:, None],
            lengths=[0] * rows,
        )

    def forward(
        self,
        embeddings: Tensor,
        cache: Cache,
        rows: range | None = None,
        read: Callable[[Tensor, Cache, range, Tensor, int, bool], Tensor] | None = None,
    ) -> Tensor:
        """Read `embeddings` [rows, n, hidden] after what `cache` holds; normed hidden states of that shape.

        `rows`: which rows of the cache these are (a range of step 1), all by default. Each row goes on at its
        own length, which grows by n. `read`: what does as `self.read`, in its place. ValueError if the cache has too
        few slots.
        """
        rows = range(len(cache.lengths)) if rows is None else rows
        lengths, n = cache.lengths[rows.start : rows.stop], embeddings.shape[1]
        total = max(lengths) + n
        if total > len(cache.places):
            raise ValueError(f"The cache has {len(cache.places)} slots and {total} are needed.")
        positions = torch.tensor(lengths, device=cache.places.device)[:, None] + cache.places[:n]
        masked = n > 1 or min(lengths) < max(lengths)
        hidden = (read or self.read)(embeddings, cache, rows, positions, total, masked)
        cache.lengths[rows.start : rows.stop] = [length + n for length in lengths]
        return hidden

    def read(
        self,
        embeddings: Tensor,
        cache: Cache,
        rows: range,
        positions: Tensor,
        total: int,
        masked: bool = True,
        decoder: Callable[..., Tensor] | None = None,
    ) -> Tensor:
        """What `forward` does on the device, at `positions` int64 [rows, n], looking at `total` slots at most.

        `masked`: whether any of these lies behind a row's position; where none does, leaving it out is faster.
        `decoder`: what torch.compile made of the layers (see `compile_passes`), if it is to be used.
        """
        kept = cache.kept[:, rows.start : rows.stop].flatten(1, 2).unbind()
        slots = cache.first[: len(rows)] + positions
        return (decoder or _Decoder.forward)(self.model, embeddings, kept, positions, slots, total, masked, cache)

    def head(self, ids: Tensor) -> Tensor:
        """Rows [k, hidden] of the output head for token ids int64 [k]; a view if the ids are consecutive."""
        weight, first = self.lm_head.weight, int(ids[0])
        if torch.equal(ids.cpu(), torch.arange(first, first + len(ids))):
            return weight[first : first + len(ids)]
        return weight[ids.to(weight.device)]

    def logits(self, hidden: Tensor, head: Tensor | None = None) -> Tensor:
        """Logits float32 [..., k] of hidden states [..., hidden], over `head` or the whole vocabulary."""
        return F.linear(hidden, self.lm_head.weight if head is None else head).float()

    def join(self, weights: dict[str, Tensor]) -> None:
        """Make Hugging Face's weights those that are loaded, within the dict: only one matrix is held twice at a time.

        `load_state_dict` does this too, but cannot let go of what its caller holds.
        """
        for name, module in self.named_modules():
            if isinstance(module, _Joined):
                module.join(weights, f"{name}.")

    @torch.inference_mode()
    def compile_passes(self) -> str:
        """Let torch.compile rewrite a pass and try it; returns why that is not possible, empty where it is.

        Without a compiler, say, passes stay as they are and a warning says so. The rewritten one is `compiled`, which
        `Passes` reads with: what is read once, such as a prompt, is not worth compiling.
        """
        try:
            compiled = torch.compile(_Decoder.forward, dynamic=True)
            embeddings, cache = self.model.embed_tokens.weight[:4].unflatten(0, (2, 2)), self.new_cache(2, 4)
            self.read(embeddings, cache, range(2), cache.places[:2].expand(2, -1), 3, decoder=compiled)
        except RuntimeError as error:
            reason = str(error).strip().splitlines()[0]
            logging.getLogger(__name__).warning("Passes stay as they are, without torch.compile: %s", reason)
            return reason
        self.compiled = compiled
        return ""

    def lay_out(self) -> "Chameleon":
        """Keep the matrices as the device reads them fastest; shapes and numbers stay. Returns itself.

        On a CPU that is column by column: products of a few tokens then take a fifth to a half less time.
        """
        for module in self.modules():
            weight = getattr(module, "weight", None)
            fast = weight is not None and weight.dtype in (torch.float32, torch.bfloat16)
            if isinstance(module, nn.Linear) and weight.device.type == "cpu" and fast:
                weight.data = weight.data.t().contiguous().t()
        return self


class _Decoder(nn.Module):
    """Named as in Hugging Face's keys: `model.embed_tokens`, `model.layers`, `model.norm`."""

    def __init__(self, config: ChameleonConfig):
        super().__init__()
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(_Layer(config) for _ in range(config.num_hidden_layers))
        self.norm = _RMSNorm(config)

    def forward(
        self,
        embeddings: Tensor,
        kept: Sequence[Tensor],
        positions: Tensor,
        slots: Tensor,
        total: int,
        masked: bool,
        cache: Cache,
    ) -> Tensor:
        """`kept`: each layer's part of the cache [rows slots, 2 kv_heads, head_dim], written in place."""
        step, hidden = Step.at(positions, slots, total, masked, cache), embeddings
        for layer, own in zip(self.layers, kept, strict=True):
            hidden = layer(hidden, own, step)
        return self.norm(hidden)


class _Layer(nn.Module):
    """Attention and MLP, each with a residual; the norm stands before them, or behind with `swin_norm`."""

    def __init__(self, config: ChameleonConfig):
        super().__init__()
        self.swin_norm = config.swin_norm
        self.input_layernorm = _RMSNorm(config)
        self.self_attn = _Attention(config)
        self.post_attention_layernorm = _RMSNorm(config)
        self.mlp = _MLP(config)

    def forward(self, hidden: Tensor, kept: Tensor, step: Step) -> Tensor:
        if self.swin_norm:
            hidden = hidden + self.input_layernorm(self.self_attn(hidden, kept, step))
            return hidden + self.post_attention_layernorm(self.mlp(hidden))
        hidden = hidden + self.self_attn(self.input_layernorm(hidden), kept, step)
        return hidden + self.mlp(self.post_attention_layernorm(hidden))


class _Joined(nn.Module):
    """A module that keeps tensors of Hugging Face's names joined along their first dimension.

    `joined`: own name to the (name, rows) of its parts.
    """

    joined: dict[str, list[tuple[str, int]]]

    def __init__(self):
        super().__init__()
        self._register_state_dict_hook(self._split)

    def join(self, state_dict: dict[str, Tensor], prefix: str) -> None:
        """Put joined tensors in the place of their parts, one after the other, where all parts are there."""
        for name, parts in self.joined.items():
            keys = [prefix + part for part, _ in parts]
            if all(key in state_dict for key in keys):
                state_dict[prefix + name] = torch.cat([state_dict.pop(key) for key in keys])

    def _load_from_state_dict(self, state_dict, prefix, *others) -> None:
        self.join(state_dict, prefix)
        super()._load_from_state_dict(state_dict, prefix, *others)

    @staticmethod
    def _split(module: "_Joined", state_dict: dict, prefix: str, _) -> None:
        parts = {}
        for key in [key for key in state_dict if key.startswith(prefix)]:
            name, whole = key.removeprefix(prefix), state_dict.pop(key)
            names, rows = zip(*module.joined.get(name, [(name, len(whole))]), strict=True)
            parts |= zip(names, whole.split(rows), strict=True)
        owners = list(dict.fromkeys(name.rpartition(".")[0] for name in parts))
        for name in sorted(parts, key=lambda name: owners.index(name.rpartition(".")[0])):
            state_dict[prefix + name] = parts[name]


class _Attention(_Joined):
    """Causal attention with a LayerNorm on each head's queries and keys before the rotary embedding."""

    def __init__(self, config: ChameleonConfig):
        super().__init__()
        hidden, head_dim = config.hidden_size, config.head_dim
        heads, kv_heads = config.num_attention_heads, config.num_key_value_heads
        self.heads = (heads, kv_heads, kv_heads)
        self.grouped = kv_heads != heads
        self.qkv_proj = nn.Linear(hidden, sum(self.heads) * head_dim, bias=False)
        self.o_proj = nn.Linear(hidden, hidden, bias=False)
        self.qk_norm = _HeadNorm(heads + kv_heads, head_dim)
        self.joined = {
            "qkv_proj.weight": [
                (f"{name}_proj.weight", count * head_dim) for name, count in zip("qkv", self.heads, strict=True)
            ],
            **{f"qk_norm.{kind}": [(f"q_norm.{kind}", heads), (f"k_norm.{kind}", kv_heads)] for kind in _NORM},
        }

    def forward(self, hidden: Tensor, kept: Tensor, step: Step) -> Tensor:
        """`kept`: this layer's cache [rows slots, 2 kv_heads, head_dim], written in place."""
        heads = self.qkv_proj(hidden).view(*hidden.shape[:2], sum(self.heads), -1)
        query_key = heads[:, :, : self.heads[0] + self.heads[1]]
        normed = self.qk_norm(query_key)
        # Rotary embedding: channel i turns with channel i + head_dim / 2.
        query_key.copy_(torch.addcmul(normed * step.cos, normed.roll(normed.shape[-1] // 2, dims=-1), step.sin))
        query, key_value = heads.split((self.heads[0], 2 * self.heads[1]), dim=2)
        kept.index_copy_(0, step.slots, key_value.flatten(0, 1).to(kept.dtype))
        key, value = kept.unflatten(0, (len(hidden), -1))[:, : step.total].transpose(1, 2).chunk(2, dim=1)
        attended = F.scaled_dot_product_attention(
            query.transpose(1, 2).to(key.dtype), key, value, attn_mask=step.mask, enable_gqa=self.grouped
        )
        return self.o_proj(attended.transpose(1, 2).flatten(2).to(hidden.dtype))


class _MLP(_Joined):
    """The gated feed-forward block."""

    def __init__(self, config: ChameleonConfig):
        super().__init__()
        inner = config.intermediate_size
        self.gate_up_proj = nn.Linear(config.hidden_size, 2 * inner, bias=False)
        self.down_proj = nn.Linear(inner, config.hidden_size, bias=False)
        self.joined = {"gate_up_proj.weight": [("gate_proj.weight", inner), ("up_proj.weight", inner)]}

    def forward(self, hidden: Tensor) -> Tensor:
        gate, up = self.gate_up_proj(hidden).chunk(2, dim=-1)
        return self.down_proj(F.silu(gate) * up)


class _RMSNorm(nn.Module):
    """Root mean square norm over the channels."""

    def __init__(self, config: ChameleonConfig):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(config.hidden_size))
        self.eps = config.rms_norm_eps

    def forward(self, hidden: Tensor) -> Tensor:
        return F.rms_norm(hidden, self.weight.shape, self.weight, self.eps)


class _HeadNorm(nn.Module):
    """LayerNorm over the channels of each head [rows, n, heads, head_dim], with a scale and a shift for every head."""

    def __init__(self, heads: int, head_dim: int):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(heads, head_dim))
        self.bias = nn.Parameter(torch.zeros(heads, head_dim))

    def forward(self, heads: Tensor) -> Tensor:
        return torch.addcmul(self.bias, F.layer_norm(heads, heads.shape[-1:], eps=QK_NORM_EPS), self.weight)


def expand_norms(state_dict: dict[str, Tensor], config: ChameleonConfig) -> dict[str, Tensor]:
    """Give every head its own row of the query and key norms.

    Lumina-mGPT's checkpoints keep one row for each model-parallel shard, [shards, head_dim], which that
    shard's heads share. Returns a new dict; BadCheckpoint if the rows do not divide the heads.
    """
    expanded = dict(state_dict)
    for name, weight in state_dict.items():
        norm = name.split(".")[-2] if "." in name else ""
        if norm not in ("q_norm", "k_norm"):
            continue
        heads = config.num_attention_heads if norm == "q_norm" else config.num_key_value_heads
        shards = weight.shape[0] if weight.ndim else 0
        if list(weight.shape) != [shards, config.head_dim] or shards == 0 or heads % shards:
            raise BadCheckpoint(
                f"{name} is {list(weight.shape)} and does not fit {heads} heads of {config.head_dim} "
                "channels: use the config.json that belongs to the weights."
            )
        expanded[name] = weight.repeat_interleave(heads // shards, dim=0)
    return expanded
