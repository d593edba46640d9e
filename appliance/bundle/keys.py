"""The signing key: ECDSA on P-256 with SHA-256, one a user, made on first use.

The private key is a PKCS#8 PEM with mode 0600 in a folder with mode 0700, encrypted with a
passphrase when its owner asked for that; it is read only to sign, never logged, never copied.
Signatures are deterministic (RFC 6979) and in the lower half of the order, so that equal statements
give equal bytes and no second valid form of a signature exists.

Below the key folder lies ``trusted/``: public keys this user has decided to believe, ``KEY_ID.pem``
each. A file whose name does not fit its key is not believed, nor is a folder others may write in.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, utils

from appliance.bundle.public_keys import (
    MAX_KEY_FILE_BYTES,
    P256_ORDER,
    PublicKey,
    describe_public_key,
    load_public_key,
)
from appliance.errors import SigningKeyError, StorageError
from appliance.files import storage_errors, write_atomic

PRIVATE_KEY_FILE = "signing_key.pem"
PUBLIC_KEY_FILE = "signing_key.pub.pem"
TRUSTED_FOLDER = "trusted"
LOCK_FILE = ".lock"
MIN_PREFIX_LENGTH = 8
# OpenSSL's own limit for a passphrase of a PEM file (PEM_BUFSIZE).
MAX_PASSPHRASE_BYTES = 1023
ENCRYPTED_MARK = b"-----BEGIN ENCRYPTED PRIVATE KEY-----"

# Asked with the path of an encrypted key; gives the passphrase.
Passphrase = Callable[[Path], bytes]


@dataclass(frozen=True, slots=True, kw_only=True)
class SigningKey:
    """A private key that signs and says who it is; it cannot be printed."""

    public: PublicKey
    secret: ec.EllipticCurvePrivateKey = field(repr=False, compare=False)

    @property
    def key_id(self) -> str:
        """The key's name."""
        return self.public.key_id

    @property
    def public_pem(self) -> bytes:
        """The public key in PEM form."""
        return self.public.pem

    def sign(self, data: bytes) -> bytes:
        """The DER signature of ``data``; the same bytes every time (RFC 6979, lower half)."""
        signature = self.secret.sign(data, ec.ECDSA(hashes.SHA256(), deterministic_signing=True))
        r, s = utils.decode_dss_signature(signature)
        return utils.encode_dss_signature(r, min(s, P256_ORDER - s))


@dataclass(frozen=True, slots=True, kw_only=True)
class TrustedKeys:
    """Keys believed, by key id, and what in the folders could not be believed and why."""

    keys: Mapping[str, PublicKey]
    problems: tuple[str, ...] = ()


def default_key_dir(environment: Mapping[str, str] | None = None) -> Path:
    """The user's own key folder (XDG base directories); it may not exist."""
    values = os.environ if environment is None else environment
    configured = values.get("XDG_CONFIG_HOME", "")
    base = Path(configured) if configured.startswith("/") else Path.home() / ".config"
    return base / "plan-star-appliance" / "keys"


def secret_places(
    key_dir: Path | None = None, passphrase_file: Path | None = None
) -> tuple[Path, ...]:
    """Folders and files no stage may be shown: all that signs lies in them, links followed.

    The key folder in use and the user's own, the file each one's ``signing_key.pem`` leads to if it
    is a link, and the passphrase's file. They need not exist.
    """
    folders = {default_key_dir(), default_key_dir() if key_dir is None else key_dir}
    places = {*folders, *(folder / PRIVATE_KEY_FILE for folder in folders)}
    if passphrase_file is not None:
        places.add(passphrase_file)
    resolved = {Path(os.path.realpath(place)) for place in places}
    return tuple(
        sorted(
            place
            for place in resolved
            if not any(place != other and place.is_relative_to(other) for other in resolved)
        )
    )


def create_key(key_dir: Path | None = None, *, passphrase: bytes | None = None) -> SigningKey:
    """Make the user's signing key, encrypted when a passphrase is given.

    Raises SigningKeyError when there is a key already, or the passphrase is empty or too long.
    """
    folder = default_key_dir() if key_dir is None else key_dir
    if passphrase is not None and not 0 < len(passphrase) <= MAX_PASSPHRASE_BYTES:
        raise SigningKeyError(
            f"The passphrase is {len(passphrase)} bytes long. Give one of 1 to"
            f" {MAX_PASSPHRASE_BYTES} bytes."
        )
    _make_private_folder(folder)
    with _locked(folder):
        path = folder / PRIVATE_KEY_FILE
        if path.exists() or path.is_symlink():
            raise SigningKeyError(
                f"{path}: there is a signing key already, and it is not replaced. Bundles name it;"
                " move it away yourself if you want another, or choose another --key-dir."
            )
        _create_key(path, passphrase)
        key = _read_private_key(path, None if passphrase is None else lambda _: passphrase)
        write_atomic(folder / PUBLIC_KEY_FILE, key.public.pem, doing="writing the public key")
    return key


