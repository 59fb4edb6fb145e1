"""The bundled views over the public data sets they describe: a data set is a view file and nothing else."""

import numpy as np
import pytest
from safetensors.numpy import load_file

from connector.sources.opened import open_source
from connector.sources.providers import find_view, list_providers, load_view
from connector.sources.snapshot import build_snapshot
from connector.sources.source import Location
from learning.views import output_columns, skill_count
from tests.benchmarks.bare_loop import read_schools
from tests.support.data import shared_data
from tests.unit.test_flamby_loop import hospital


@pytest.mark.parametrize("name", ["cleveland", "hungarian", "switzerland", "va"])
def test_a_hospital_is_prepared_as_flamby_does(name: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Rows, features, labels and split equal those of the golden test, which reads the files by itself."""
    folder = shared_data("heart-disease")
    source = open_source(load_view(find_view(folder)), Location(folder=folder, parameters={"hospital": name}))
    out = tmp_path_factory.mktemp("snapshot") / "data.safetensors"
    facts = build_snapshot(source, None, str, out)
    ours, theirs = load_file(out), hospital(name)
    assert facts.rows == {"cleveland": 303, "hungarian": 261, "switzerland": 46, "va": 130}[name]
    assert len(output_columns(source.view)) == 13
    np.testing.assert_allclose(ours["X"], theirs["X"], atol=2e-5)
    assert np.array_equal(ours["y"], theirs["y"])
    assert np.array_equal(ours["split"], theirs["split"])


def test_schools_become_the_snapshots_of_the_bare_loop(tmp_path_factory: pytest.TempPathFactory) -> None:
    """The 16 schools are found, largest first, and each snapshot is the benchmark's own, byte for byte."""
    folder = shared_data("assist2009-schools")
    view = load_view(find_view(folder))
    entries, expected = list_providers(view, folder), read_schools(folder, 0)
    assert [entry.name for entry in entries] == list(expected)
    out = tmp_path_factory.mktemp("snapshot") / "data.safetensors"
    for entry in entries:
        build_snapshot(open_source(view, Location(folder=folder, parameters=entry.parameters)), None, str, out)
        arrays = load_file(out)
        assert all(np.array_equal(arrays[name], array) for name, array in expected[entry.name].items())
        assert arrays["skills"].max() < skill_count(view)


def test_module_runs_hold_the_learners_at_risk(tmp_path_factory: pytest.TempPathFactory) -> None:
    """22 runs with 26,361 learners still registered on day 60, as the published counts of the task say."""
    folder = shared_data("oulad")
    view = load_view(find_view(folder))
    out = tmp_path_factory.mktemp("snapshot") / "data.safetensors"
    rows = []
    for entry in list_providers(view, folder):
        source = open_source(view, Location(folder=folder, parameters=entry.parameters))
        rows.append(build_snapshot(source, None, str, out).rows)
        assert np.isfinite(load_file(out)["X"]).all()
    assert (len(rows), sum(rows)) == (22, 26_361)


def test_a_fifth_data_set_needs_a_view_file_only() -> None:
    """The Portuguese schools are read by their view like any other."""
    folder = shared_data("uci320-student-performance")
    entries = list_providers(load_view(find_view(folder)), folder)
    assert [(entry.name, entry.rows) for entry in entries] == [("GP", 423), ("MS", 226)]
