"""Every store hands out the right bytes or says what is wrong; only what may pass is tried again."""

from __future__ import annotations

import email.utils
import random
import subprocess
import sys
import threading
import time

import pytest

from tests.data.servers import (
    cut_after,
    no_proxy,  # noqa: F401
    replies,
    resets,
    serves,
    serving,
    waits,
)
from vitscale.data.stores.backend import Gone, Permanent, Transient, without_secrets
from vitscale.data.stores.choose import local_folder, open_store
from vitscale.data.stores.command import Command
from vitscale.data.stores.folder import Folder
from vitscale.data.stores.objects import fault_of
from vitscale.data.stores.store import NotThere, Patience, Stopped, Store, Unreachable
from vitscale.data.stores.web import Web
from vitscale.errors import ConfigError, DataError, ResourceError

pytestmark = pytest.mark.usefixtures("no_proxy")
DATA = random.Random(1).randbytes(1_000_003)


class Clock:
    """Notes how long was waited instead of waiting."""

    def __init__(self) -> None:
        self.waited: list[float] = []

    def patience(self, tries: int = 6) -> Patience:
        return Patience(tries=tries, random=lambda: 1.0, sleep=self.waited.append)


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "a.tar").write_bytes(DATA)
    return tmp_path


def web(server, clock, *, tries: int = 6, read_s: float = 5.0) -> Store:
    return Store(Web(server.url, read_s=read_s), clock.patience(tries))


@pytest.mark.parametrize("ranges", [True, False])
def test_any_part_is_the_same_with_and_without_ranges(folder, clock, ranges):
    draw = random.Random(2)
    with serving(folder, ranges=ranges) as server:
        store = web(server, clock)
        assert store.size("a.tar") == len(DATA)
        assert store.read("a.tar") == DATA
        for _ in range(10):
            begin, end = sorted(draw.randrange(len(DATA) + 1) for _ in range(2))
            assert store.read("a.tar", begin, end) == DATA[begin:end]
        assert store.read("a.tar", 999_000) == DATA[999_000:]
        assert store.ranged is ranges
    assert clock.waited == []


def test_a_connection_is_kept(folder, clock):
    with serving(folder) as server:
        store = web(server, clock)
        ports = set()
        original = server.verify_request
        server.verify_request = lambda request, address: (
            ports.add(address[1]) or original(request, address)
        )
        for begin in range(0, 10_000, 1000):
            store.read("a.tar", begin, begin + 1000)
    assert len(ports) == 1


def test_a_cut_body_goes_on_where_it_ended(folder, clock):
    with serving(folder) as server:
        server.faults["a.tar"] = [cut_after(600_000), cut_after(300_000), resets]
        assert web(server, clock).read("a.tar", 0, len(DATA)) == DATA
        begins = [int(text[6:].partition("-")[0]) for *_, text in server.seen]
    assert begins[0] == 0
    assert begins[1] >= 256 << 10
    assert begins == sorted(begins)
    assert clock.waited == [0.5, 1.0, 2.0]


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504, 408])
def test_statuses_that_may_pass_are_tried_again(folder, clock, status):
    with serving(folder) as server:
        server.faults["a.tar"] = [replies(status)] * 2
        assert web(server, clock).read("a.tar") == DATA
    assert clock.waited == [0.5, 1.0]


def test_retry_after_is_honoured_as_seconds_and_as_a_date(folder, clock):
    date = email.utils.formatdate(time.time() + 90, usegmt=True)
    with serving(folder) as server:
        server.faults["a.tar"] = [
            replies(503, Retry_After="7"),
            replies(429, Retry_After=date),
            replies(503, Retry_After="86400"),
            replies(503, Retry_After="soon"),
        ]
        assert web(server, clock).read("a.tar") == DATA
    assert clock.waited[0] == 7
    assert 85 < clock.waited[1] <= 90
    assert clock.waited[2:] == [300, 4.0]


@pytest.mark.parametrize("status", [404, 410])
def test_a_file_that_is_not_there_is_not_asked_for_again(folder, clock, status):
    with serving(folder) as server:
        server.always["a.tar"] = replies(status)
        with pytest.raises(NotThere, match=rf"a\.tar: the store holds no such file.*{status}"):
            web(server, clock).read("a.tar")
        assert server.gets("a.tar") == 1


