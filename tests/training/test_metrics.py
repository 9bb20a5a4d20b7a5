"""The metrics: values worked out by hand, models read from the layouts they are published in."""

import argparse
import json
import os
from dataclasses import asdict
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
import torch.nn.functional as F
from open_clip.transformer import QuickGELU, VisionTransformer
from PIL import Image
from safetensors.torch import save_file
from timm.models.vision_transformer import VisionTransformer as TimmVisionTransformer
from torch import Tensor
from transformers import CLIPConfig, CLIPModel, CLIPVisionConfig, CLIPVisionModelWithProjection, ViTConfig, ViTModel

from stylear.errors import BadCheckpoint, BadInput, MissingPart
from training.judge import Judge, save_judge
from training.metrics import plots
from training.metrics.agreement import WithinSet, WithReference, WithText
from training.metrics.cells import Cell, Eyes, Reference
from training.metrics.clip import ClipScore
from training.metrics.csd import CsdScore
from training.metrics.dino import DinoScore
from training.metrics.inputs import read_prompts, read_references
from training.metrics.leakage import Leakage
from training.metrics.measures import MetricModels, measures
from training.metrics.recognised import Readings, recognised
from training.metrics.table import balance, figure, interval, markdown
from training.metrics.vision import to_pixels

RED, GREEN, BLUE = (255, 0, 0), (0, 255, 0), (0, 0, 255)
MEAN = STD = (0.5, 0.5, 0.5)


class Colours:
    """Sees a picture as its mean colour and a text as the colours it names, as unit vectors."""

    name = "colours: a test"

    def images(self, images):
        means = [torch.from_numpy(np.asarray(image.convert("RGB"), float)).mean((0, 1)) for image in images]
        return F.normalize(torch.stack(means), dim=-1)

    def texts(self, texts):
        named = [[float(name in text) for name in ("red", "green", "blue")] for text in texts]
        return F.normalize(torch.tensor(named, dtype=torch.float64), dim=-1)


@pytest.fixture
def make(tmp_path):
    """Makes a Cell: a picture of one colour, a reference of another."""

    def cell(colour, reference=RED, caption=None, prompt="red", seed=0, content=None) -> Cell:
        places = [tmp_path / f"{'-'.join(map(str, one))}.png" for one in (colour, reference)]
        for place, one in zip(places, (colour, reference), strict=True):
            Image.new("RGB", (4, 4), one).save(place)
        return Cell(Reference(str(reference), places[1], caption), prompt, content or prompt, seed, places[0])

    return cell


def test_a_picture_that_is_its_reference_scores_one_and_one_that_shares_nothing_zero(make):
    metric = WithReference(Eyes(Colours()), "CLIP-I", "")
    assert metric.score([make(RED), make(GREEN), make((255, 255, 0))]) == pytest.approx([1, 0, 0.5**0.5])


def test_the_text_score_is_of_the_prompt_without_its_style_words(make):
    metric = WithText(Eyes(Colours()))
    assert metric.score([make(RED, prompt="red in green style", content="red")]) == pytest.approx([1])


def test_the_set_score_is_the_mean_cosine_with_the_styles_pictures_of_other_prompts(make):
    cells = [make(RED, prompt="a"), make(GREEN, prompt="a"), make(RED, prompt="b"), make(RED, BLUE, prompt="c")]
    scores = WithinSet(Eyes(Colours())).score(cells)
    assert scores[:3] == pytest.approx([1, 0, 0.5])
    assert np.isnan(scores[3])


def test_leakage_is_above_zero_where_the_references_content_shows_and_below_where_another_does(make):
    cells = [make(RED, RED, "red", "green"), make(BLUE, RED, "red", "green"), make(RED, BLUE, "blue", "green")]
    assert Leakage(Eyes(Colours())).score(cells) == pytest.approx([1, -1, -1])


def test_leakage_does_not_count_what_the_prompt_asked_for(make):
    cells = [make(RED, RED, "Red", "red"), make(RED, BLUE, "blue", "red"), make(BLUE, GREEN, "green", "yellow")]
    scores = Leakage(Eyes(Colours())).score(cells)
    assert np.isnan(scores[0])
    assert scores[1:] == pytest.approx([0, 0 - 0.5])


def test_leakage_without_captions_has_no_value(make):
    assert np.isnan(Leakage(Eyes(Colours())).score([make(RED), make(RED, BLUE, "blue")])).all()


