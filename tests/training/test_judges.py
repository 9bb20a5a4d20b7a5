"""The judges of `dpo`: the score from a CLIP, a vision-language model's answers, and what they amount to."""

import json

import pytest
import torch
from both_transformers import pil_processor
from PIL import Image

from stylear.errors import BadCheckpoint, BadInput, MissingPart
from training.judges import JudgeSettings, Reference, ScoreJudge, Scores, VLMJudge, load_judge, read_marks

WEIGHTS = JudgeSettings()


class FakeClip:
    """Red is the direction of "apple", green of the style, blue of "face"; a picture points where its colour does."""

    name = "fake"

    def texts(self, texts):
        return torch.tensor([[float("apple" in text), 0.0, float("face" in text)] for text in texts])

    def images(self, images):
        colours = torch.tensor([image.convert("RGB").getpixel((0, 0)) for image in images]).float()
        return torch.nn.functional.normalize(colours, dim=1)


def colour(*rgb):
    return Image.new("RGB", (8, 8), rgb)


def total(picture, reference):
    (verdict,) = ScoreJudge(FakeClip())(reference, "an apple", [picture])
    return verdict.scores.total(WEIGHTS)


STYLE = Reference(colour(0, 255, 0), caption="a face")


@pytest.mark.parametrize(
    ("better", "worse"),
    [
        ((200, 100, 0), (100, 200, 100)),  # more of the prompt, nothing leaked
        ((100, 200, 0), (100, 50, 150)),  # more of the style, nothing leaked
        ((150, 150, 0), (150, 150, 100)),  # less of the reference's content
    ],
)
def test_the_score_rises_with_prompt_and_style_and_falls_with_leakage(better, worse):
    assert total(colour(*better), STYLE) > total(colour(*worse), STYLE)


def test_the_total_is_the_weighted_sum_with_leakage_taken_off():
    weights = JudgeSettings(prompt=2, style=3, leakage=4)
    assert Scores(prompt=0.5, style=0.25, leakage=0.125).total(weights) == 2 * 0.5 + 3 * 0.25 - 4 * 0.125


def test_leakage_is_read_from_the_cut_out_object_where_there_is_no_caption():
    reference = Reference(colour(0, 255, 0), content=colour(0, 0, 255))
    (verdict,) = ScoreJudge(FakeClip())(reference, "an apple", [colour(0, 0, 9)])
    assert verdict.scores.leakage == pytest.approx(1)


def test_without_caption_and_object_nothing_can_leak():
    (verdict,) = ScoreJudge(FakeClip())(Reference(colour(0, 255, 0)), "an apple", [colour(9, 9, 9)])
    assert verdict.scores.leakage == 0


@pytest.mark.parametrize(
    ("said", "marks"),
    [
        ('{"prompt": 7, "style": 8, "leakage": 1}', (0.7, 0.8, 0.1)),
        ('```json\n{"leakage": 0, "style": "10", "prompt": 9.5}\n```', (0.95, 1.0, 0.0)),
        ("Prompt: 7/10\n**Style:** 8.5 / 10\nLeakage = 0", (0.7, 0.85, 0.0)),
        ("The prompt score is 3 out of 5, style (0-10): 9, leakage: 2.", (0.6, 0.9, 0.2)),
        ("<think>prompt: 2? style: 1, leakage: 9</think>prompt: 6, style: 7, leakage: 1", (0.6, 0.7, 0.1)),
    ],
)
def test_marks_are_read_however_a_model_words_them(said, marks):
    found = read_marks(said)
    assert (found.prompt, found.style, found.leakage) == pytest.approx(marks)


@pytest.mark.parametrize(
    "said",
    [
        "",
        "I cannot judge pictures of people.",
        '{"prompt": 7, "style": 8}',
        '{"prompt": 70, "style": 8, "leakage": 1}',
        '{"prompt": -7, "style": 8, "leakage": 1}',
        '{"prompt": null, "style": 8, "leakage": 1}',
        "prompt: 3/0, style: 8, leakage: 1",
        "prompt: 0-10, style: 0-10, leakage: 0-10",
    ],
)
def test_an_answer_without_three_marks_in_range_is_refused(said):
    assert read_marks(said) is None


