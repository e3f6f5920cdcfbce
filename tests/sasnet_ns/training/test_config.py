"""YAML configurations are converted and checked by type."""

import pytest

from sasnet_ns.fitting import ShapeFit
from sasnet_ns.training.config import config_from, load_config


def test_numbers_that_yaml_takes_for_strings_are_numbers(tmp_path):
    path = tmp_path / "fit.yaml"
    path.write_text("points_per_batch: 1e3\nrecipe:\n  learning_rate: 1e-4\n  steps: 2e3\ncoarse_scales: [1e-2, 0.1]\n")
    config = load_config(path, ShapeFit)
    assert config.points_per_batch == 1000 and isinstance(config.points_per_batch, int)
    assert config.recipe.learning_rate == 1e-4 and config.recipe.steps == 2000
    assert config.coarse_scales == (0.01, 0.1)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"points_per_batch": "many"}, ["fit.yaml: 'points_per_batch' is 'many'", "int is wanted"]),
        ({"recipe": {"steps": 1.5}}, ["fit.yaml, recipe: 'steps' is 1.5", "int is wanted"]),
        ({"recipe": {"optimizer": "sgd"}}, ["'optimizer' is 'sgd'", "'muon', 'adam' or 'adan'"]),
        ({"coarse_scales": [0.1, "wide"]}, ["'coarse_scales'[1] is", "valid number"]),
        ({"recipe": {"stepz": 3}}, ["'stepz' is not a field of Recipe"]),
        ({"recipe": 3}, ["'recipe' must be a mapping"]),
    ],
)
def test_a_wrong_value_is_one_sentence_with_file_field_found_and_wanted(content, words):
    with pytest.raises(ValueError) as caught:
        config_from(ShapeFit, content, "fit.yaml")
    for word in words:
        assert word in str(caught.value)


BOMB = "a: &a [x, x]\n" + "".join(
    f"{b}: &{b} [{', '.join([f'*{a}'] * 10)}]\n" for a, b in zip("abcdef", "bcdefg", strict=True)
)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("network: " + "[" * 20_000, "nested too deeply"),
        ("network: &a [*a]", "nested too deeply"),
        (BOMB, "'a' is not a field"),
        ("seed: 2001-99-99", "is not YAML: month must be"),
        ("seed: " + "9" * 10_000, "is not YAML"),
        ("# " + "x" * (1 << 20), "1 MiB at most"),
        ("network: !!python/object/apply:os.system [id]", "is not YAML"),
    ],
)
def test_yaml_from_strangers_is_one_sentence(tmp_path, text, words):
    path = tmp_path / "fit.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match=words) as caught:
        load_config(path, ShapeFit)
    assert "fit.yaml" in str(caught.value) and "\n" not in str(caught.value) and len(str(caught.value)) < 600


@pytest.mark.parametrize("target", ["/dev/zero", "/"])
def test_only_plain_files_are_configurations(tmp_path, target):
    (tmp_path / "fit.yaml").symlink_to(target)
    with pytest.raises(ValueError, match="plain file of YAML"):
        load_config(tmp_path / "fit.yaml", ShapeFit)
