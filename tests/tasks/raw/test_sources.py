"""Tests of the sources: web servers, package clients, scikit-learn's digits and folders."""

from __future__ import annotations

import io
import os
import shutil
import socket
import tarfile
import time
from pathlib import Path

import pytest

from pipeline_config.datasets import FILES, RawFile, named_dataset
from tasks.raw.sources import obtain
from tasks.runtime.errors import FetchError

FIRST = f"{FILES[0]}.gz"


def same_as(raw: Path, folder: Path) -> bool:
    found = {path.name: path.read_bytes() for path in folder.iterdir()}
    return found == {name: (raw / name).read_bytes() for name in FILES}


def failure(dataset, target, source: str | None = None) -> FetchError:
    with pytest.raises(FetchError) as caught:
        obtain(dataset, source, target)
    assert ".scratch" not in "".join(path.name for path in target.iterdir())
    return caught.value


@pytest.fixture
def attempts(monkeypatch) -> list[dict[str, str]]:
    """Return the rows of the table of sources in the Prefect UI."""
    rows: list[dict[str, str]] = []
    monkeypatch.setattr(
        "tasks.raw.sources.show_table", lambda key, found, words: rows.extend(found)
    )
    return rows


def closed_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


# The web


def test_gzip_files_are_downloaded(web, target, raw, files, make_dataset, monkeypatch):
    shares: list[float] = []
    monkeypatch.setattr(
        "tasks.runtime.show.ProgressArtifact.show", lambda _, share: shares.append(share)
    )
    facts = obtain(make_dataset(web.url), None, target)
    assert same_as(raw, target)
    assert facts == {
        "sha256": {name: files[name].sha256 for name in FILES},
        "num_bytes": {name: files[name].num_bytes for name in FILES},
    }
    assert shares == sorted(shares)
    assert shares[-1] == 1
    assert set(web.requests.values()) == {1}


def html(web):
    return lambda handler, name: web.send(handler, b"<!DOCTYPE html><html>moved</html>")


def not_found(web):
    return lambda handler, name: web.send(handler, b"no", status=404)


def broken_off(web):
    return lambda handler, name: web.send(handler, web.content(name)[:40], length=10_000)


def cut_gzip(web):
    return lambda handler, name: web.send(handler, web.content(name)[:-9])


def silent(web):
    return lambda handler, name: handler.connection.shutdown(socket.SHUT_RDWR)


def busy(web):
    return lambda handler, name: web.send(handler, b"later", status=503)


def other_digits(web):
    images = FILES[2]
    return lambda handler, name: web.send(handler, web.content(images))


def stalling(web):
    def answer(handler, name):
        handler.send_response(200)
        handler.send_header("Content-Length", "1000")
        handler.end_headers()
        time.sleep(0.3)

    return answer


@pytest.mark.parametrize(
    ("fault", "words", "transient"),
    [
        (html, "a web page (HTML) instead of data", False),
        (not_found, "HTTP status 404", False),
        (broken_off, "a broken download (peer closed connection", True),
        (cut_gzip, "unreadable or damaged file", False),
        (silent, "a broken download", True),
        (busy, "HTTP status 503", True),
        (other_digits, "a header that declares 176 bytes (10×4×4 uint8), expected 336", False),
        (stalling, "a broken download", True),
    ],
)
def test_a_failing_server_is_left_at_its_first_failure(
    web, target, raw, make_dataset, monkeypatch, fault, words, transient
):
    monkeypatch.setattr("tasks.raw.sources.TIMEOUT", 0.1)
    web.answer = fault(web)
    error = failure(make_dataset(web.url), target)
    assert words in str(error)
    assert error.transient is transient
    # Only Prefect's task tries a source again.
    assert web.requests == {FIRST: 1}
    obtain(make_dataset(web.url, f"folder:{raw}"), None, target)
    assert same_as(raw, target)


def test_a_failure_is_transient_if_that_of_any_source_is(web, target, make_dataset):
    web.answer = busy(web)
    assert failure(make_dataset(web.url, "folder:/nowhere"), target).transient
    web.answer = not_found(web)
    assert not failure(make_dataset(web.url, "folder:/nowhere"), target).transient


def test_a_refused_connection_is_tried_once(target, make_dataset, monkeypatch):
    import httpx

    tries = []
    connect = httpx.HTTPTransport.handle_request

    def counted(self, request):
        tries.append(request.url)
        return connect(self, request)

    monkeypatch.setattr(httpx.HTTPTransport, "handle_request", counted)
    error = failure(make_dataset(f"http://127.0.0.1:{closed_port()}/"), target)
    assert error.transient
    assert "a broken download" in str(error)
    assert len(tries) == 1


@pytest.mark.parametrize("address", ["http://", "http://[::1", "https://a b/"])
def test_a_malformed_address_is_refused(target, make_dataset, address):
    assert address in str(failure(make_dataset(address), target))


def test_files_of_a_source_that_fails_later_are_kept(web, target, raw, make_dataset, attempts):
    web.answer = lambda handler, name: (
        web.serve(handler, name) if name == FIRST else web.send(handler, b"", status=404)
    )
    obtain(make_dataset(web.url, str(raw)), None, target)
    assert same_as(raw, target)
    assert "404" in attempts[0]["result"]
    assert attempts[1]["result"] == f"gave {', '.join(FILES[1:])}"


def test_the_gzip_digest_is_checked_where_the_raw_one_is_unknown(web, target, raw, make_dataset):
    from hashlib import sha256

    known = {
        name: RawFile(gzip_sha256=sha256(web.content(f"{name}.gz")).hexdigest()) for name in FILES
    }
    obtain(make_dataset(web.url, files=known), None, target)
    assert same_as(raw, target)
    assert "the gzip file as published" in str(failure(make_dataset(str(raw), files=known), target))


# Folders


def test_the_given_source_is_tried_first_and_its_digests_are_checked(
    tmp_path, web, target, raw, make_dataset, attempts
):
    folder = shutil.copytree(raw, tmp_path / "mine")
    obtain(make_dataset(web.url), str(folder), target)
    assert same_as(raw, target)
    assert not web.requests
    for name in FILES:
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    attempts.clear()
    obtain(make_dataset(web.url), str(folder), target)
    assert same_as(raw, target)
    assert "the SHA-256" in attempts[0]["result"]
    assert attempts[1]["source"] == web.url


def test_the_error_lists_each_source_and_a_remedy(target, raw, make_dataset):
    refused = f"http://127.0.0.1:{closed_port()}/"
    dataset = make_dataset(refused, "npm:nothing", "deb:-o/x", "sklearn:iris", "folder:/nowhere")
    error = failure(dataset, target, "/not/here")
    for source in ("/not/here", *dataset.sources):
        assert f"\n  {source}\n" in str(error)
    assert "idxflow run --dataset small --source FOLDER" in str(error)
    assert error.transient  # The refused port may be open later.
    assert not failure(make_dataset(), target).transient


def test_the_digits_of_scikit_learn_need_no_network(target):
    dataset = named_dataset("digits8x8")
    facts = obtain(dataset, None, target)
    assert facts["sha256"] == {name: dataset.files[name].sha256 for name in FILES}


# Package clients, replaced by small scripts