def test_each_picture_is_looked_at_once(make):
    class Counting(Colours):
        seen = 0

        def images(self, images):
            self.seen += len(images)
            return super().images(images)

    model = Counting()
    eyes = Eyes(model)
    WithText(eyes).score([make(RED), make(GREEN)])
    WithReference(eyes, "CLIP-I", "").score([make(RED), make(GREEN), make(RED)])
    assert model.seen == 2


def test_a_figure_counts_seeds_of_one_cell_once_and_its_interval_holds_the_mean(make):
    cells = [make(RED, prompt=str(p), seed=s) for p in range(6) for s in range(2)]
    values = np.arange(12.0)
    found = figure(WithText(Eyes(Colours())), cells, values, draws=500)
    assert (found.units, found.pictures, found.mean) == (6, 12, 5.5)
    assert found.low < 5.5 < found.high
    assert found.styles == {str(RED): 5.5}


def test_an_interval_is_the_bootstraps_percentiles():
    values = np.array([0.0, 1.0])  # of two units: means 0, 1/2, 1 with probabilities 1/4, 1/2, 1/4
    assert interval(lambda rows: values[rows].mean(1), 2, 1000) == (0.0, 1.0)
    assert interval(lambda rows: np.full(len(rows), 0.25), 3, 1000) == (0.25, 0.25)
    assert interval(lambda rows: values[rows].mean(1), 1, 1000) == (None, None)


def test_a_metric_without_any_value_gives_no_figure(make):
    assert figure(WithText(Eyes(Colours())), [make(RED)], np.array([np.nan]), draws=100) is None


def test_the_harmonic_mean_is_of_the_two_means_and_takes_csd_before_clip(make):
    cells = [make(RED, prompt="a"), make(RED, prompt="b")]
    values = {"CLIP-T": np.array([0.2, 0.4]), "CLIP-I": np.array([1.0, 1.0]), "CSD": np.array([0.5, 0.7])}
    models = dict.fromkeys(values, "m")
    assert balance(cells, values, models, 100).mean == pytest.approx(2 * 0.3 * 0.6 / 0.9)
    del values["CSD"]
    assert balance(cells, values, models, 100).mean == pytest.approx(2 * 0.3 * 1.0 / 1.3)
    assert balance(cells, {"CLIP-T": values["CLIP-T"]}, models, 100) is None


def test_a_harmonic_mean_of_a_score_below_0_is_0_and_says_so_in_the_table_and_in_its_panel(make, tmp_path, monkeypatch):
    values = {"CLIP-T": np.array([-0.2]), "CLIP-I": np.array([0.5])}
    both = balance([make(RED, prompt="a")], values, dict.fromkeys(values, "m"), 100)
    assert both.mean == 0 and "0 where either is not above 0" in both.definition
    drawn = []
    monkeypatch.setattr(plots, "_save", lambda canvas, axes, path: drawn.append(canvas))
    plots.bars([asdict(both)], tmp_path / "bars.png")
    told = [text.get_text().replace("\n", " ") for text in drawn[0].axes[0].texts]
    assert "0.000" in told and f"0 everywhere: {both.definition}" in told


def test_the_table_says_what_was_left_out_and_keeps_strangers_names_in_their_cells():
    results = {
        "metrics": [],
        "seconds": {"median": 1.5, "how": "cpu"},
        "left_out": {"CSD": "no metrics.csd was given"},
        "references": [{"name": "a|b <i>"}],
        "counts": {"references": 1, "prompts": 1, "seeds": 1, "pictures": 1},
    }
    text = markdown(results)
    assert "| CSD | not measured | | | | | no metrics.csd was given |" in text
    assert r"| a\|b &lt;i&gt; |" in text


def test_without_models_every_metric_is_left_out_by_name():
    found, left_out = measures(MetricModels(), "cpu")
    assert found == []
    assert set(left_out) == {"CLIP-T", "CLIP-I", "leakage", "DINO (reference)", "DINO (set)", "CSD"}


# --- models -----------------------------------------------------------------------------------------------------------


def pictures(*sizes: tuple[int, int]) -> list[Image.Image]:
    rng = np.random.default_rng(0)
    return [Image.fromarray(rng.integers(0, 256, (h, w, 3), dtype=np.uint8)) for w, h in sizes]


