"""YAML with line numbers and without surprises."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ttq_energy.errors import InputError, nearest, unknown_name
from ttq_energy.strict_yaml import dotted_path, parse_yaml


def test_lines_of_keys_and_items():
    document = parse_yaml("a: 1\nb:\n  - x\n  - y: 2\n", "f.yaml")
    assert document.where(("a",)) == "f.yaml:1: a"
    assert document.where(("b", 1, "y")) == "f.yaml:4: b[1].y"
    assert document.where(("b", 1, "absent")) == "f.yaml:4: b[1].absent"
    assert document.where(()) == "f.yaml:1"


@pytest.mark.parametrize(
    ("text", "value"),
    [("1e-4", 1e-4), ("1E3", 1000.0), ("'1e3'", "1e3"), ("e5e", "e5e"), ("12", 12), ("on", True)],
)
def test_scalars(text, value):
    assert parse_yaml(f"k: {text}", "f").data["k"] == value


@pytest.mark.parametrize("text", ["k: 2020-99-99", "k: !!int abc", "k: !python/object:os.system x"])
def test_values_that_cannot_be_read(text):
    with pytest.raises(InputError) as caught:
        parse_yaml(text, "f.yaml")
    assert "f.yaml:1: k" in str(caught.value)
    assert "\n" not in str(caught.value)


@given(st.text(max_size=60))
def test_any_text_is_read_or_refused_in_one_line(text):
    try:
        parse_yaml(text, "f.yaml")
    except InputError as error:
        assert "\n" not in str(error)  # noqa: PT017


def test_dotted_path():
    assert dotted_path(("models", 0, "name")) == "models[0].name"


def test_nearest_names():
    assert nearest("Resnet2O", ["resnet20", "vgg16"]) == "resnet20"
    assert nearest("zzz", ["resnet20"]) is None
    assert str(unknown_name("target", "eye", ["eie"], "t.yaml: targets")) == (
        "t.yaml: targets: unknown target 'eye'; did you mean 'eie'? valid: eie"
    )
