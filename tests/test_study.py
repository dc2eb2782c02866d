"""Studies are read strictly: each mistake is one line that names the file, the key and the rule."""

from pathlib import Path

import numpy as np
import pytest

from ttq_energy.errors import InputError
from ttq_energy.study import ModelSpec, Study, load_study, study_from_dict

MINIMAL = "name: x\nmodels: [resnet20]\n"


@pytest.fixture
def write(tmp_path):
    def write(text: str) -> Path:
        path = tmp_path / "study.yaml"
        path.write_text(text)
        return path

    return write


def test_names_stand_for_mappings(write):
    study = load_study(
        write("name: x\nmodels: [{name: m, dataset: digits}]\nvariants: [fp32, ttq]\n")
    )
    assert study.models[0].dataset.name == "digits"
    assert [variant.name for variant in study.variants] == ["fp32", "ttq"]


def test_exponents_without_a_dot_are_numbers(write):
    study = load_study(write(MINIMAL + "training: {learning_rate: 1e-4}\n"))
    assert study.training.learning_rate == pytest.approx(1e-4)


def test_plain_form_reads_back_equal(write):
    text = MINIMAL + (
        "seeds: [0, 1]\ntargets: [a, b]\ntraining: {epochs: 3, fine_tune: {epochs: 2}}\n"
        "variants: [fp32, {name: t, quantizer: {type: TTQ, threshold: 0.1}}]\n"
    )
    study = load_study(write(text))
    assert study_from_dict(study.to_dict()) == study


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the study is empty"),
        ("- a\n", "expected a YAML mapping"),
        ("name: [", "not valid YAML"),
        ("name: x\nname: y\n", "study.yaml:2: name: this key stands twice"),
        ("name: x\n", "the key 'models' is missing"),
        (
            MINIMAL + "modls: 1\n",
            "study.yaml:3: modls: unknown key 'modls'; did you mean 'models'?",
        ),
        (MINIMAL + "training: {epochs: -1}\n", "training.epochs: must be at least 0, got -1"),
        (MINIMAL + "training: {epochs: many}\n", "training.epochs: expected a whole number"),
        (MINIMAL + "training: {epochs: true}\n", "training.epochs: expected a whole number"),
        (MINIMAL + "training: {optimizer: sdg}\n", "did you mean 'sgd'?"),
        (MINIMAL + "training: {learning_rate: .nan}\n", "training.learning_rate: must be above 0"),
        (MINIMAL + "measurement: {batch_sizes: [1, 0]}\n", "batch_sizes[1]: must be at least 1"),
        (MINIMAL + "measurement: {batch_sizes: []}\n", "expected at least one batch size"),
        (MINIMAL + "measurement: {min_rounds: 9, max_rounds: 3}\n", "max_rounds: must be at least"),
        (MINIMAL + "variants: []\n", "variants: expected at least one"),
        (MINIMAL + "variants: [ttq, ttq]\n", "variants: 'ttq' stands twice"),
        ("name: x\nmodels: [{name: m, dataset: {nme: d}}]\n", "did you mean 'name'?"),
        ("name: x\nmodels: resnet20\n", "models: expected a list"),
    ],
)
def test_mistakes_are_told_in_one_line(write, text, message):
    with pytest.raises(InputError) as caught:
        load_study(write(text))
    told = str(caught.value)
    assert message in told
    assert "study.yaml" in told
    assert "\n" not in told


def test_missing_file_and_folder(tmp_path):
    with pytest.raises(InputError, match=r"absent\.yaml: no such study"):
        load_study(tmp_path / "absent.yaml")
    with pytest.raises(InputError, match="is a directory"):
        load_study(tmp_path)


def test_binary_file(tmp_path):
    path = tmp_path / "study.yaml"
    path.write_bytes(b"\xff\xfe\x00\x01")
    with pytest.raises(InputError, match="not UTF-8 text"):
        load_study(path)


def test_shipped_studies_load_and_unknown_ones_tell_the_nearest():
    assert isinstance(load_study("quickstart"), Study)
    with pytest.raises(InputError, match="did you mean 'quickstart'"):
        load_study("quikstart")


def test_overrides_reach_nested_keys_and_list_items(write):
    path = write(MINIMAL + "training: {epochs: 3}\n")
    study = load_study(
        path,
        {
            "training.epochs": "7",
            "training.fine_tune.epochs": "2",
            "measurement.batch_sizes": "[4]",
            "models.0": "other",
        },
    )
    assert study.training.epochs == 7
    assert study.training.fine_tune.epochs == 2
    assert study.measurement.batch_sizes == (4,)
    assert study.models[0].name == "other"


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("training.epoch", "3", "did you mean 'epochs'"),
        ("training.epochs.x", "3", "'training.epochs' holds a single value"),
        ("models.3", "x", "should be a position from 0 to 0"),
        ("training.epochs", "[", "not valid YAML"),
    ],
)
def test_wrong_overrides(write, key, value, message):
    path = write(MINIMAL + "training: {epochs: 3}\n")
    with pytest.raises(InputError, match=message.replace("[", r"\[")):
        load_study(path, {key: value})