def write_clip(folder: Path) -> CLIPModel:
    """A tiny CLIP in Hugging Face's layout, with a tokenizer that knows letters."""
    torch.manual_seed(0)
    small = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
    words = [*"abcdefghijklmnopqrstuvwxyz", *(f"{c}</w>" for c in "abcdefghijklmnopqrstuvwxyz")]
    words += ["<|startoftext|>", "<|endoftext|>"]
    text = small | {"vocab_size": len(words), "max_position_embeddings": 12}
    text |= {"bos_token_id": len(words) - 2, "eos_token_id": len(words) - 1}
    vision = small | {"image_size": 16, "patch_size": 8}
    model = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=8)).eval()
    model.save_pretrained(folder)
    (folder / "vocab.json").write_text(json.dumps({word: i for i, word in enumerate(words)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "CLIPTokenizer"}))
    return model


def test_a_hugging_face_clip_gives_transformers_own_agreement(tmp_path):
    model = write_clip(tmp_path)
    clip = ClipScore.load(str(tmp_path))
    images = pictures((16, 16), (40, 16))
    texts = ["a cat", "a dog that is far too long for the text tower"]
    ours = clip.texts(texts) @ clip.images(images).T
    pixels = torch.stack([to_pixels(one, 16, (0.48145466, 0.4578275, 0.40821073), CLIP_STD) for one in images])
    start, end, vocabulary = 52, 53, json.loads((tmp_path / "vocab.json").read_text())
    letters = [[vocabulary[c] for word in text.split() for c in [*word[:-1], word[-1] + "</w>"]] for text in texts]
    for i, ids in enumerate(letters):
        ids = torch.tensor([[start, *ids[:10], end]])
        theirs = model(input_ids=ids, pixel_values=pixels)
        assert torch.allclose(ours[i], theirs.logits_per_text[0] / model.logit_scale.exp(), atol=1e-5)


CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


def test_an_open_clip_folder_gives_open_clips_own_vectors(tmp_path):
    torch.manual_seed(0)
    config = {
        "embed_dim": 8,
        "vision_cfg": {"image_size": 16, "layers": 2, "width": 16, "head_width": 8, "patch_size": 8},
        "text_cfg": {"context_length": 10, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 2},
    }
    model = open_clip.model.CLIP(**config).eval()
    save_file({k: v.contiguous() for k, v in model.state_dict().items()}, tmp_path / "open_clip_model.safetensors")
    (tmp_path / "open_clip_config.json").write_text(json.dumps({"model_cfg": config, "preprocess_cfg": {}}))
    for path in (tmp_path, tmp_path / "open_clip_model.safetensors"):
        clip = ClipScore.load(str(path))
        ids = open_clip.SimpleTokenizer(context_length=10)(["a cat"])
        assert torch.allclose(clip.texts(["a cat"]), model.encode_text(ids, normalize=True), atol=1e-5)
    assert clip.images(pictures((20, 16))).norm(dim=1) == pytest.approx([1])


def test_the_bundled_clip_knows_the_minis_own_styles():
    clip = ClipScore.load("mini")
    folder = Path(__file__).parents[2] / "stylear" / "mini" / "references"
    names = sorted(path.stem for path in folder.glob("*.png"))
    images = clip.images([Image.open(folder / f"{name}.png") for name in names])
    texts = clip.texts([f"a picture in {name.replace('_', ' ')} style" for name in names])
    assert (images @ texts.T).argmax(1).tolist() == list(range(len(names)))


def test_a_clip_without_its_text_tower_is_refused(tmp_path):
    config = CLIPVisionConfig(
        hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2, image_size=16, patch_size=8
    )
    CLIPVisionModelWithProjection(config).save_pretrained(tmp_path)
    with pytest.raises(BadCheckpoint, match="both towers"):
        ClipScore.load(str(tmp_path))


def test_a_clip_that_is_not_there_is_named(tmp_path):
    with pytest.raises(MissingPart, match="nowhere"):
        ClipScore.load(str(tmp_path / "nowhere"))


