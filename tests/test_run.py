"""A Run folder keeps what was appended, whole, and says clearly when it is not a Run."""

import json
import math

import pandas as pd
import pytest

from ttq_energy.errors import InputError
from ttq_energy.run import TABLES, create_run, load_run


@pytest.fixture
def run(tmp_path):
    return create_run(tmp_path / "run", {"name": "x"}, {"machine": {}})


def test_rows_come_back_with_their_types(run):
    run.append(
        "measurements",
        [{"model": "m", "batch_size": 4, "energy_j": 0.1 + 0.2, "valid": True, "domain": ""}],
    )
    run.append("measurements", [{"model": "n", "batch_size": 8, "valid": False}])
    frame = load_run(run.folder).measurements
    assert list(frame.columns) == TABLES["measurements"].names
    assert frame["energy_j"].iloc[0] == 0.1 + 0.2
    assert math.isnan(frame["energy_j"].iloc[1])
    assert frame["valid"].tolist() == [True, False]
    assert frame["valid"].dtype == bool
    assert frame["domain"].tolist() == ["", ""]


def test_text_that_looks_like_missing_values_stays_text(run):
    run.append("measurements", [{"model": "NA", "invalid_reason": 'a, "b"\nc'}])
    frame = run.measurements
    assert frame["model"].tolist() == ["NA"]
    assert frame["invalid_reason"].tolist() == ['a, "b"\nc']


def test_traces_are_compressed_and_grow(run):
    for index in range(3):
        run.append("traces", [{"model": "m", "t_s": index, "power_w": 1.5, "block": index}])
    assert (run.folder / "traces.csv.gz").read_bytes()[:2] == b"\x1f\x8b"
    assert run.traces["t_s"].tolist() == [0.0, 1.0, 2.0]


def test_absent_tables_are_empty_with_all_columns(run):
    assert run.tables["comparisons"].empty
    assert list(run.comparisons.columns) == TABLES["comparisons"].names


def test_put_takes_the_place_of_the_rows_it_names(run):
    run.append("comparisons", [{"model": "a", "batch_size": b, "ratio": b / 3} for b in (1, 2)])
    run.put("comparisons", [{"model": "a", "batch_size": 2, "rounds": 7}], model="a", batch_size=2)
    frame = run.comparisons
    assert frame["batch_size"].tolist() == [1, 2]
    assert frame["ratio"].iloc[0] == 1 / 3
    assert frame["rounds"].iloc[1] == 7
    assert frame["ratio"].isna().tolist() == [False, True]


def test_unknown_table_and_column(run):
    with pytest.raises(InputError, match="did you mean 'comparisons'"):
        run.tables["comparison"]
    with pytest.raises(KeyError, match="no column"):
        run.append("layers", [{"energy": 1}])
    assert not (run.folder / "layers.csv").exists()


def test_a_failed_append_leaves_the_table_as_it_was(run, monkeypatch):
    run.append("layers", [{"layer": "a"}])
    before = (run.folder / "layers.csv").read_bytes()

    def full(*_):
        raise OSError("no space left")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="no space"):
        run.append("layers", [{"layer": "b"}])
    assert (run.folder / "layers.csv").read_bytes() == before
    assert not list(run.folder.glob(".layers*"))


def test_stages_are_remembered(run):
    run.finish("train|m|ttq|0", 1.25)
    again = load_run(run.folder)
    assert again.done("train|m|ttq|0")
    assert not again.done("train|m|twn|0")


def test_a_folder_that_holds_a_run_is_not_overwritten(run):
    with pytest.raises(InputError, match="already holds a run"):
        create_run(run.folder, {}, {})


def test_a_file_in_the_way(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="a file is in the way"):
        create_run(tmp_path / "file" / "run", {}, {})


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "holds no run.json"),
        ("{", "not the record of a run"),
        ("[]", "not the record of a run"),
        (json.dumps({"schema_version": 99}), "written by a newer ttq-energy"),
        (json.dumps({"schema_version": 1}), "the key 'status' is missing"),
    ],
)
def test_what_is_not_a_run_is_told(tmp_path, content, message):
    if content is not None:
        (tmp_path / "run.json").write_text(content)
    with pytest.raises(InputError, match=message):
        load_run(tmp_path)


def test_damaged_tables_are_told(run):
    (run.folder / "layers.csv").write_text("model,variant\na,b\n")
    with pytest.raises(InputError, match=r"layers.csv: the column 'layer' is missing"):
        run.layers  # noqa: B018
    (run.folder / "traces.csv.gz").write_bytes(b"not gzip")
    with pytest.raises(InputError, match=r"traces.csv.gz: damaged"):
        run.traces  # noqa: B018