@pytest.mark.parametrize("status", [400, 401, 403, 416, 501])
def test_a_refusal_is_not_asked_for_again(folder, clock, status):
    with serving(folder) as server:
        server.always["a.tar"] = replies(status)
        with pytest.raises(DataError, match=rf"refuses.*{status}.*credentials") as caught:
            web(server, clock).read("a.tar")
        assert not isinstance(caught.value, NotThere | Unreachable)
        assert server.gets("a.tar") == 1


def test_tries_are_bounded_and_the_error_says_all(folder, clock):
    with serving(folder) as server:
        server.always["a.tar"] = replies(503)
        with pytest.raises(Unreachable) as caught:
            web(server, clock).read("a.tar")
        assert server.gets("a.tar") == 6
    assert caught.value.retry
    for part in (server.url, "a.tar", "6 tries", "503", "start again"):
        assert part in str(caught.value)


def test_pauses_grow_with_full_jitter_up_to_thirty_seconds():
    assert [Patience(random=lambda: 1.0).pause_s(n) for n in range(1, 9)] == [
        0.5, 1, 2, 4, 8, 16, 30, 30,
    ]  # fmt: skip
    drawn = [Patience().pause_s(3) for _ in range(2000)]
    assert 0 <= min(drawn) < 0.1
    assert 1.9 < max(drawn) <= 2.0
    assert abs(sum(drawn) / len(drawn) - 1.0) < 0.1


def test_a_server_that_is_slow_or_down_is_tried_again(folder, clock):
    with serving(folder) as server:
        server.faults["a.tar"] = [waits(0.6)]
        assert web(server, clock, read_s=0.2).read("a.tar") == DATA
        assert clock.waited == [0.5]
        url = server.url
    with pytest.raises(Unreachable, match="2 tries"):
        Store(Web(url), clock.patience(2)).read("a.tar")


def test_a_wrong_length_is_noticed(folder, clock):
    with serving(folder) as server:
        server.faults["a.tar"] = [
            lambda handler, data: (
                handler.send(200, data[:-5], length=len(data)) or handler.hang_up()
            )
        ]
        assert web(server, clock).read("a.tar") == DATA
        server.faults["a.tar"] = [serves(DATA[:500_000])]
        with pytest.raises(DataError, match="the file has 500000 bytes"):
            web(server, clock).read("a.tar", 0, 600_000)


def test_another_range_than_asked_for_is_noticed(folder, clock):
    def shifted(handler, data):
        handler.send(206, data[1:11], {"Content-Range": f"bytes 1-10/{len(data)}"})

    def unsaid(handler, data):
        handler.send(206, data[:10])

    with serving(folder) as server:
        server.faults["a.tar"] = [shifted, unsaid]
        assert web(server, clock).read("a.tar", 0, 10) == DATA[:10]
    assert len(clock.waited) == 2


def test_redirects_are_followed_and_circles_are_not(folder, clock):
    with serving(folder) as server, serving(folder) as other:
        server.faults["a.tar"] = [replies(302, Location=f"{other.url}/a.tar")]
        assert web(server, clock).read("a.tar", 5, 50) == DATA[5:50]
        assert other.seen == [("GET", "a.tar", "bytes=5-49")]
        server.always["a.tar"] = replies(302, Location="/a.tar")
        with pytest.raises(DataError, match="redirect"):
            web(server, clock).read("a.tar")
    assert clock.waited == []


def test_user_password_and_query_are_sent_and_never_shown(folder, clock):
    seen = []

    def look(handler, data):
        seen.append((handler.headers["Authorization"], handler.path))
        handler.status(403)

    with serving(folder) as server:
        server.always["a.tar"] = look
        url = server.url.replace("//", "//eve:s3cret@") + "/x?sig=hidden"
        with pytest.raises(DataError) as caught:
            Store(Web(url), clock.patience()).read("a.tar")
    assert seen == [("Basic ZXZlOnMzY3JldA==", "/x/a.tar?sig=hidden")]
    assert not any(word in str(caught.value) for word in ("s3cret", "eve", "hidden", "sig"))
    text = without_secrets(
        "Max retries exceeded with url: /b/a.tar?X-Sig=abc (see https://u:p@h/x)"
    )
    assert text == "Max retries exceeded with url: /b/a.tar (see https://h/x)"