def test_both_public_layouts_of_a_dino_give_the_same_vectors(tmp_path):
    torch.manual_seed(0)
    timm = TimmVisionTransformer(32, 8, num_classes=0, embed_dim=64, depth=2, num_heads=1).eval()
    state = timm.state_dict()
    torch.save(state, tmp_path / "dino_deitsmall16_pretrain.pth")
    config = ViTConfig(
        hidden_size=64, intermediate_size=256, num_hidden_layers=2, num_attention_heads=1, image_size=32, patch_size=8,
        layer_norm_eps=1e-6,
    )  # fmt: skip
    model = ViTModel(config, add_pooling_layer=False)
    model.save_pretrained(tmp_path / "hf")
    save_file(hugging_face_names(state), tmp_path / "hf" / "model.safetensors", {"format": "pt"})
    images = pictures((32, 32), (80, 50))
    released = DinoScore.load(str(tmp_path / "dino_deitsmall16_pretrain.pth")).images(images)
    assert torch.allclose(DinoScore.load(str(tmp_path / "hf")).images(images), released, atol=1e-5)
    assert released @ released.T != pytest.approx(np.ones((2, 2)), abs=1e-3)


def hugging_face_names(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """A DINO's weights under the keys that facebook/dino-vits16 has."""
    names = {
        "cls_token": "embeddings.cls_token",
        "pos_embed": "embeddings.position_embeddings",
        "patch_embed.proj": "embeddings.patch_embeddings.projection",
        "blocks.": "encoder.layer.",
        "attn.proj": "attention.output.dense",
        "norm1": "layernorm_before",
        "norm2": "layernorm_after",
        "mlp.fc1": "intermediate.dense",
        "mlp.fc2": "output.dense",
    }
    found = {}
    for key, value in state.items():
        key = f"layernorm.{key[5:]}" if key.startswith("norm.") else key
        for ours, theirs in names.items():
            key = key.replace(ours, theirs)
        if "attn.qkv" in key:
            for name, part in zip(("query", "key", "value"), value.chunk(3), strict=True):
                found[key.replace("attn.qkv", f"attention.attention.{name}")] = part.clone()
        else:
            found[key] = value.clone()
    return found


def write_csd(path: Path) -> tuple[VisionTransformer, Tensor]:
    """A tiny CSD, wrapped as its trainer's checkpoint is; its tower and style head."""
    torch.manual_seed(0)
    tower = VisionTransformer(16, 8, 64, 2, 1, 4.0, output_dim=8, act_layer=QuickGELU).eval()
    head = tower.proj.detach().clone() + 0.1
    tower.proj = None
    state = {f"module.backbone.{key}": value for key, value in tower.state_dict().items()}
    state |= {"module.last_layer_style": head, "module.last_layer_content": torch.zeros(64, 8)}
    rest = {"opt_bb": {"lr": np.float64(0.1)}, "iter": 3, "args": argparse.Namespace(arch="vit_large")}
    torch.save({"model_state_dict": state, **rest}, path)
    return tower, head


def test_csd_is_the_style_head_on_clips_tower(tmp_path):
    tower, head = write_csd(tmp_path / "pytorch_model.bin")
    images = pictures((16, 16), (30, 16))
    pixels = torch.stack([to_pixels(one, 16, (0.48145466, 0.4578275, 0.40821073), CLIP_STD) for one in images])
    wanted = F.normalize(tower(pixels) @ head, dim=-1)
    assert torch.allclose(CsdScore.load(str(tmp_path)).images(images), wanted, atol=1e-5)


def test_a_csd_file_that_would_run_code_is_not_opened(tmp_path):
    class Attack:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "ran"),)

    torch.save({"model_state_dict": {"backbone.conv1.weight": Attack()}}, tmp_path / "csd.pth")
    with pytest.raises(BadCheckpoint, match="run code"):
        CsdScore.load(str(tmp_path / "csd.pth"))
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("load", [CsdScore.load, DinoScore.load])
def test_weights_of_something_else_are_refused(load, tmp_path):
    save_file({"x": torch.zeros(2)}, tmp_path / "x.safetensors")
    with pytest.raises(BadCheckpoint, match="is no"):
        load(str(tmp_path / "x.safetensors"))


@pytest.mark.parametrize("load", [CsdScore.load, DinoScore.load])
def test_weights_that_are_not_there_are_named(load, tmp_path):
    with pytest.raises(MissingPart, match="nowhere"):
        load(str(tmp_path / "nowhere.pth"))


def test_a_picture_fills_a_square_and_keeps_its_shape():
    wide = Image.new("RGB", (64, 16), RED)
    wide.paste(BLUE, (24, 0, 40, 16))
    assert to_pixels(wide, 16, MEAN, STD)[2].mean() == pytest.approx(1, abs=0.1)
    assert to_pixels(Image.new("L", (1, 5000)), 8, MEAN, STD).shape == (3, 8, 8)


