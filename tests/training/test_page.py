"""The page of an evaluation: all pictures, nothing of a stranger's run as markup, order without a script."""

import re

import pytest

from training.page import render

NASTY = '<script>alert("x")</script> & {{ 7 * 7 }}'


def figure(name="CLIP-T", higher=True, **styles) -> dict:
    return {
        "name": name, "model": "m <b>", "definition": "d", "higher": higher, "mean": 0.5, "low": 0.4, "high": 0.6,
        "units": 2, "pictures": 2, "styles": styles or {"oil": 0.2, "neon": 0.8},
    }  # fmt: skip


@pytest.fixture
def results() -> dict:
    rows = [
        {"style": style, "prompt": prompt, "seed": seed, "picture": f"pictures/{style}/{i}-{seed}.png", "seconds": 2.0,
         "width": 64, "height": 64, "values": {"CLIP-T": 0.25}}
        for style in ("oil", "neon") for i, prompt in enumerate((NASTY, "a cat")) for seed in (0, 1)
    ]  # fmt: skip
    return {
        "counts": {"references": 2, "prompts": 2, "seeds": 2, "pictures": 8},
        "metrics": [figure(), figure("leakage", higher=False)],
        "left_out": {"CSD": "no metrics.csd was given"},
        "seconds": {"median": 2.0, "least": 1.0, "most": 3.0, "how": "cpu"},
        "references": [
            {"name": "oil", "caption": NASTY, "picture": "references/00-oil.png"},
            {"name": "neon", "caption": None, "picture": "references/01-neon.png"},
        ],
        "prompts": [NASTY, "a cat"],
        "pictures": rows,
        "plots": ["scatter.png"],
        "skipped": ["x.png: <i>broken</i>"],
        "settings": {"out": "</pre><script>"},
        "model": {"size": 64},
        "provenance": {"command": "python -m training <x>", "stylear": "1", "torch": "2"},
    }


def test_the_page_shows_every_picture_and_every_reference_by_relative_paths(results):
    page = render(results)
    found = re.findall(r'<img[^>]* src="([^"]+)"', page)
    wanted = [one["picture"] for one in results["pictures"] + results["references"]]
    assert sorted(found) == sorted([*wanted, "scatter.png"])


def test_words_of_strangers_are_text_and_never_markup(results):
    page = render(results)
    assert "<script" not in page
    assert "<i>broken" not in page
    assert "m <b>" not in page
    assert "&lt;script&gt;alert(&#34;x&#34;)&lt;/script&gt; &amp; {{ 7 * 7 }}" in page


def test_the_page_asks_nothing_of_the_network(results):
    assert not re.search(r"https?://|@import|<link", render(results))


def test_styles_can_be_sorted_by_each_metric_the_best_first(results):
    rows = re.findall(r'<section class="row style" style="([^"]*)">\s*<div><h3>(\w+)', render(results))
    assert [(style, name) for name, style in rows] == [("oil", "--r0: 1; --r1: 0; "), ("neon", "--r0: 0; --r1: 1; ")]


def test_a_style_without_a_value_comes_last(results):
    results["metrics"] = [figure(neon=-3.0), figure("leakage", False, neon=9.0)]
    rows = re.findall(r'<section class="row style" style="([^"]*)">', render(results))
    assert rows == ["--r0: 1; --r1: 1; ", "--r0: 0; --r1: 0; "]


def test_the_page_names_the_models_and_says_what_was_not_measured(results):
    page = render(results)
    assert "m &lt;b&gt;" in page
    assert "not measured: no metrics.csd was given" in page


def test_a_page_without_any_metric_still_shows_the_pictures(results):
    results["metrics"] = []
    for one in results["pictures"]:
        one["values"] = {}
    assert "pictures/oil/0-0.png" in render(results)


def test_only_small_pictures_are_enlarged_with_square_pixels(results):
    assert '<body class="small">' in render(results)
    results["pictures"][0]["width"] = 768
    assert '<body class="small">' not in render(results)
