"""The shapes of a Chameleon decoder, read from the config.json beside its weights."""

import json
from dataclasses import MISSING, dataclass, fields
from pathlib import Path

from .errors import BadCheckpoint, MissingPart
from .files import read_text
from .shapes import check_numbers


@dataclass(frozen=True)
class ChameleonConfig:
    """The shapes of a Chameleon decoder, by the names of Hugging Face's config.json."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    max_position_embeddings: int = 4096
    rms_norm_eps: float = 1e-5
    rope_theta: float = 10000.0
    swin_norm: bool = False

    def __post_init__(self):
        check_numbers(self)
        heads, kv_heads = self.num_attention_heads, self.num_key_value_heads
        if self.hidden_size % (2 * heads) or heads % kv_heads:
            raise BadCheckpoint(
                f"hidden_size {self.hidden_size}, {heads} heads and {kv_heads} key/value heads do not divide "
                "evenly: use the config.json that belongs to the weights."
            )

    @property
    def head_dim(self) -> int:
        """Channels of one attention head."""
        return self.hidden_size // self.num_attention_heads

    @classmethod
    def from_json(cls, path: str | Path) -> "ChameleonConfig":
        """Read a config.json; MissingPart if there is none, BadCheckpoint if it is no Chameleon's."""
        path = Path(path)
        if not path.is_file():
            raise MissingPart(f"No config at {path}: put the base model's config.json there.")
        try:
            return cls.from_dict(json.loads(read_text(path)))
        except (BadCheckpoint, ValueError, RecursionError) as error:
            raise BadCheckpoint(f"{path}: {error}") from error

    @classmethod
    def from_dict(cls, values: dict) -> "ChameleonConfig":
        """Take the shapes out of a config.json of transformers 4 or 5; BadCheckpoint for another model's."""
        if not isinstance(values, dict):
            raise BadCheckpoint("This is not a config.json: its top level has to be an object.")
        for name in ("rope_parameters", "rope_scaling"):
            if not isinstance(values.get(name) or {}, dict):
                raise BadCheckpoint(f"{name} is {values[name]!r} and has to be an object: use the base's config.json.")
        rope = values.get("rope_parameters") or values.get("rope_scaling") or {}
        unsupported = {
            "attention_bias": bool(values.get("attention_bias")),
            "mlp_bias": bool(values.get("mlp_bias")),
            "hidden_act": values.get("hidden_act", "silu") != "silu",
            "rope_scaling": rope.get("rope_type", rope.get("type", "default")) != "default",
        }
        if any(unsupported.values()):
            names = ", ".join(name for name, wrong in unsupported.items() if wrong)
            raise BadCheckpoint(f"No Chameleon has this setting of {names}: use the config.json of the base model.")
        known = {name: values[name] for name in cls.__dataclass_fields__ if values.get(name) is not None}
        known.setdefault("num_key_value_heads", known.get("num_attention_heads"))
        if "rope_theta" in rope:
            known["rope_theta"] = rope["rope_theta"]
        lacking = [field.name for field in fields(cls) if field.default is MISSING and known.get(field.name) is None]
        if lacking:
            raise BadCheckpoint(
                f"This config.json lacks {', '.join(lacking)} of a Chameleon decoder: use the base model's."
            )
        return cls(**known)
