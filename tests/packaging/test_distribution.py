"""What is built and installed: four packages with their data, and nobody else's."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from connector.packaging_check import PackagingError, require_own_packages

ROOT = Path(__file__).parents[2]
PACKAGES = {"connector", "contracts", "learning", "policies"}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    folder = tmp_path_factory.mktemp("wheel")
    # The build back end as pip calls it (PEP 517), from this environment: no download, no isolation.
    code = f"import hatchling.build; print(hatchling.build.build_wheel({str(folder)!r}))"
    built = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    return zipfile.ZipFile(folder / built.stdout.strip().splitlines()[-1])


def test_the_wheel_holds_four_packages_and_nothing_else(wheel: zipfile.ZipFile) -> None:
    """Tests, charts and documents of the repository never leak into the wheel."""
    tops = {name.partition("/")[0] for name in wheel.namelist()}
    assert {top for top in tops if not top.endswith(".dist-info")} == PACKAGES


def test_the_wheel_holds_every_file_of_the_packages(wheel: zipfile.ZipFile) -> None:
    """Whatever is tracked in a package, templates, views and contexts included, is in the wheel."""
    listed = subprocess.run(
        ["git", "ls-files", *sorted(PACKAGES)], cwd=ROOT, capture_output=True, text=True, check=True
    )
    tracked = {name for name in listed.stdout.splitlines() if (ROOT / name).exists()}
    assert tracked - set(wheel.namelist()) == set()
    assert {f"{package}/py.typed" for package in PACKAGES} <= tracked


def test_the_wheel_names_its_command_and_forbids_uploading(wheel: zipfile.ZipFile) -> None:
    """The console script is ``orchard``, and the classifier keeps the wheel private."""
    (folder,) = {name.partition("/")[0] for name in wheel.namelist() if ".dist-info/" in name}
    assert b"orchard = connector.cli.main:main" in wheel.read(f"{folder}/entry_points.txt")
    metadata = wheel.read(f"{folder}/METADATA").decode()
    assert "Classifier: Private :: Do Not Upload" in metadata
    required = [line for line in metadata.splitlines() if line.startswith("Requires-Dist: torch")]
    assert required == ["Requires-Dist: torch==2.13.0; extra == 'learning'"]


def test_this_environment_is_clean() -> None:
    """No other installed distribution owns one of the four import names."""
    require_own_packages()


def test_a_rival_distribution_is_named(tmp_path: Path) -> None:
    """A distribution that installs a package of the same name keeps the process from starting."""
    rival = tmp_path / "py_contracts-1.0.dist-info"
    rival.mkdir()
    (rival / "RECORD").write_text("contracts/__init__.py,sha256=x,1\npy_contracts-1.0.dist-info/RECORD,,\n")
    with pytest.raises(PackagingError, match="'contracts' belongs to orchard-connector, but py-contracts"):
        require_own_packages([tmp_path])
    (rival / "RECORD").write_text("my/contracts/__init__.py,sha256=x,1\n")
    require_own_packages([tmp_path])
