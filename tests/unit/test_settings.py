"""Reading orchard.toml."""

from pathlib import Path

import pytest

from connector.settings import Settings, SettingsError

GOOD = """
[participant]
id = "did:web:127.0.0.1%3A8101"
name = "North School"
organisation = "North"
role = "data-provider"

[server]
port = 8101
public_url = "http://127.0.0.1:8101/"

[broker]
url = "redis://user:hunter2@127.0.0.1:6379/0"
"""


def _write(folder: Path, text: str) -> Path:
    (folder / "orchard.toml").write_text(text)
    return folder


def _problems(folder: Path, text: str) -> tuple[str, ...]:
    with pytest.raises(SettingsError) as caught:
        Settings.load(_write(folder, text), {})
    return caught.value.problems


def test_paths_are_relative_to_the_file(tmp_path: Path) -> None:
    """Default and given paths, and SQLite files, are resolved beside the file."""
    settings = Settings.load(_write(tmp_path, GOOD + '[storage]\nblobs = "data/blobs"\n'), {})
    assert settings.storage.blobs == tmp_path / "data/blobs"
    assert settings.storage.database_url == f"sqlite:///{tmp_path}/orchard.sqlite"
    assert settings.identity.key == tmp_path / "identity.key"
    assert settings.server.public_url == "http://127.0.0.1:8101"
    assert settings.folder == tmp_path


def test_secrets_are_masked(tmp_path: Path) -> None:
    """Printing the settings shows no password."""
    text = repr(Settings.load(_write(tmp_path, GOOD), {}))
    assert "hunter2" not in text
    assert "url='***'" in text


def test_an_unknown_key_names_the_nearest_and_the_line(tmp_path: Path) -> None:
    """A misspelt key is refused with its line and the key that was meant."""
    problems = _problems(tmp_path, GOOD.replace("port =", "prot ="))
    assert f"{tmp_path}/orchard.toml:9: unknown key 'prot' in [server]; did you mean 'port'?" in problems
    assert f"{tmp_path}/orchard.toml:8: [server] needs the key 'port'" in problems


def test_a_key_in_the_wrong_section_is_sent_home(tmp_path: Path) -> None:
    """A key that another section knows is refused with that section's name."""
    assert "it belongs in [storage]" in _problems(tmp_path, GOOD.replace("port =", 'blobs = "x"\nport ='))[0]


def test_an_unknown_section_names_the_nearest(tmp_path: Path) -> None:
    """A misspelt section is refused with its line and the section that was meant."""
    problems = _problems(tmp_path, GOOD + "[consents]\n")
    assert problems == (f"{tmp_path}/orchard.toml:14: unknown section [consents]; did you mean 'consent'?",)


def test_everything_wrong_is_said_at_once(tmp_path: Path) -> None:
    """Every problem is listed, not only the first."""
    text = GOOD.replace('"data-provider"', '"owner"').replace("8101\n", "70000\n").replace("http://", "ftp://")
    assert len(_problems(tmp_path, text)) == 3


def test_values_are_not_repeated(tmp_path: Path) -> None:
    """A wrong value may be a secret in the wrong place: the message does not quote it."""
    assert "hunter2" not in _problems(tmp_path, GOOD.replace("8101\n", '"hunter2"\n'))[0]


def test_the_environment_overrides_and_is_checked_too(tmp_path: Path) -> None:
    """ORCHARD_SECTION__KEY replaces a value; a misspelt one is refused."""
    _write(tmp_path, GOOD)
    settings = Settings.load(tmp_path, {"ORCHARD_SERVER__PORT": "9000", "ORCHARD_HOME": "ignored"})
    assert settings.server.port == 9000
    with pytest.raises(SettingsError, match="did you mean 'database_url'"):
        Settings.load(tmp_path, {"ORCHARD_STORAGE__DATABSE_URL": "x"})


def test_a_missing_file_says_how_to_make_one(tmp_path: Path) -> None:
    """A folder without a configuration is answered with the command that makes it."""
    with pytest.raises(SettingsError, match="orchard init"):
        Settings.load(tmp_path, {})


@pytest.mark.parametrize("text", ["[", "participant = 3", "file = 'x'", "", "a.b.c = 1", "[participant]\nid = 3"])
def test_odd_files_are_refused_as_settings_errors(tmp_path: Path, text: str) -> None:
    """Whatever the file holds, the error is a SettingsError with at least one sentence."""
    assert _problems(tmp_path, text)
