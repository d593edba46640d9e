"""Other people's programs, run on a bundle as a stranger would run them, without a network.

Each function returns what its program ended with; none of them uses our own code to read a bundle.
"""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import Any

CONTEXT_URL = "https://w3id.org/ro/crate/1.1/context"
TOOLS = Path(sys.executable).parent
OPENSSL_SIGNATURE = """
import base64, json, pathlib, sys
bundle, out = map(pathlib.Path, sys.argv[1:])
envelope = json.loads(bundle.joinpath("attestation.sigstore.json").read_bytes())["dsseEnvelope"]
kind, payload = envelope["payloadType"].encode(), base64.b64decode(envelope["payload"])
encoded = b"DSSEv1 %d %s %d %s" % (len(kind), kind, len(payload), payload)
out.joinpath("signed").write_bytes(encoded)
out.joinpath("signature").write_bytes(base64.b64decode(envelope["signatures"][0]["sig"]))
"""

Check = Callable[[Path, Path, Path], bool]


def run(*command: str | Path, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a program without a terminal and, as far as proxies decide that, without a network."""
    nowhere = dict.fromkeys(("http_proxy", "https_proxy", "HTTPS_PROXY"), "http://127.0.0.1:9")
    return subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env={**os.environ, **nowhere, **environment},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def model_signing_accepts(bundle: Path, key: Path, scratch: Path) -> bool:
    """``model_signing verify key`` over the whole folder."""
    signature = bundle / "attestations" / "model.sig"
    done = run(
        *(TOOLS / "model_signing", "verify", "key", bundle, "--signature", signature),
        *("--public_key", key),
        cwd=scratch,
    )
    assert done.returncode in (0, 1), done.stderr
    assert (done.returncode == 0) == ("Verification succeeded" in done.stdout), done
    return done.returncode == 0


def in_toto_accepts(bundle: Path, key: Path, scratch: Path) -> bool:
    """``in-toto-verify`` over layout, links and a copy of ``content/``."""
    copy = scratch / "in-toto-copy"
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(bundle / "content", copy / "content", symlinks=True)
    links = bundle / "attestations" / "in-toto"
    done = run(
        *(TOOLS / "in-toto-verify", "--layout", links / "run.layout", "--link-dir", links),
        *("--verification-keys", key),
        cwd=copy,
    )
    assert done.returncode in (0, 1), done.stderr
    return done.returncode == 0


def openssl_accepts(bundle: Path, key: Path, scratch: Path) -> bool:
    """``openssl dgst -verify`` over the DSSE pre-authentication encoding."""
    if run(sys.executable, "-c", OPENSSL_SIGNATURE, bundle, scratch, cwd=scratch).returncode:
        return False
    done = run(
        *("openssl", "dgst", "-sha256", "-verify", key, "-signature", "signature", "signed"),
        cwd=scratch,
    )
    return done.returncode == 0 and done.stdout == "Verified OK\n"


def crate_validator_accepts(bundle: Path, key: Path, scratch: Path) -> bool:
    """``rocrate-validator`` with the Provenance Run Crate profile, from a seeded cache."""
    del key
    cache = scratch / "http-cache"
    seed_crate_cache(cache)
    report = scratch / "crate.json"
    report.unlink(missing_ok=True)
    done = run(
        *(TOOLS / "rocrate-validator", "--no-interactive", "validate", "--offline"),
        *("--cache-path", cache, "--profile-identifier", "provenance-run-crate"),
        *("--output-format", "json", "--output-file", report, bundle),
        cwd=scratch,
    )
    assert report.is_file(), done.stdout + done.stderr
    value = json.loads(report.read_bytes())
    assert value["passed"] == (done.returncode == 0), (value, done)
    return bool(value["passed"])


def bill_validator_accepts(bundle: Path, key: Path, scratch: Path) -> bool:
    """The strict JSON validator of cyclonedx-python-lib on every CycloneDX document."""
    del key, scratch
    from cyclonedx.schema import SchemaVersion
    from cyclonedx.validation.json import JsonStrictValidator

    validator = JsonStrictValidator(SchemaVersion.V1_6)
    paths = sorted(bundle.rglob("*.cdx.json"))
    assert paths
    return all(validator.validate_str(path.read_text("utf-8")) is None for path in paths)


def sigstore_parser_accepts(bundle: Path, key: Path, scratch: Path) -> bool:
    """Sigstore's own models of its bundle read every ``*.sigstore.json`` and ``model.sig``."""
    del key, scratch
    from pydantic import ValidationError
    from sigstore_models.bundle.v1 import Bundle

    paths = [*bundle.rglob("*.sigstore.json"), bundle / "attestations" / "model.sig"]
    assert len(paths) >= 3
    try:
        parsed = [Bundle.from_json(path.read_bytes()) for path in paths]
    except (ValidationError, ValueError):
        return False
    return all(
        item.dsse_envelope is not None
        and item.dsse_envelope.payload_type == "application/vnd.in-toto+json"
        for item in parsed
    )


def seed_crate_cache(cache: Path) -> None:
    """Put the RO-Crate vocabulary that ships with ``rocrate`` where the validator looks first."""
    from requests.adapters import HTTPAdapter
    from requests_cache import CachedSession
    from urllib3 import HTTPResponse

    text = files("rocrate").joinpath("data/ro-crate.jsonld").read_bytes()

    class Shipped(HTTPAdapter):
        def send(self, request: Any, **_: Any) -> Any:
            headers = {"Content-Type": "application/ld+json"}
            answer = HTTPResponse(
                body=io.BytesIO(text),
                headers=headers,
                status=200,
                preload_content=False,
                request_url=request.url,
            )
            return self.build_response(request, answer)

    with CachedSession(cache_name=str(cache), backend="sqlite", expire_after=-1) as session:
        session.mount("https://", Shipped())
        assert session.get(CONTEXT_URL).content == text


CHECKS: dict[str, Check] = {
    "model_signing": model_signing_accepts,
    "in-toto-verify": in_toto_accepts,
    "openssl": openssl_accepts,
    "roc-validator": crate_validator_accepts,
    "cyclonedx": bill_validator_accepts,
    "sigstore": sigstore_parser_accepts,
}
