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
        ({"recipe": {"optimizer": "sgd"}}, ["'optimizer' is 'sgd'", "'muon' or 'adam'"]),
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
