"""The text of ``VERIFY.md``: how a stranger checks a bundle, with this program and without it."""

from __future__ import annotations

import shlex
import string
from collections.abc import Sequence

_TEMPLATE = string.Template(
    """\
# How to verify this bundle

Run `$name`, content digest `$content_digest`,
signed by the key `$key_id`.

The folder `content/` is the result: the same manifest on the same platform gives the same bytes,
and the content digest names them. `observed/` holds what differs from run to run (times, host,
logs, videos, what was declared before training). `attestation.sigstore.json` is a signed statement
that lists the SHA-256 of every other file, those in `attestations/` too.

## With this program

```
appliance verify . --key THE_SIGNERS_PUBLIC_KEY.pem --content-digest $content_digest
```

Get the public key from the signer. The file `public_key.pem` in here is for information: whoever
changes the bundle can change it too, and sign anew. The content digest, from where you read of the
result, makes sure that this is that result and not an older one.

| verdict | exit code | what it means |
| --- | --- | --- |
| intact, signer trusted | 0 | every file is what was signed, and you trust the key that signed it |
| not a bundle | 20 | nothing here that this version can check |
| not intact | 21 | something was changed, added, removed or renamed, or parts disagree |
| intact, of unknown origin | 22 | every file is what was signed, but by a key you do not trust |

The key lay on the machine of the run (SLSA Build L1). An intact bundle shows that nothing changed
since it was signed. It does not show that the run was done honestly: only doing it again does.

## Without this program

With a shell, python3 (its standard library) and openssl, in this folder. First set `KEY` to the
signer's public key, a PEM file that you got from the signer (`KEY=/path/to/the_key.pem`), by a way
that you trust: the signer prints it with `appliance keys show`. `public_key.pem` in here proves
nothing by itself: it comes from whoever made this bundle. If what you have from the signer is the
key's id, you may take that file, and step 3 tells whether it is that key.

1. Take the signed bytes (the DSSE pre-authentication encoding of the statement), the signature and
   the list of files out of the attestation.

```sh
KEY=$${KEY:?set it first to the PEM file of the public key that you got from the signer}
OUT=$$(mktemp -d)
python3 - "$$OUT" <<'EOF'
import base64, json, pathlib, sys
out = pathlib.Path(sys.argv[1])
envelope = json.load(open("attestation.sigstore.json"))["dsseEnvelope"]
kind, payload = envelope["payloadType"].encode(), base64.b64decode(envelope["payload"])
out.joinpath("signed").write_bytes(b"DSSEv1 %d %s %d %s" % (len(kind), kind, len(payload), payload))
out.joinpath("signature").write_bytes(base64.b64decode(envelope["signatures"][0]["sig"]))
files = {entry["name"]: entry["digest"]["sha256"] for entry in json.loads(payload)["subject"]}
lines = ["%s  ./%s\\n" % (files[name], name) for name in files]
out.joinpath("sums").write_text("".join(lines))
names = sorted("./" + name for name in [*files, "attestation.sigstore.json"])
out.joinpath("names").write_text("".join(name + "\\n" for name in names))
EOF
```

2. Check the signature, every file, and that there is no other file. Each line must succeed: the
   first prints `Verified OK`, the other two print nothing.

```sh
openssl dgst -sha256 -verify "$$KEY" -signature "$$OUT/signature" "$$OUT/signed"
sha256sum --check --quiet --strict "$$OUT/sums"
find . ! -type d | LC_ALL=C sort | diff - "$$OUT/names"
```

3. Check whose key `KEY` is: this prints its id, which must be the one the signer told you.

```sh
openssl pkey -pubin -in "$$KEY" -outform DER | sha256sum
```

## With other programs

Each is somebody else's, free, and knows nothing of this one. Run the commands in this folder, after
those above (they use `$$KEY` and `$$OUT`).

Model signature, with the OpenSSF's `model-signing` (and `pyopenssl`, which it needs). It covers
every file but itself and `attestation.sigstore.json`.

```sh
model_signing verify key . --signature attestations/model.sig --public_key "$$KEY"
```
$others
"""
)
_IN_TOTO = """
The steps, with `in-toto`: each read what the steps before it made, the evaluated checkpoint is the
trained one, and `content/` is what the steps made. It looks at a copy, beside which it may write.

```sh
mkdir "$$OUT/copy" && cp -R content "$$OUT/copy" && HERE=$$(pwd)
KEY=$$(cd "$$(dirname "$$KEY")" && pwd)/$$(basename "$$KEY")
(cd "$$OUT/copy" && in-toto-verify --layout "$$HERE/attestations/in-toto/run.layout" \\
  --link-dir "$$HERE/attestations/in-toto" --verification-keys "$$KEY")
```

The description of the run as a Provenance Run Crate, with `roc-validator` (it fetches the
vocabulary from the network once, and keeps it in `$$OUT`):

```sh
rocrate-validator --no-interactive validate --cache-path "$$OUT/vocabulary" \\
  --profile-identifier provenance-run-crate --no-paging .
```
"""
_BOMS = """
The software that was installed, with `cyclonedx-python-lib[json-validation]`. Each command prints
nothing and succeeds.

```sh
for BOM in $boms; do
python3 - "$$BOM" <<'EOF'
import pathlib, sys
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
text = pathlib.Path(sys.argv[1]).read_text()
sys.exit(JsonStrictValidator(SchemaVersion.V1_6).validate_str(text))
EOF
done
```
"""


def write_instructions(
    *,
    name: str,
    content_digest: str,
    key_id: str,
    boms: Sequence[str] = (),
    has_steps: bool = False,
) -> str:
    """The text of ``VERIFY.md`` for one bundle.

    ``boms`` are the paths of its CycloneDX documents; ``has_steps`` says whether it holds in-toto
    links and an RO-Crate.
    """
    others = string.Template(_IN_TOTO).substitute() if has_steps else ""
    if boms:
        others += string.Template(_BOMS).substitute(boms=shlex.join(boms))
    return _TEMPLATE.substitute(
        name=name, content_digest=content_digest, key_id=key_id, others=others
    )