@pytest.fixture
def client(tmp_path, monkeypatch):
    """Return a function that puts a shell script called `name` on an otherwise empty PATH."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))

    def put(name: str, script: str) -> None:
        path = folder / name
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)

    return put


@pytest.fixture
def package(tmp_path, web) -> Path:
    """Return a tar archive with gzip files in `./usr/data/` and with links outside of it."""
    path = tmp_path / "package.tar"
    with tarfile.open(path, "w:gz") as tar:
        for name in FILES:
            link = tarfile.TarInfo(f"../usr/data/{name}")
            link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
            tar.addfile(link)
            content = web.content(f"{name}.gz")
            member = tarfile.TarInfo(f"./usr/data/{name}.gz")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path


@pytest.mark.parametrize(
    "source", ["npm:@scope/some-data@1.0.0/usr/data/", "deb:some-data/usr/data"]
)
def test_a_package_is_downloaded_once(tmp_path, client, package, target, raw, make_dataset, source):
    log = tmp_path / "log"
    note = f'echo "$0 $*" >> {log}'
    client("npm", f"{note}; /bin/cp {package} ./some-data-1.0.0.tgz")
    client("apt-get", f"{note}; /bin/cp {package} ./some-data_1_all.deb")
    client("dpkg-deb", f'{note}; /bin/cat "$2"')
    obtain(make_dataset(source), None, target)
    assert same_as(raw, target)
    commands = log.read_text().splitlines()
    assert len(commands) == (1 if source.startswith("npm") else 2)
    assert commands[0].endswith("@scope/some-data@1.0.0") == source.startswith("npm")
    # The clients do not retry, since their retries would multiply those of the task.
    assert any(option in commands[0] for option in ("--fetch-retries=0", "Acquire::Retries=0"))


@pytest.mark.parametrize(
    ("script", "words", "transient"),
    [
        (None, "npm: not installed", False),
        ("echo 'npm error 404 Not Found' >&2; exit 1", "exit code 1 (npm error 404", False),
        ("echo 'npm error code ENOTFOUND' >&2; exit 1", "ENOTFOUND", True),
        ("exit 0", "0 packages from the client", False),
        ("echo nothing > a.tgz", "unreadable or damaged file", False),
        ("/bin/tar cf a.tgz /dev/null 2>/dev/null", "no usr/data/train-images", False),
        ("/bin/sleep 60 & echo $! > ../../../pid; wait", "no end after", True),
    ],
)
def test_a_failing_package_client_is_a_source_error(
    client, target, make_dataset, monkeypatch, script, words, transient
):
    monkeypatch.setattr("tasks.raw.sources.CLIENT_TIMEOUT_S", 0.3)
    if script is not None:
        client("npm", script)
    error = failure(make_dataset("npm:some-data@1.0.0/usr/data/"), target)
    assert words in str(error)
    assert error.transient is transient


def test_a_client_that_hangs_is_killed_with_its_children(
    tmp_path, client, target, make_dataset, monkeypatch
):
    monkeypatch.setattr("tasks.raw.sources.CLIENT_TIMEOUT_S", 0.3)
    client("apt-get", f"/bin/sleep 60 & echo $! > {tmp_path}/pid; wait")
    assert "no end after" in str(failure(make_dataset("deb:some-data/x/"), target))
    status = Path(f"/proc/{(tmp_path / 'pid').read_text().strip()}/status")
    for _ in range(100):
        if not status.exists() or "(zombie)" in status.read_text():
            return
        time.sleep(0.02)
    pytest.fail("the client's child is still running")


def test_a_client_that_finds_the_disk_full_raises_an_os_error(client, target, make_dataset):
    client("npm", "echo 'npm error nospc ENOSPC: no space left on device' >&2; exit 228")
    with pytest.raises(OSError, match="No space left") as caught:
        obtain(make_dataset("npm:some-data@1.0.0/x/"), None, target)
    assert caught.value.errno == 28
    assert list(target.iterdir()) == []


def test_a_client_runs_in_our_environment_with_the_c_locale(tmp_path, client, target, make_dataset):
    client("npm", f'echo "$LC_ALL $HOME" > {tmp_path}/environment; exit 1')
    failure(make_dataset("npm:some-data@1.0.0/x/"), target)
    assert (tmp_path / "environment").read_text().strip() == f"C {os.environ['HOME']}"
