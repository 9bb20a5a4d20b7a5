"""Our decoder computes what transformers' Chameleon and the released code compute, cached or not."""

import dataclasses
import json
from functools import partial

import pytest
import torch
from safetensors.torch import load_file
from transformers import ChameleonConfig as TheirConfig
from transformers import ChameleonForConditionalGeneration as TheirChameleon

from stylear.chameleon import Chameleon, expand_norms
from stylear.chameleon_config import ChameleonConfig
from stylear.errors import BadCheckpoint, MissingPart
from stylear.lora import fold
from stylear.memory import cache_bytes
from stylear.sampling import embed_prompt
from stylear.vocabulary import Prompt

SMALL = ChameleonConfig(
    vocab_size=50,
    hidden_size=48,
    intermediate_size=40,
    num_hidden_layers=3,
    num_attention_heads=6,
    num_key_value_heads=6,
)
SHAPES = {
    "plain": SMALL,
    "swin": dataclasses.replace(SMALL, swin_norm=True),
    "grouped queries": dataclasses.replace(SMALL, num_key_value_heads=2),
    "one key head, swin": dataclasses.replace(SMALL, num_key_value_heads=1, swin_norm=True),
    "one layer, other rope and eps": dataclasses.replace(
        SMALL, num_hidden_layers=1, rope_theta=500.0, rms_norm_eps=1e-3, intermediate_size=17
    ),
}


def build(config: ChameleonConfig = SMALL, seed: int = 0) -> Chameleon:
    """A decoder whose every weight is random, norms included."""
    generator = torch.Generator().manual_seed(seed)
    model = Chameleon(config).requires_grad_(False)
    for name, weight in model.named_parameters():
        offset = 1.0 if "norm" in name and name.endswith("weight") else 0.0
        weight.copy_(offset + 0.3 * torch.randn(weight.shape, generator=generator))
    return model


def theirs(config: ChameleonConfig, state_dict: dict[str, torch.Tensor]) -> TheirChameleon:
    """transformers' model of the same shape and weights."""
    picture = {
        "base_channels": 32,
        "embed_dim": 4,
        "latent_channels": 4,
        "num_embeddings": 4,
        "num_res_blocks": 1,
    }
    picture |= {"channel_multiplier": [1]}
    values = dataclasses.asdict(config)
    model = TheirChameleon(TheirConfig(**values, vocabulary_map={"<image>": 1}, vq_config=picture)).eval()
    missing, unexpected = model.load_state_dict(state_dict, strict=False)
    assert not unexpected and all(name.startswith("model.vqmodel.") for name in missing)
    return model


def their_logits(model: TheirChameleon, ids: torch.Tensor) -> torch.Tensor:
    """Logits before their forward() takes the picture's tokens away."""
    with torch.no_grad():
        return model.lm_head(model.model(input_ids=ids).last_hidden_state)


def our_logits(model: Chameleon, ids: torch.Tensor) -> torch.Tensor:
    return model.logits(model(model.embed(ids), model.new_cache(*ids.shape)))


@pytest.mark.parametrize("config", SHAPES.values(), ids=SHAPES.keys())
def test_logits_equal_transformers(config):
    model = build(config)
    ids = torch.randint(config.vocab_size, (2, 11), generator=torch.Generator().manual_seed(1))
    expected = their_logits(theirs(config, model.state_dict()), ids)
    assert expected.std() > 0.1
    torch.testing.assert_close(our_logits(model, ids), expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("shards", [1, 2, 3, 6])
def test_norms_kept_per_shard_equal_transformers_with_each_head_its_shards_row(shards):
    state_dict = build().state_dict()
    for name, weight in state_dict.items():
        if "q_norm" in name or "k_norm" in name:
            state_dict[name] = weight[:shards]
    model = build(seed=9)
    model.load_state_dict(expand_norms(state_dict, SMALL))
    spread = dict(state_dict)
    for name, weight in state_dict.items():
        if "q_norm" in name or "k_norm" in name:
            spread[name] = torch.stack([weight[head * shards // 6] for head in range(6)])
    ids = torch.arange(10)[None]
    expected = their_logits(theirs(SMALL, spread), ids)
    torch.testing.assert_close(our_logits(model, ids), expected, atol=1e-4, rtol=0)


def test_grouped_norms_of_key_heads_are_expanded_to_the_key_heads():
    config = SHAPES["grouped queries"]
    expanded = expand_norms({"model.layers.0.self_attn.k_norm.bias": torch.zeros(1, 8)}, config)
    assert expanded["model.layers.0.self_attn.k_norm.bias"].shape == (2, 8)


@pytest.mark.parametrize("shape", [(4, 8), (1, 7), (8,), (0, 8), (12, 8)])
def test_norms_of_another_shape_are_refused_with_both_shapes(shape):
    with pytest.raises(BadCheckpoint, match=r"q_norm.* 6 heads of 8 channels"):
        expand_norms({"model.layers.0.self_attn.q_norm.weight": torch.zeros(shape)}, SMALL)


@pytest.mark.parametrize("name", ["plain", "grouped queries"])
def test_reading_in_pieces_equals_reading_at_once(name):
    model = build(SHAPES[name])
    ids = torch.randint(50, (2, 12), generator=torch.Generator().manual_seed(2))
    cache = model.new_cache(2, 12)
    pieces = [model(model.embed(ids[:, start:end]), cache) for start, end in ((0, 5), (5, 6), (6, 8), (8, 12))]
    torch.testing.assert_close(model.logits(torch.cat(pieces, 1)), our_logits(model, ids), atol=1e-5, rtol=1e-5)


def test_rows_of_different_lengths_equal_each_alone():
    model = build()
    long, short = torch.arange(9)[None], torch.arange(20, 23)[None]
    cache = model.new_cache(2, 16)
    model(model.embed(long), cache, range(0, 1))
    model(model.embed(short), cache, range(1, 2))
    following = torch.tensor([[30, 31], [30, 31]])
    together = model.logits(model(model.embed(following), cache))
    assert cache.lengths == [11, 5]
    for row, start in enumerate((long, short)):
        alone = our_logits(model, torch.cat((start, following[:1]), 1))[:, -2:]
        torch.testing.assert_close(together[row : row + 1], alone, atol=1e-5, rtol=1e-5)


def test_setting_a_length_back_forgets_what_was_read():
    model = build()
    cache = model.new_cache(1, 8)
    model(model.embed(torch.tensor([[1, 2, 3, 4, 5, 6]])), cache)
    cache.lengths[0] = 2
    again = model.logits(model(model.embed(torch.tensor([[7]])), cache))
    expected = our_logits(model, torch.tensor([[1, 2, 7]]))[:, -1:]
    torch.testing.assert_close(again, expected, atol=1e-5, rtol=1e-5)


def test_a_shared_row_goes_on_as_its_source():
    model = build()
    cache = model.new_cache(3, 8)
    model(model.embed(torch.tensor([[1, 2, 3]])), cache, range(0, 1))
    cache.share(0, range(0, 3))
    logits = model.logits(model(model.embed(torch.tensor([[4], [5], [4]])), cache))
    assert cache.lengths == [4, 4, 4]
    for row, last in enumerate((4, 5, 4)):
        expected = our_logits(model, torch.tensor([[1, 2, 3, last]]))[0, -1]
        torch.testing.assert_close(logits[row, 0], expected, atol=1e-5, rtol=1e-5)


def test_rows_that_are_kept_go_on_as_before_in_the_same_memory():
    model = build()
    first, then = model.embed(torch.tensor([[1, 2], [3, 4], [5, 6], [7, 8]])), model.embed(torch.tensor([[9], [9]]))
    whole, kept = model.new_cache(4, 8), model.new_cache(4, 8)
    for cache in (whole, kept):
        model(first, cache)
    memory = kept.kept.data_ptr()
    kept.keep([1, 3])
    expected = model(then.repeat_interleave(2, 0), whole)[[1, 3]]
    torch.testing.assert_close(model(then, kept), expected, atol=1e-5, rtol=1e-5)
    assert kept.kept.data_ptr() == memory and kept.lengths == [3, 3]


def test_a_full_cache_says_how_many_slots_are_needed():
    model = build()
    with pytest.raises(ValueError, match="2 slots and 3"):
        model(model.embed(torch.tensor([[1, 2, 3]])), model.new_cache(1, 2))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_on_a_cpu_keys_and_values_are_kept_in_float32_and_elsewhere_as_the_weights(dtype):
    model, elsewhere = build().to(dtype), torch.device("meta")
    here, there = model.new_cache(3, 8).kept, build().to(elsewhere, dtype).new_cache(3, 8).kept
    assert here.dtype == torch.float32 and there.dtype == dtype
    assert (cache_bytes(model, 3, 8), cache_bytes(model, 3, 8, elsewhere)) == (here.nbytes, there.nbytes)


def test_logits_over_some_tokens_are_those_of_the_whole_vocabulary():
    model = build()
    hidden = torch.randn(2, 48, generator=torch.Generator().manual_seed(3))
    whole = model.logits(hidden)
    for ids in (torch.arange(4, 20), torch.tensor([7, 3, 40])):
        torch.testing.assert_close(model.logits(hidden, model.head(ids)), whole[:, ids])


def test_consecutive_tokens_take_no_copy_of_the_head():
    model = build()
    assert model.head(torch.arange(4, 20)).data_ptr() == model.lm_head.weight[4:].data_ptr()


def test_logits_are_float32_in_half_precision():
    model = build().bfloat16()
    logits = our_logits(model, torch.arange(6)[None])
    assert logits.dtype == torch.float32
    exact = our_logits(build(), torch.arange(6)[None])
    assert (logits - exact).abs().mean() < 0.1 * exact.std()


def test_keys_are_those_of_transformers():
    model = build()
    own = {name for name in theirs(SMALL, model.state_dict()).state_dict() if not name.startswith("model.vqmodel.")}
    assert set(model.state_dict()) == own


def test_a_state_dict_has_hugging_faces_order_and_takes_no_memory():
    model = build()
    state_dict = model.state_dict()
    names = [name.removeprefix("model.layers.0.") for name in state_dict if ".layers.0." in name]
    assert names[1:5] == [f"self_attn.{name}_proj.weight" for name in "qkvo"]
    joined = model.model.layers[0].self_attn.qkv_proj.weight
    parts = [state_dict[f"model.layers.0.self_attn.{name}_proj.weight"] for name in "qkv"]
    assert {part.untyped_storage().data_ptr() for part in parts} == {joined.untyped_storage().data_ptr()}


def test_weights_are_joined_within_their_dict():
    model, weights = build(), build(seed=1).state_dict()
    model.join(weights)
    assert weights.keys() == dict(model.named_parameters()).keys()
    model.load_state_dict(weights)
    ids = torch.arange(9)[None]
    assert torch.equal(our_logits(model, ids), our_logits(build(seed=1), ids))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_matrices_are_kept_column_by_column_on_a_cpu(dtype):
    assert build().to(dtype).lay_out().model.layers[0].mlp.down_proj.weight.stride() == (1, 48)


def test_the_layout_of_the_matrices_changes_no_shape_and_hardly_a_logit():
    ids, model = torch.arange(9)[None], build().lay_out()
    assert {name: value.shape for name, value in model.state_dict().items()} == {
        name: value.shape for name, value in build().state_dict().items()
    }
    torch.testing.assert_close(our_logits(model, ids), our_logits(build(), ids), atol=1e-4, rtol=1e-5)


def test_without_a_compiler_passes_stay_as_they_are_and_a_warning_says_why(monkeypatch, caplog):
    def compiled(call, **_):
        def fail(*_):
            raise RuntimeError("no C++ compiler was found\nlooked in PATH")

        return fail

    monkeypatch.setattr(torch, "compile", compiled)
    ids, model = torch.arange(9)[None], build()
    assert model.compile_passes() == "no C++ compiler was found"
    assert "without torch.compile: no C++ compiler" in caplog.text and model.compiled is None
    assert torch.equal(our_logits(model, ids), our_logits(build(), ids))


@pytest.mark.parametrize("name,dtype", [("plain", torch.float32), ("grouped queries", torch.bfloat16)])
def test_a_compiled_pass_is_one_graph_that_reads_and_keeps_what_the_modules_do(name, dtype, monkeypatch):
    """Without the last step, which turns the graph into machine code."""
    compile = torch.compile
    whole = {"backend": "aot_eager", "fullgraph": True}
    monkeypatch.setattr(torch, "compile", lambda call, **options: compile(call, **options, **whole))
    model, generator = build(SHAPES[name]).to(dtype), torch.Generator().manual_seed(2)
    assert model.compile_passes() == ""
    caches = [model.new_cache(2, 40) for _ in range(2)]
    for n in (5, 1, 4, 1):
        ids = torch.randint(50, (2, n), generator=generator)
        plain, compiled = (
            model(model.embed(ids), cache, read=partial(model.read, decoder=decoder))
            for cache, decoder in zip(caches, (None, model.compiled), strict=True)
        )
        torch.testing.assert_close(compiled, plain)
    torch.testing.assert_close(caches[1].kept, caches[0].kept)


def write(folder, **values):
    path = folder / "config.json"
    path.write_text(json.dumps(values))
    return path


NEEDED = {
    "vocab_size": 50,
    "hidden_size": 48,
    "intermediate_size": 40,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
}


def test_a_config_is_read_by_hugging_faces_names(tmp_path):
    path = write(tmp_path, **NEEDED, num_key_value_heads=2, rope_theta=500.0, swin_norm=True, dropout=0.1)
    config = ChameleonConfig.from_json(path)
    assert config == dataclasses.replace(SMALL, num_key_value_heads=2, rope_theta=500.0, swin_norm=True)
    assert config.head_dim == 8


def test_a_config_of_transformers_5_keeps_its_rope(tmp_path):
    path = write(tmp_path, **NEEDED, rope_parameters={"rope_type": "default", "rope_theta": 500.0}, swin_norm=None)
    assert ChameleonConfig.from_json(path) == dataclasses.replace(SMALL, rope_theta=500.0)


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"attention_bias": True}, "attention_bias"),
        ({"mlp_bias": True}, "mlp_bias"),
        ({"hidden_act": "gelu"}, "hidden_act"),
        ({"rope_scaling": {"type": "linear", "factor": 2}}, "rope_scaling"),
        ({"num_attention_heads": 5}, "5 heads"),
        ({"num_key_value_heads": 4}, "4 key/value heads"),
        ({"num_attention_heads": 0}, "num_attention_heads is 0"),
        ({"hidden_size": None}, "hidden_size"),
        ({"hidden_size": "48"}, "hidden_size is '48'"),
    ],
)
def test_a_config_of_another_model_is_refused_with_what_is_wrong(tmp_path, wrong, named):
    with pytest.raises(BadCheckpoint, match=f"config.json.*{named}"):
        ChameleonConfig.from_json(write(tmp_path, **(NEEDED | wrong)))


@pytest.mark.parametrize("content", ["", "[1]", "{"])
def test_a_file_that_is_no_config_is_refused_with_its_place(tmp_path, content):
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(BadCheckpoint, match=r"config\.json"):
        ChameleonConfig.from_json(tmp_path / "config.json")


def test_a_missing_config_is_named_with_its_place(tmp_path):
    with pytest.raises(MissingPart, match=r"config\.json"):
        ChameleonConfig.from_json(tmp_path / "config.json")


@pytest.mark.parametrize("case", ["case_a_style", "case_b_style_subtract", "case_c_style_depth"])
def test_golden_raw_logits_of_both_rows_are_within_1e_4(golden, case):
    recorded = json.loads((golden / f"{case}.json").read_text())
    tensors = load_file(golden / f"{case}.safetensors")
    base = golden / "tiny/Alpha-VLLM/Lumina-mGPT-7B-768"
    config = ChameleonConfig.from_json(base / "config.json")
    weights = expand_norms(load_file(base / "model.safetensors"), config)
    model = Chameleon(config).requires_grad_(False)
    model.load_state_dict(fold(weights, load_file(golden / "tiny" / recorded["lora"] / "model.safetensors")))

    prompt = Prompt(tuple(recorded["prompt_ids"]), tuple(recorded["style_index"]))
    generated = model.embed(torch.tensor(recorded["generated_ids"]))
    start = embed_prompt(model, prompt, tensors["style_tokens"][0])
    rows = {"cond": (torch.cat((start, generated)), len(start)), "uncond": (generated, 0)}
    for name, (embeddings, offset) in rows.items():
        logits = model.logits(model(embeddings[None], model.new_cache(1, len(embeddings))))[0]
        for step in recorded["full_steps"]:
            if f"step{step:03d}.{name}" in tensors:
                expected = tensors[f"step{step:03d}.{name}"]
                torch.testing.assert_close(logits[offset + step - 1], expected, atol=1e-4, rtol=0)