def is_encrypted(key_dir: Path | None = None) -> bool:
    """Whether there is a signing key that needs a passphrase. Raises SigningKeyError."""
    path = (default_key_dir() if key_dir is None else key_dir) / PRIVATE_KEY_FILE
    return path.exists() and ENCRYPTED_MARK in _read_key_file(path)


def load_or_create_key(
    key_dir: Path | None = None, *, passphrase: Passphrase | None = None
) -> SigningKey:
    """The user's signing key, made now (not encrypted) when there is none.

    ``passphrase`` is asked, with the key's path, when the key is encrypted. Safe when several
    processes come at once: all get the same key. Raises SigningKeyError when the
    key or its folder cannot be made, is damaged, or is open to other users; StorageError when the
    disk is full.
    """
    folder = default_key_dir() if key_dir is None else key_dir
    _make_private_folder(folder)
    with _locked(folder):
        path = folder / PRIVATE_KEY_FILE
        if not (path.exists() or path.is_symlink()):
            _create_key(path, None)
        key = _read_private_key(path, passphrase)
        if key.key_id not in read_own_key(folder).keys:
            path = folder / PUBLIC_KEY_FILE
            write_atomic(path, key.public.pem, doing="writing the public key")
    return key


def load_key(key_dir: Path | None = None, *, passphrase: Passphrase | None = None) -> SigningKey:
    """The user's signing key. Raises SigningKeyError when there is none or it cannot be used."""
    folder = default_key_dir() if key_dir is None else key_dir
    _check_private_folder(folder)
    return _read_private_key(folder / PRIVATE_KEY_FILE, passphrase)


def trust_key(public_key: Path, key_dir: Path | None = None) -> str:
    """Believe the key in the PEM file ``public_key`` from now on; returns its id.

    Doing it twice changes nothing. Raises SigningKeyError when it is not a usable public key or the
    folder is open to others.
    """
    key = load_public_key(public_key)
    trust_dir = trust_dir_of(key_dir)
    _make_private_folder(trust_dir)
    write_atomic(trust_dir / f"{key.key_id}.pem", key.pem, doing="writing the trusted key")
    return key.key_id


def untrust_key(key_id: str, key_dir: Path | None = None) -> str:
    """Stop believing the one key whose id begins with ``key_id``; returns its whole id.

    Raises SigningKeyError when no key or more than one begins so, or fewer than 8 digits are given.
    """
    trust_dir = trust_dir_of(key_dir)
    names = [path.stem for path in _key_files(trust_dir)]
    found = [name for name in names if name.startswith(key_id.lower())]
    if len(key_id) < MIN_PREFIX_LENGTH or len(found) != 1:
        raise SigningKeyError(
            f"{trust_dir}: {len(found)} trusted keys begin with {key_id!r}. Give at least"
            f" {MIN_PREFIX_LENGTH} digits of one of: {', '.join(names) or 'none is trusted'}."
        )
    path = trust_dir / f"{found[0]}.pem"
    with storage_errors(path, "removing the trusted key"):
        path.unlink()
    return found[0]


def list_trusted(key_dir: Path | None = None) -> Mapping[str, PublicKey]:
    """The keys this user has decided to believe, by id; what cannot be believed is left out."""
    return read_trusted_keys(trust_dir_of(key_dir)).keys


def read_trusted_keys(trust_dir: Path) -> TrustedKeys:
    """All keys of a trust folder, and its problems. A folder that does not exist holds none."""
    keys: dict[str, PublicKey] = {}
    problems: list[str] = []
    try:
        if not trust_dir.is_dir():
            return TrustedKeys(keys={})
        fault = describe_open_folder(trust_dir)
        if fault:
            return TrustedKeys(keys={}, problems=(fault,))
        paths = _key_files(trust_dir)
    except (OSError, StorageError) as error:
        return TrustedKeys(keys={}, problems=(f"{trust_dir}: cannot be read ({error}).",))
    for path in paths:
        try:
            key = load_public_key(path)
        except SigningKeyError as error:
            problems.append(str(error))
            continue
        if key.key_id != path.stem:
            problems.append(f"{path}: holds the key {key.key_id}, not the one it is named after.")
        else:
            keys[key.key_id] = key
    return TrustedKeys(keys=keys, problems=tuple(problems))


