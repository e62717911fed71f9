"""What is shipped with a job, held against what git and the disk say."""

import subprocess

import pytest

from vitscale.errors import ConfigError
from vitscale_launch.package import package_here, package_of


def git(folder, *words):
    identity = ["-c", "user.name=a", "-c", "user.email=a@example.com", "-c", "commit.gpgsign=false"]
    return subprocess.run(
        ["git", *identity, *words], cwd=folder, check=True, capture_output=True, text=True
    ).stdout.strip()


@pytest.fixture
def checkout(tmp_path):
    folder = tmp_path / "project" / "vitscale"
    (folder / "data" / "__pycache__").mkdir(parents=True)
    (folder / "__init__.py").write_text("")
    (folder / "data" / "a.py").write_text("a = 1\n")
    (folder / "data" / "__pycache__" / "a.pyc").write_text("bytes")
    (folder.parent / ".gitignore").write_text("__pycache__/\n*.so\n")
    git(folder.parent, "init", "-q")
    git(folder.parent, "add", "-A")
    git(folder.parent, "commit", "-q", "-m", "first")
    return folder


def test_a_clean_checkout_is_shipped_under_its_commit_without_byte_code(checkout, tmp_path):
    (checkout / "data" / "_native.so").write_bytes(b"compiled here")
    package = package_of((checkout,), "1.0")
    package.insist(allow_dirty=False, limit_mb=1)
    assert package.commit == git(checkout, "rev-parse", "HEAD")
    package.copy_to(tmp_path / "shipped")
    shipped = sorted(p for p in (tmp_path / "shipped").rglob("*") if p.is_file())
    names = [str(path.relative_to(tmp_path / "shipped")) for path in shipped]
    assert names == ["vitscale/__init__.py", "vitscale/data/_native.so", "vitscale/data/a.py"]
    assert package.bytes == sum(path.stat().st_size for path in shipped)


@pytest.mark.parametrize("name", ["data/a.py", "data/new.py"])
def test_changed_and_new_files_are_named_and_refused_unless_allowed(checkout, name):
    (checkout / name).write_text("b = 2\n")
    package = package_of((checkout,), "1.0")
    with pytest.raises(ConfigError, match=rf"vitscale/{name}.*--allow-dirty") as caught:
        package.insist(allow_dirty=False, limit_mb=1)
    assert caught.value.exit_code == 2
    package.insist(allow_dirty=True, limit_mb=1)
    assert package.record["changed"] == [f"vitscale/{name}"]


def test_a_file_elsewhere_in_the_checkout_makes_nothing_dirty(checkout):
    (checkout.parent / "notes.txt").write_text("mine")
    assert package_of((checkout,), "1.0").changed == ()


def test_a_package_above_the_limit_is_refused_and_its_largest_file_named(checkout):
    (checkout / "big.so").write_bytes(bytes(2_000_000))
    with pytest.raises(ConfigError, match=r"big\.so"):
        package_of((checkout,), "1.0").insist(allow_dirty=False, limit_mb=1)


def test_the_digest_changes_with_a_byte_and_with_a_name(checkout):
    digests = {package_of((checkout,), "1.0").digest}
    (checkout / "data" / "a.py").write_text("a = 2\n")
    digests.add(package_of((checkout,), "1.0").digest)
    (checkout / "data" / "a.py").rename(checkout / "data" / "b.py")
    digests.add(package_of((checkout,), "1.0").digest)
    assert len(digests) == 3


def test_outside_a_checkout_the_version_is_all_there_is(tmp_path):
    (tmp_path / "vitscale").mkdir()
    package = package_of((tmp_path / "vitscale",), "1.0")
    assert (package.commit, package.changed, package.version) == (None, (), "1.0")


def test_the_package_here_holds_both_packages_and_nothing_else():
    assert {name.partition("/")[0] for name in package_here().files} == {
        "vitscale",
        "vitscale_launch",
    }