class FakePipeline:
    def __init__(self, *answers):
        self.answers, self.chats = list(answers), []

    def __call__(self, text, **options):
        self.chats.append(text)
        return self.answers.pop(0)


def test_a_vision_language_model_sees_reference_and_picture_and_the_prompt():
    ask = FakePipeline([{"generated_text": '{"prompt": 5, "style": 5, "leakage": 5}'}])
    reference, picture = colour(1, 2, 3), colour(4, 5, 6)
    VLMJudge(ask)(Reference(reference), 'an {apple} "pie"', [picture])
    *pictures, text = ask.chats[0][0]["content"]
    assert [part["image"] for part in pictures] == [reference, picture]
    assert json.dumps('an {apple} "pie"') in text["text"]


def test_malformed_answers_become_verdicts_without_scores_and_keep_what_was_said():
    good = '{"prompt": 5, "style": 5, "leakage": 5}'
    chat = [{"generated_text": [{"role": "user", "content": "?"}, {"role": "assistant", "content": good}]}]
    ask = FakePipeline([{"generated_text": "no"}], [], [{"generated_text": None}], chat)
    verdicts = VLMJudge(ask)(Reference(colour(0, 0, 0)), "an apple", [colour(0, 0, 0)] * 4)
    assert [verdict.scores is None for verdict in verdicts] == [True, True, True, False]
    assert [verdict.said for verdict in verdicts] == ["no", "", "", good]


def test_a_missing_vision_language_model_is_named(tmp_path):
    with pytest.raises(MissingPart, match="no vision-language model"):
        load_judge(JudgeSettings(kind="vlm", model=str(tmp_path)))


def test_another_kind_of_model_is_refused(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "nothing"}')
    with pytest.raises(BadCheckpoint, match="is no vision-language model"):
        load_judge(JudgeSettings(kind="vlm", model=str(tmp_path)))


def test_a_judge_without_weights_is_refused():
    with pytest.raises(BadInput, match="All three weights"):
        load_judge(JudgeSettings(prompt=0, style=0, leakage=0))


def write_tiny_llava(folder):
    """A random LLaVA of a few thousand weights, with tokenizer, processor and chat template."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import (
        CLIPVisionConfig,
        LlamaConfig,
        LlavaConfig,
        LlavaForConditionalGeneration,
        LlavaProcessor,
        PreTrainedTokenizerFast,
    )

    words = ["<pad>", "<s>", "</s>", "<unk>", "<image>", "prompt", "style", "leakage", ":"]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, "<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        extra_special_tokens={"image_token": "<image>"},
        model_input_names=["input_ids", "attention_mask"],  # an older transformers adds one that LLaVA refuses
    )
    template = (
        "{% for m in messages %}{% for p in m.content %}"
        "{% if p.type == 'image' %}<image> {% else %}{{ p.text }}{% endif %}{% endfor %}{% endfor %}"
    )
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(**sizes, image_size=16, patch_size=8),
        text_config=LlamaConfig(**sizes, num_key_value_heads=2, vocab_size=len(words), pad_token_id=0, bos_token_id=1),
        image_token_index=4,
        vision_feature_layer=-1,
    )
    images = pil_processor("CLIP")(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16})
    torch.manual_seed(2)
    LlavaForConditionalGeneration(config).bfloat16().save_pretrained(folder)
    LlavaProcessor(
        images,
        fast,
        patch_size=8,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=template,
    ).save_pretrained(folder)


def test_a_real_pipeline_from_a_folder_answers_and_its_babble_is_refused(tmp_path):
    write_tiny_llava(tmp_path)
    judge = load_judge(JudgeSettings(kind="vlm", model=str(tmp_path)))
    assert judge.ask.model.dtype == torch.bfloat16  # as it was saved
    (verdict,) = judge(Reference(colour(9, 0, 0)), "an apple", [colour(0, 9, 0)])
    assert verdict.scores is None
    assert verdict.said
