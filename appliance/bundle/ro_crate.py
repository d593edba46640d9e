"""``ro-crate-metadata.json``: the bundle as a Provenance Run Crate, for who collects research.

Profiles: RO-Crate 1.1, Workflow RO-Crate 1.0, Workflow Run RO-Crate 0.5 (process, workflow,
provenance). The normalized manifest is the workflow; each step of the run is a step of it, carried
out by one tool in one action with the times, inputs and results the run recorded. Nothing is said
that the bundle does not record: no author, no licence.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any
from urllib.parse import quote

from appliance.bundle.layout import ARTIFACTS, CONTENT, CRATE_FILE, OBSERVED
from appliance.bundle.step import Step

CRATE_CONTEXT = "https://w3id.org/ro/crate/1.1/context"
CRATE_VERSION = "https://w3id.org/ro/crate/1.1"
WORKFLOW_CRATE = "https://w3id.org/workflowhub/workflow-ro-crate/1.0"
RUN_CRATES = {
    "https://w3id.org/ro/wfrun/process/0.5": "Process Run Crate",
    "https://w3id.org/ro/wfrun/workflow/0.5": "Workflow Run Crate",
    "https://w3id.org/ro/wfrun/provenance/0.5": "Provenance Run Crate",
}
# Terms that not every copy of the context holds, or holds alike.
TERMS = {
    "ComputationalWorkflow": "https://bioschemas.org/ComputationalWorkflow",
    "FormalParameter": "https://bioschemas.org/FormalParameter",
    "input": "https://bioschemas.org/ComputationalWorkflow#input",
    "output": "https://bioschemas.org/ComputationalWorkflow#output",
    "sha256": "https://w3id.org/ro/terms/workflow-run#sha256",
}
WORKFLOW_FILE = f"{CONTENT}/manifest.json"
MEDIA_TYPES = {
    "json": "application/json",
    "jsonl": "application/jsonl",
    "sigstore.json": "application/vnd.dev.sigstore.bundle.v0.3+json",
    "md": "text/markdown",
    "html": "text/html",
    "yaml": "application/yaml",
    "txt": "text/plain",
    "log": "text/plain",
    "csv": "text/csv",
    "pem": "application/x-pem-file",
    "mp4": "video/mp4",
    "svg": "image/svg+xml",
    "link": "application/json",
    "layout": "application/json",
    "sig": "application/vnd.dev.sigstore.bundle.v0.3+json",
}


def build_crate(
    *,
    name: str,
    content_digest: str,
    digests: Mapping[str, str],
    unsigned: Sequence[str],
    steps: Sequence[Step],
    version: str,
    published_on: str,
) -> dict[str, Any]:
    """The metadata as JSON values.

    ``digests`` maps the bundle's files to SHA-256 and holds the workflow file; ``unsigned`` names
    the files that will be written after this one. ``published_on`` is an ISO 8601 date or time.
    """
    files = sorted([*digests, *unsigned])
    graph = [
        _descriptor(),
        _root(name, content_digest, files, steps, published_on),
        *({"@id": iri, "@type": "CreativeWork", **_profile(iri)} for iri in _profiles()),
        *(_file(path, digests.get(path), steps) for path in files),
        *_describe_tools(steps, version),
        *_describe_actions(name, files, steps),
    ]
    return {"@context": [CRATE_CONTEXT, TERMS], "@graph": graph}


def _descriptor() -> dict[str, Any]:
    return {
        "@id": CRATE_FILE,
        "@type": "CreativeWork",
        "about": {"@id": "./"},
        "conformsTo": [{"@id": CRATE_VERSION}, {"@id": WORKFLOW_CRATE}],
    }


def _root(
    name: str, content_digest: str, files: list[str], steps: Sequence[Step], published_on: str
) -> dict[str, Any]:
    return {
        "@id": "./",
        "@type": "Dataset",
        "name": name,
        "description": (
            f"Audit bundle of the run {name}: what was trained and evaluated, how, and with which"
            f" result. Content digest {content_digest}. VERIFY.md says how to check it."
        ),
        "identifier": content_digest,
        "datePublished": published_on,
        "license": {"@id": "#rights"},
        "conformsTo": _references(_profiles()),
        "mainEntity": {"@id": WORKFLOW_FILE},
        "hasPart": _references(_file_id(path) for path in files),
        "mentions": _references(
            ("#run", "#execution", *(f"#action-{step.name}" for step in steps))
        ),
    }


def _profiles() -> list[str]:
    return [*RUN_CRATES, WORKFLOW_CRATE]


def _profile(iri: str) -> dict[str, Any]:
    return {"name": RUN_CRATES.get(iri, "Workflow RO-Crate"), "version": iri.rpartition("/")[2]}


def _file(path: str, sha256: str | None, steps: Sequence[Step]) -> dict[str, Any]:
    fields: dict[str, Any] = {"@id": _file_id(path), "@type": "File", "name": path}
    suffix = path.rpartition("/")[2].partition(".")[2]
    media_type = MEDIA_TYPES.get(suffix) or MEDIA_TYPES.get(suffix.rpartition(".")[2])
    fields["encodingFormat"] = media_type or "application/octet-stream"
    if sha256:
        fields["sha256"] = sha256
    if path == WORKFLOW_FILE:
        fields |= {
            "@type": ["File", "SoftwareSourceCode", "ComputationalWorkflow", "HowTo"],
            "name": "The run's normalized manifest",
            "version": "1",
            "programmingLanguage": {"@id": "#manifest-language"},
            "hasPart": _references(_tool_id(step) for step in steps),
            "step": _references(_step_id(step) for step in steps),
        }
    return fields


def _describe_tools(steps: Sequence[Step], version: str) -> list[dict[str, Any]]:
    """The engine, the manifest's language, and for each step its place and its tool."""
    rights = {
        "@id": "#rights",
        "@type": "CreativeWork",
        "name": "No licence stated",
        "description": "The signer of this bundle has not stated a licence for it.",
    }
    language = {
        "@id": "#manifest-language",
        "@type": "ComputerLanguage",
        "name": "plan-star-appliance manifest",
        "version": "1",
        "url": {"@id": "https://json-schema.org/draft/2020-12/schema"},
        "identifier": {"@id": "https://json-schema.org/draft/2020-12/schema"},
    }
    engine = {
        "@id": "#engine",
        "@type": "SoftwareApplication",
        "name": "plan-star-appliance",
        "softwareVersion": version,
    }
    described: list[dict[str, Any]] = [rights, language, engine]
    for position, step in enumerate(steps, start=1):
        described.append(
            {
                "@id": _step_id(step),
                "@type": "HowToStep",
                "name": step.name,
                "position": str(position),
                "workExample": {"@id": _tool_id(step)},
            }
        )
        described.append(
            {
                "@id": _tool_id(step),
                "@type": "SoftwareApplication",
                "name": f"appliance stage {step.name}",
                "softwareVersion": version,
            }
        )
    return described


def _describe_actions(name: str, files: list[str], steps: Sequence[Step]) -> list[dict[str, Any]]:
    """The run as a whole, and each step as an action that its engine controlled."""
    starts = [step.started_on for step in steps if step.started_on]
    ends = [step.finished_on for step in steps if step.finished_on]
    times = _times(min(starts, default=None), max(ends, default=None))
    results = [_file_id(path) for path in files if _owner(path, steps)]
    run = {
        "@id": "#run",
        "@type": "CreateAction",
        "name": f"Run of {name}",
        "description": "The whole run, from the pinned data to the evaluated policy.",
        "instrument": {"@id": WORKFLOW_FILE},
        "result": _references(results),
        "actionStatus": {"@id": "http://schema.org/CompletedActionStatus"},
        **times,
    }
    execution = {
        "@id": "#execution",
        "@type": "OrganizeAction",
        "name": f"Execution of {name} by the appliance",
        "instrument": {"@id": "#engine"},
        "object": _references(f"#control-{step.name}" for step in steps),
        "result": {"@id": "#run"},
        **times,
    }
    described: list[dict[str, Any]] = [run, execution]
    for step in steps:
        described.append(
            {
                "@id": f"#control-{step.name}",
                "@type": "ControlAction",
                "name": f"Control of {step.name}",
                "instrument": {"@id": _step_id(step)},
                "object": {"@id": f"#action-{step.name}"},
                **_times(step.started_on, step.finished_on),
            }
        )
        read = [path for path in files if (owner := _owner(path, steps)) and owner in step.upstream]
        described.append(
            {
                "@id": f"#action-{step.name}",
                "@type": "CreateAction",
                "name": f"Run of step {step.name}",
                "description": f"`{' '.join(step.command) or step.name}`, once.",
                "instrument": {"@id": _tool_id(step)},
                "object": _references([WORKFLOW_FILE, *map(_file_id, read)]),
                "result": _references(
                    _file_id(path) for path in files if _owner(path, steps) == step.name
                ),
                "actionStatus": {"@id": "http://schema.org/CompletedActionStatus"},
                **_times(step.started_on, step.finished_on),
            }
        )
    return described


def _owner(path: str, steps: Sequence[Step]) -> str | None:
    """The step whose product the file is: ``content/STEP/...``, ``observed/STEP/...`` and so on."""
    top, _, rest = path.partition("/")
    name = rest.partition("/")[0]
    known = top in (CONTENT, OBSERVED, ARTIFACTS) and any(step.name == name for step in steps)
    return name if known else None


def _times(started_on: str | None, finished_on: str | None) -> dict[str, str]:
    times = {"startTime": started_on, "endTime": finished_on}
    # With an offset in digits, the only form the profile's validator takes.
    return {
        name: re.sub("Z$", "+00:00", value) for name, value in times.items() if value is not None
    }


def _references(ids: Iterable[str]) -> list[dict[str, str]] | dict[str, str]:
    """Links to entities; RO-Crate asks for one alone to stand without a list around it."""
    found = [{"@id": value} for value in ids]
    return found[0] if len(found) == 1 else found


def _file_id(path: str) -> str:
    """A path as a relative URI; names in a bundle are plain ASCII, so little needs an escape."""
    return quote(path, safe="/._-~!$&'()+,;=@")


def _step_id(step: Step) -> str:
    return f"#step-{step.name}"


def _tool_id(step: Step) -> str:
    return f"#tool-{step.name}"
