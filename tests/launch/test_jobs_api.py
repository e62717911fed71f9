"""A cluster that must not be used is refused with exit code 2; a small server stands in for Ray's dashboard."""

import json
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from importlib.metadata import version

import pytest

from tests.ranks import ROOT, free_port

TOKEN = "0123456789abcdef" * 4


class Dashboard(BaseHTTPRequestHandler):
    """Says its version to whoever has the token, and counts what else is asked of it."""

    def do_GET(self):
        shown = self.headers.get("Authorization")
        if self.server.token and shown is None:
            self._answer(401, "Unauthorized: Missing authentication token")
        elif self.server.token and shown != f"Bearer {self.server.token}":
            self._answer(403, "Forbidden: Invalid authentication token")
        else:
            self._answer(200, json.dumps({"ray_version": self.server.ray, "version": "4"}))

    def do_POST(self):
        self.server.posts += 1
        self._answer(500, "must not be asked")

    do_PUT = do_POST

    def _answer(self, code, text):
        self.send_response(code)
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *words):
        pass


@pytest.fixture
def dashboard():
    server = HTTPServer(("127.0.0.1", 0), Dashboard)
    server.token, server.ray, server.posts = TOKEN, version("ray"), 0
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()
    assert server.posts == 0


def submit(recipe_file, port, **environment):
    """Exit code, and what was said on stderr."""
    command = [sys.executable, "-m", "vitscale", "submit", str(recipe_file), "--allow-dirty"]
    command += ["--on", "ray", f"cluster.address=http://127.0.0.1:{port}"]
    done = subprocess.run(
        command,
        cwd=ROOT,
        env={**os.environ, "RAY_AUTH_TOKEN": TOKEN, **environment},
        capture_output=True,
        text=True,
        timeout=120,
    )
    return done.returncode, done.stderr


def test_another_version_of_ray_is_refused(recipe_file, dashboard):
    dashboard.ray = "2.9.0"
    code, said = submit(recipe_file, dashboard.server_port)
    assert code == 2
    assert f"the cluster runs Ray 2.9.0 and this is Ray {version('ray')}" in said
    assert "pip install 'ray[default,train]==2.9.0'" in said


def test_a_wrong_token_is_refused(recipe_file, dashboard):
    code, said = submit(recipe_file, dashboard.server_port, RAY_AUTH_TOKEN="f" * 64)
    assert (code, "the cluster refuses the token" in said) == (2, True), said


def test_a_missing_token_is_refused_before_anything_is_asked(recipe_file, dashboard, tmp_path):
    code, said = submit(recipe_file, dashboard.server_port, RAY_AUTH_TOKEN="", HOME=str(tmp_path))
    assert (code, "there is no token to show" in said) == (2, True), said


def test_a_cluster_that_asks_for_no_token_is_refused(recipe_file, dashboard):
    dashboard.token = None
    code, said = submit(recipe_file, dashboard.server_port)
    assert (code, "takes jobs from anybody" in said) == (2, True), said


def test_an_address_where_nobody_listens_is_refused(recipe_file):
    code, said = submit(recipe_file, free_port())
    assert (code, "no Ray cluster answers" in said) == (2, True), said