@pytest.mark.parametrize("size", [0, 2**20 + 1, 10**30, 1e99, 1.5, float("inf")])
def test_batch_sizes_that_nobody_can_run_are_refused(size):
    data = {"name": "s", "models": ["resnet20"], "measurement": {"batch_sizes": [size]}}
    with pytest.raises(InputError, match=r"batch_sizes\[0\]: (must be|expected a whole number)"):
        study_from_dict(data)


@pytest.mark.parametrize("name", ["", "  "])
def test_a_study_without_a_name_is_refused(name):
    with pytest.raises(InputError, match="name: expected a name"):
        study_from_dict({"name": name, "models": ["resnet20"]})


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("training.epochs", "-1", "--set training.epochs: must be at least 0, got -1"),
        ("measurement.batch_sizes", "[0]", r"--set measurement.batch_sizes: \[0\]: must be"),
        ("measurement.max_rounds", "1", "--set measurement.max_rounds: must be at least min"),
        ("models.0.name", "3", "--set models.0.name: expected text, got 3"),
        ("training.epoch", "3", "--set training.epoch: unknown key 'epoch'; did you mean"),
        ("name", "''", "--set name: expected a name"),
    ],
)
def test_what_the_command_line_set_is_blamed_on_it_not_on_the_file(key, value, message):
    with pytest.raises(InputError, match="^" + message):
        load_study("quickstart", {key: value})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("seeds: [010]", r"seeds\[0\]: expected a plain number, got '010'"),
        ("seeds: [1:30]", r"got '1:30', which YAML reads as 90"),
        ("seeds: [0, 0]", "seeds: '0' stands twice"),
        ("seeds: [99999999999999999999]", "at most 4294967295"),
        ("measurement: {block_s: .inf}", "must be above 0.0 and finite, got inf"),
        ("measurement: {batch_sizes: [8, 8]}", "batch_sizes: '8' stands twice"),
        ("measurement: {threads: 100000}", "at most 1024"),
        (f"measurement: {{threads: {'9' * 5000}}}", "thousands of digits|cannot read the value"),
        ("targets: [eie, eie]", "targets: 'eie' stands twice"),
        (
            'description: "\\u0007"\nvariants: [{name: "a\\nb", quantizer: {type: TTQ}}]',
            "printable",
        ),
        ("training: {<<: {epochs: 1}}", "merge of keys"),
        ("? [a, b]\n: 1", "expected a name as the key"),
        ("x: " + "[" * 5000, "nested too deeply"),
    ],
)
def test_what_yaml_allows_and_a_study_does_not_mean(write, text, message):
    with pytest.raises(InputError, match=message) as caught:
        load_study(write(f"name: s\nmodels: [resnet20]\n{text}\n"))
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 700


def test_anchors_that_repeat_themselves_without_end_are_refused(write):
    bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n"
    for depth in range(1, 9):
        bomb += f"a{depth}: &a{depth} [{', '.join([f'*a{depth - 1}'] * 9)}]\n"
    with pytest.raises(InputError, match="more than 100000"):
        load_study(write(bomb))


def test_a_file_too_large_for_a_study_is_not_parsed(write):
    with pytest.raises(InputError, match="larger than 1 MiB"):
        load_study(write("# comment\n" * 200_000))


def test_the_line_of_bytes_that_are_no_text_is_told(tmp_path):
    path = tmp_path / "study.yaml"
    path.write_bytes("name: s\nmodels: [café]\n".encode("latin-1"))
    with pytest.raises(InputError, match=r"study\.yaml:2: not UTF-8 text"):
        load_study(path)


def test_overrides_reach_into_what_a_bare_name_stands_for(write):
    path = write("name: s\nmodels: [{name: resnet20, dataset: digits}]\nvariants: [fp32, ttq]\n")
    study = load_study(path, {"variants.1.skip": "[conv1]", "models.0.dataset.options.size": "16"})
    assert study.variants[1].skip == ("conv1",)
    assert study.models[0].dataset.options == {"size": 16}


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("trainig.epochs", "1", "--set trainig.epochs: unknown key 'trainig'; did you mean 'train"),
        ("a..b", "1", "--set a..b: expected keys with one dot between them"),
        ("name", "x\nseeds: [1]", "--set name: expected one value, got several lines"),
        ("models.²", "x", "'²' should be a position from 0 to 0"),
    ],
)
def test_slips_of_the_command_line_are_told_in_one_line(write, key, value, message):
    with pytest.raises(InputError) as caught:
        load_study(write("name: s\nmodels: [resnet20]\n"), {key: value})
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["../../elsewhere", "a/b", "a[1]", ".hidden"])
def test_a_study_of_any_name_has_a_folder_of_its_own_under_runs(name):
    folder = Study(name=name, models=(ModelSpec("resnet20"),)).folder_name
    assert set("/[").isdisjoint(folder)
    assert not folder.startswith(".")


def test_numbers_of_numpy_become_pythons():
    study = study_from_dict({"name": "s", "models": ["resnet20"], "seeds": [np.int64(3)]})
    assert study.seeds == (3,)
    assert type(study.seeds[0]) is int
