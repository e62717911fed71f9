"""A certificate that is not trusted is an error at once; one that the environment trusts is not."""

from __future__ import annotations

import datetime
import ipaddress
import ssl

import pytest

from tests.data.cached import quick
from tests.data.servers import no_proxy, serving  # noqa: F401
from vitscale.data.stores.store import Store
from vitscale.data.stores.web import Web
from vitscale.errors import DataError

x509 = pytest.importorskip("cryptography.x509", reason="makes the certificate")
pytestmark = pytest.mark.usefixtures("no_proxy")


@pytest.fixture
def certificate(tmp_path):
    """A file with a self-signed certificate of 127.0.0.1 and its key."""
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), False
        )
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    plain = serialization.NoEncryption()
    path = tmp_path / "certificate.pem"
    path.write_bytes(
        made.public_bytes(pem) + key.private_bytes(pem, serialization.PrivateFormat.PKCS8, plain)
    )
    return path


def test_a_certificate_is_checked(tmp_path, certificate, monkeypatch):
    folder = tmp_path / "far"
    folder.mkdir()
    (folder / "a.tar").write_bytes(b"secret")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    with serving(folder, context=context) as server:
        url = server.url.replace("http:", "https:")
        with pytest.raises(DataError, match="certificate is not accepted"):
            Store(Web(url), quick(6)).read("a.tar")
        assert server.seen == []
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        assert Store(Web(url), quick()).read("a.tar") == b"secret"