def read_own_key(key_dir: Path | None = None) -> TrustedKeys:
    """The user's own public key, when there is one; the private key is not opened."""
    folder = default_key_dir() if key_dir is None else key_dir
    path = folder / PUBLIC_KEY_FILE
    try:
        if not path.is_file():
            return TrustedKeys(keys={})
        fault = describe_open_folder(folder)
        if fault:
            return TrustedKeys(keys={}, problems=(fault,))
        key = load_public_key(path)
    except (OSError, SigningKeyError) as error:
        return TrustedKeys(keys={}, problems=(str(error),))
    return TrustedKeys(keys={key.key_id: key})


def trust_dir_of(key_dir: Path | None = None) -> Path:
    """The trust folder inside a key folder; it may not exist."""
    return (default_key_dir() if key_dir is None else key_dir) / TRUSTED_FOLDER


def describe_open_folder(folder: Path) -> str | None:
    """Why ``folder`` is not safe to hold keys (others may write in it); None when it is."""
    if folder.stat().st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        return (
            f"{folder}: other users may change the keys in this folder. Look at what is in it, then"
            f" run: chmod 700 '{folder}'"
        )
    return None


def _make_private_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise SigningKeyError(
            f"{folder}: the key folder cannot be made ({error.strerror}). Check its parent's"
            " permissions or choose another key folder."
        ) from error
    _check_private_folder(folder)


def _check_private_folder(folder: Path) -> None:
    try:
        fault = describe_open_folder(folder)
    except OSError as error:
        raise SigningKeyError(
            f"{folder}: the key folder cannot be read ({error.strerror}). The key is made by the"
            " first run."
        ) from error
    if fault:
        raise SigningKeyError(fault)


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Hold the folder's lock; it ends with the process, however that ends."""
    path = folder / LOCK_FILE
    with storage_errors(path, "locking the key folder"):
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _create_key(path: Path, passphrase: bytes | None) -> None:
    secret = ec.generate_private_key(ec.SECP256R1())
    pem = secret.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption()
        if passphrase is None
        else serialization.BestAvailableEncryption(passphrase),
    )
    # The temporary file behind write_atomic is created exclusively with mode 0600, so no other user
    # can open the key at any moment.
    write_atomic(path, pem, mode=0o600, doing="writing the signing key")


def _read_private_key(path: Path, passphrase: Passphrase | None) -> SigningKey:
    data = _read_key_file(path)
    if ENCRYPTED_MARK not in data:
        return _parse_private_key(data, path, None)
    if passphrase is None:
        raise SigningKeyError(
            f"{path}: the signing key is encrypted. Give the file that holds its passphrase with"
            " --passphrase-file, or run the command in a terminal, where it is asked for."
        )
    return _parse_private_key(data, path, passphrase(path))


def _read_key_file(path: Path) -> bytes:
    try:
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        with os.fdopen(handle, "rb") as stream:
            status = os.fstat(stream.fileno())
            data = stream.read(MAX_KEY_FILE_BYTES) if stat.S_ISREG(status.st_mode) else b""
    except OSError as error:
        raise SigningKeyError(
            f"{path}: the signing key cannot be read ({error.strerror}). The key is made by the"
            " first run; check the path and its permissions."
        ) from error
    if status.st_mode & 0o077:
        raise SigningKeyError(
            f"{path}: other users can read or change this signing key. If nobody has, run:"
            f" chmod 600 '{path}'. Otherwise move it away; the next run makes a new one."
        )
    return data


def _parse_private_key(data: bytes, path: Path, passphrase: bytes | None) -> SigningKey:
    advice = "Put back the right file, or move this one away and the next run makes a new key."
    try:
        secret = serialization.load_pem_private_key(data, password=passphrase)
    except TypeError as error:
        raise SigningKeyError(f"{path}: the signing key is damaged. {advice}") from error
    except (ValueError, UnsupportedAlgorithm) as error:
        if passphrase is not None:
            raise SigningKeyError(
                f"{path}: the passphrase does not open this signing key, or the file is damaged."
                " Try again with the right passphrase."
            ) from error
        raise SigningKeyError(f"{path}: the signing key is damaged. {advice}") from error
    if not isinstance(secret, ec.EllipticCurvePrivateKey) or secret.curve.name != "secp256r1":
        raise SigningKeyError(
            f"{path}: the signing key is not an ECDSA key on the curve P-256. {advice}"
        )
    return SigningKey(public=describe_public_key(secret.public_key()), secret=secret)


def _key_files(trust_dir: Path) -> list[Path]:
    if not trust_dir.is_dir():
        return []
    with storage_errors(trust_dir, "reading the trust folder"):
        return sorted(path for path in trust_dir.iterdir() if path.suffix == ".pem")