def test_the_judges_shares_are_of_the_names_it_knows(make, tmp_path):
    readings = Readings("a judge", Judge(["cat", "red apple"], ["oil", "neon"]))
    one = make(RED, RED, "a cat", "a red apple")
    cells = [one, Cell(Reference("oil 3", one.reference.picture, "cats"), "tree", "tree", 0, make(GREEN).picture)]
    readings.read = {cells[0].picture: ("red apple", "oil"), cells[1].picture: ("cat", "oil")}
    scores = {metric.name: metric.score(cells).tolist() for metric in recognised(readings)}
    assert scores["content leaked"] == [0, 1]
    assert scores["prompt recognised"] == pytest.approx([1, float("nan")], nan_ok=True)
    assert scores["style recognised"] == pytest.approx([float("nan"), 1], nan_ok=True)


def test_a_judge_is_read_with_the_names_it_has(tmp_path, make):
    torch.manual_seed(0)
    save_judge(Judge("abc", "xy"), tmp_path / "judge.safetensors")
    readings = Readings.load(str(tmp_path / "judge.safetensors"))
    concept, style = readings.of([make(RED).picture])[0]
    assert concept in "abc" and style in "xy" and "3 concepts, 2 styles" in readings.name
    save_file({"a": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(BadCheckpoint, match="is no judge"):
        Readings.load(str(tmp_path / "other.safetensors"))


# --- inputs -----------------------------------------------------------------------------------------------------------


def test_prompts_are_lines_and_a_tab_sets_their_content_apart(tmp_path):
    (tmp_path / "p.txt").write_text("# comment\na cat\n\na dog in oil\ta dog\na fox\n")
    found = read_prompts(tmp_path / "p.txt", most=2)
    assert [(one.text, one.content) for one in found] == [("a cat", "a cat"), ("a dog in oil", "a dog")]


@pytest.mark.parametrize(
    ("text", "told"),
    [("# only this\n\n", "no prompts"), ("a\nb\na\n", "line 3.*twice"), ("a\t\n", "line 1.*tab")],
)
def test_prompts_that_cannot_be_used_are_refused_by_line(text, told, tmp_path):
    (tmp_path / "p.txt").write_text(text)
    with pytest.raises(BadInput, match=told):
        read_prompts(tmp_path / "p.txt")


def test_references_come_from_a_folder_with_captions_beside_and_broken_ones_are_skipped(tmp_path):
    for name in ("b.png", "a.jpg", "a.png"):
        Image.new("RGB", (4, 4)).save(tmp_path / name)
    (tmp_path / "b.txt").write_text("a  cat\n")
    (tmp_path / "broken.png").write_bytes(b"\x89PNG no")
    found, skipped = read_references(tmp_path)
    assert [(one.name, one.caption) for one in found] == [("a.jpg", None), ("a.png", None), ("b", "a cat")]
    assert len(skipped) == 1 and "broken.png" in skipped[0]


def test_references_come_from_a_list(tmp_path):
    Image.new("RGB", (4, 4)).save(tmp_path / "x.png")
    rows = [{"picture": "x.png", "caption": "a cat", "name": "oil"}, {"picture": "x.png"}]
    (tmp_path / "list.json").write_text(json.dumps(rows))
    found, _ = read_references(tmp_path / "list.json")
    assert [(one.name, one.caption, one.picture) for one in found] == [
        ("oil", "a cat", tmp_path / "x.png"),
        ("x", None, tmp_path / "x.png"),
    ]


@pytest.mark.parametrize(
    ("rows", "told"),
    [
        ({}, "JSON list"),
        ([{"caption": "a"}], "entry 1"),
        ([{"picture": "x.png", "caption": 3}], "entry 1"),
        ([{"picture": "x.png"}, {"picture": "x.png"}], "entry 2.*second"),
        ([], "no reference picture"),
        ([{"picture": "nowhere.png"}], "nowhere.png"),
    ],
)
def test_a_list_of_references_that_cannot_be_used_is_refused_by_entry(rows, told, tmp_path):
    Image.new("RGB", (4, 4)).save(tmp_path / "x.png")
    (tmp_path / "list.json").write_text(json.dumps(rows))
    with pytest.raises(BadInput, match=told):
        read_references(tmp_path / "list.json")


def test_a_folder_without_pictures_is_refused(tmp_path):
    with pytest.raises(BadInput, match="no reference picture"):
        read_references(tmp_path)