@pytest.mark.parametrize("kept", [-1, -2, -12, -20])
def test_a_table_cut_in_its_last_row_is_told_by_line(run, kept):
    rows = [
        {"model": "m", "batch_size": 4, "round": r, "energy_j": 0.25, "temperature_c": 41.25}
        for r in range(3)
    ]
    run.append("measurements", rows)
    path = run.folder / "measurements.csv"
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(InputError, match=r"measurements.csv: damaged table: line 4: .*cut off"):
        run.measurements  # noqa: B018


def test_a_short_row_amid_a_table_is_told_by_line(run):
    run.append("layers", [{"model": "m", "layer": name} for name in "abc"])
    path = run.folder / "layers.csv"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join([*lines[:2], "m,fp32\n", *lines[3:]]))
    with pytest.raises(InputError, match=r"line 3: expected 15 cells, got 2$"):
        run.layers  # noqa: B018


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"\x80\x81\xff", "holds bytes that are no text; expected CSV text in UTF-8"),
        (b"", "expected CSV text that begins with its column names"),
        (None, "is a folder; expected CSV text in UTF-8"),
    ],
)
def test_what_is_no_table_is_told_with_what_was_expected(run, data, said):
    path = run.folder / "layers.csv"
    if data is None:
        path.mkdir()
    else:
        path.write_bytes(data)
    with pytest.raises(InputError, match=f"layers.csv: damaged table: {said}"):
        run.layers  # noqa: B018


def test_traces_cut_off_or_not_compressed_are_told(run):
    run.append("traces", [{"model": "m", "t_s": t} for t in range(50)])
    path = run.folder / "traces.csv.gz"
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(InputError, match="cut off or corrupt; expected gzip-compressed CSV"):
        run.traces  # noqa: B018
    path.write_bytes(b"not gzip")
    with pytest.raises(InputError, match="is not gzip; expected gzip-compressed CSV"):
        run.traces  # noqa: B018


def test_a_folder_in_place_of_the_record_is_told(tmp_path):
    (tmp_path / "run.json").mkdir()
    with pytest.raises(InputError, match=r"run.json: is a folder; expected the record of a run"):
        load_run(tmp_path)


def test_every_unit_stands_in_its_column_name():
    units = {"energy", "power", "duration", "latency", "wall"}
    for table in TABLES.values():
        for column in table.columns:
            if column.kind == "float" and column.name.split("_")[0] in units:
                assert column.name.endswith(("_j", "_w", "_s")), f"{table.name}.{column.name}"


def test_frames_are_pandas(run):
    assert isinstance(run.tables["training"], pd.DataFrame)


@pytest.mark.parametrize(
    ("column", "cell", "expected"),
    [
        ("seed", "1.5", "a whole number"),
        ("seed", "99999999999999999999", "a whole number of at most 9.22337e+18"),
        ("epoch", "-3", "a whole number of at least 0, got '-3'"),
        ("accuracy", "80", "a number or nothing of at most 1, got '80'"),
        ("energy_j", "-5", "a number or nothing of at least 0, got '-5'"),
        ("wall_s", "ten", "a number or nothing, got 'ten'"),
        ("loss", "1,5", "expected"),
        ("selected", "maybe", "True or False, got 'maybe'"),
    ],
)
def test_a_cell_that_its_column_cannot_hold_is_told_by_line_and_column(
    tmp_path, column, cell, expected
):
    run = create_run(tmp_path / "r", {}, {})
    row = {"model": "m", "variant": "v", "seed": 0, "epoch": 1, "selected": True}
    run.append("training", [row, row])
    table = tmp_path / "r" / "training.csv"
    lines = table.read_text().splitlines()
    cells = lines[2].split(",")
    cells[lines[0].split(",").index(column)] = cell
    table.write_text("\n".join([*lines[:2], ",".join(cells), ""]))
    with pytest.raises(InputError, match=r"training\.csv: damaged table: line 3") as caught:
        _ = run.training
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_column_that_stands_twice_and_a_mark_of_byte_order(tmp_path):
    run = create_run(tmp_path / "r", {}, {})
    run.append("training", [{"model": "m", "variant": "v", "seed": 0, "epoch": 1}])
    table = tmp_path / "r" / "training.csv"
    text = table.read_text()
    table.write_text("\ufeff" + text, encoding="utf-8")
    assert list(run.training["model"]) == ["m"]
    table.write_text(text.replace("loss", "model", 1))
    with pytest.raises(InputError, match="the column 'loss' is missing"):
        _ = run.training
    head, row = text.splitlines()
    table.write_text(f"{head},model\n{row},m\n")
    with pytest.raises(InputError, match="the column 'model' stands twice"):
        _ = run.training