def test_the_proxy_of_the_environment_is_used(folder, clock, monkeypatch):
    with serving(folder) as proxy:
        monkeypatch.setenv("http_proxy", proxy.url)
        assert Store(Web("http://nowhere.invalid/d"), clock.patience()).read("a.tar") == DATA
        monkeypatch.setenv("no_proxy", "nowhere.invalid")
        with pytest.raises(Unreachable):
            Store(Web("http://nowhere.invalid/d"), clock.patience(2)).read("a.tar")
    assert len(proxy.seen) == 1


def test_closing_a_store_ends_waiting_at_once(folder):
    with serving(folder) as server:
        server.always["a.tar"] = replies(503, Retry_After="200")
        store, ended = Store(Web(server.url)), []

        def read() -> None:
            with pytest.raises(Stopped):
                store.read("a.tar")
            ended.append(True)

        thread = threading.Thread(target=read)
        thread.start()
        while not server.seen:
            time.sleep(0.01)
        store.close()
        thread.join(5)
    assert ended


def test_a_folder_is_a_store(folder, clock):
    store = open_store(folder.as_uri(), patience=clock.patience())
    assert (store.read("a.tar", 7, 99), store.size("a.tar")) == (DATA[7:99], len(DATA))
    assert store.names() == ["a.tar"]
    with pytest.raises(NotThere):
        store.read("b.tar")
    with pytest.raises(DataError, match="ends at byte"):
        Store(Folder(folder)).read("a.tar", 0, len(DATA) + 1)
    with pytest.raises(ConfigError, match="three slashes"):
        local_folder("file://data/train")


def test_unknown_schemes_are_named_with_those_that_are_known():
    with pytest.raises(ConfigError, match=r"no store is known by s4://.*Known are .*s3://"):
        open_store("s4://bucket/train")
    with pytest.raises(ConfigError, match="names no place"):
        open_store("s3://")


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "gcsfs", None)
    with pytest.raises(ResourceError, match="pip install 'gcsfs'"):
        open_store("gs://bucket/train")


def test_commands_run_only_where_allowed(folder, clock):
    text = f"pipe:cat {folder}/{{name}}"
    with pytest.raises(ConfigError, match="runs a command on this machine"):
        open_store(text)
    store = open_store(text, allow_pipe=True, patience=clock.patience(2))
    assert store.read("a.tar") == DATA
    assert store.read("a.tar", 400_000, 400_100) == DATA[400_000:400_100]
    assert not store.ranged
    with pytest.raises(Unreachable, match=r"2 tries.*status 1.*No such file"):
        store.read("b.tar")
    with pytest.raises(Unreachable, match="printed 1000003 bytes"):
        store.read("a.tar", 0, len(DATA) + 1)
    with pytest.raises(DataError, match="as an option"):
        store.read("-n.tar")
    with pytest.raises(ConfigError, match=r"Write \{name\}"):
        open_store("pipe:cat x", allow_pipe=True)
    with pytest.raises(DataError, match="cannot be started"):
        Store(Command("pipe:no-such-command-here {name}")).read("a.tar")


def test_a_command_that_falls_silent_is_ended(clock):
    words = f"pipe:{sys.executable} -c 'import time; time.sleep(60)' {{name}}"
    with pytest.raises(Unreachable, match="printed nothing"):
        Store(Command(words, silent_s=0.1), clock.patience(1)).read("a.tar")


class _WithStatus(Exception):
    def __init__(self, status: int) -> None:
        self.status_code = status


KINDS = [
    (FileNotFoundError("x"), Gone),
    (PermissionError("x"), Permanent),
    (TimeoutError("x"), Transient),
    (ConnectionResetError("x"), Transient),
    (OSError(22, "not satisfiable"), Permanent),
    (OSError(5, "SlowDown"), Transient),
    (ValueError("x"), Permanent),
    (_WithStatus(404), Gone),
    (_WithStatus(403), Permanent),
    (_WithStatus(429), Transient),
    (_WithStatus(503), Transient),
    (type("NoCredentialsError", (Exception,), {})("x"), Permanent),
    (RuntimeError("never seen before"), Transient),
]


@pytest.mark.parametrize(("error", "kind"), KINDS, ids=lambda x: repr(x)[:30])
def test_errors_of_other_libraries_are_sorted(error, kind):
    assert type(fault_of(error)) is kind


def test_stores_load_neither_torch_nor_numpy():
    code = (
        "import sys, vitscale.data.stores.manifest, vitscale.data.stores.web; "
        "print([m for m in ('torch', 'numpy', 'fsspec') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr
