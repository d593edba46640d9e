from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from hypothesis import given, settings
from hypothesis import strategies as st

from appliance.bundle.sbom import Component, describe_components, python_purl

NAMES = st.text(min_size=1, max_size=12)
DIGESTS = st.integers(0, 2**256 - 1).map(lambda number: f"{number:064x}")
COMPONENTS = st.builds(
    Component,
    name=NAMES,
    version=NAMES,
    kind=st.sampled_from(["library", "application", "container", "operating-system"]),
    purl=st.none() | NAMES.map(lambda name: python_purl(name.encode().hex(), "1.0+cpu")),
    sha256s=st.none() | st.dictionaries(NAMES, DIGESTS, max_size=3),
    properties=st.dictionaries(NAMES, st.text(max_size=5), max_size=2),
)


def describe(components: list[Component], serial: str | None = None) -> str:
    value = describe_components(
        components, subject_name="thing", subject_version="1", serial=serial
    )
    return json.dumps(value, sort_keys=True)


@settings(max_examples=60, deadline=None)
@given(components=st.lists(COMPONENTS, max_size=5), seed=st.integers(0, 100))
def test_every_document_is_valid_and_the_order_of_components_does_not_matter(
    components: list[Component], seed: int
) -> None:
    text = describe(components)
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None
    shuffled = components.copy()
    random.Random(seed).shuffle(shuffled)
    names = [item["name"] for item in json.loads(describe(shuffled))["components"]]
    assert names == [item["name"] for item in json.loads(text)["components"]]


def test_the_same_package_twice_gets_two_references() -> None:
    twice = [Component(name="a", version="1", purl="pkg:pypi/a@1")] * 2
    value = json.loads(describe(twice))
    refs = [item["bom-ref"] for item in value["components"]]
    assert refs == ["pkg:pypi/a@1", "pkg:pypi/a@1#2"]
    assert value["dependencies"][0]["dependsOn"] == refs


def test_serial_is_the_callers_or_follows_from_the_components() -> None:
    serial = "urn:uuid:3e671687-395b-41f5-a30f-a58921a69b79"
    assert json.loads(describe([], serial))["serialNumber"] == serial
    one, two = (Component(name="a", version=version) for version in "12")
    assert describe([one]) == describe([one])
    assert (
        json.loads(describe([one]))["serialNumber"] != json.loads(describe([two]))["serialNumber"]
    )
    with pytest.raises(ValueError, match="badly formed"):
        describe([], "no uuid")


def test_names_of_packages_are_normalized() -> None:
    assert python_purl("Orbax_Checkpoint", "0.12.8") == "pkg:pypi/orbax-checkpoint@0.12.8"
    assert python_purl("torch", "2.10.0+cpu") == "pkg:pypi/torch@2.10.0%2Bcpu"


def test_the_library_reads_what_we_write(tmp_path: Path) -> None:
    from cyclonedx.model.bom import Bom

    files = {"sapien/a.py": "ab" * 32}
    text = describe([Component(name="sapien", version="3", sha256s=files)])
    bom = Bom.from_json(json.loads(text))  # type: ignore[attr-defined]
    (component,) = bom.components
    (file,) = component.components
    assert (file.name, next(iter(file.hashes)).content) == ("sapien/a.py", "ab" * 32)
