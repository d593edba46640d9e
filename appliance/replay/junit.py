"""A replay as JUnit XML, the form that CI systems show as test results.

One suite a target, one case a level and a stage: ``failure`` for what contradicts the original,
``skipped`` for what was not tested, ``error`` for a target that could not be replayed.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from xml.etree.ElementTree import Element, SubElement, indent, tostring

from appliance.files import write_atomic
from appliance.replay.levels import Level, LevelResult, LevelStatus
from appliance.replay.replay import Replay
from appliance.replay.text import describe_stage, format_replay
from appliance.replay.verdict import Conclusion


def write_junit(path: Path, replays: Sequence[Replay], errors: Sequence[tuple[str, str]]) -> None:
    """Write the results of ``replays`` and the ``errors`` (target, text). Raises StorageError."""
    root = Element("testsuites", name="appliance replay")
    for replay in replays:
        _add_suite(root, replay)
    for label, text in errors:
        suite = SubElement(root, "testsuite", name=_safe(label))
        case = SubElement(suite, "testcase", classname=_safe(label), name="replay")
        SubElement(case, "error", message=_safe(text.splitlines()[0])).text = _safe(text)
        _count(suite)
    _count(root)
    indent(root)
    write_atomic(path, tostring(root, encoding="utf-8", xml_declaration=True) + b"\n")


def _add_suite(root: Element, replay: Replay) -> None:
    label = _safe(replay.subject.label)
    suite = SubElement(root, "testsuite", name=label, timestamp=replay.started_utc[:19])
    verdict = replay.verdict
    case = SubElement(suite, "testcase", classname=label, name="verdict")
    if verdict.conclusion is not Conclusion.REPRODUCED:
        text = f"{verdict.conclusion.value}: {verdict.reason}"
        SubElement(case, "failure", message=_safe(text)).text = _safe(format_replay(replay))
    for level, result in verdict.levels.items():
        _add_level(suite, label, level, result)
    for name, stage in replay.stages.items():
        case = SubElement(
            suite,
            "testcase",
            classname=label,
            name=f"stage {name}",
            time=f"{replay.seconds.get(name, 0.0):.3f}",
        )
        if stage.first_difference is not None:
            rows = "\n".join(row.sentence for row in stage.differences[:50])
            message = stage.first_difference.sentence
            SubElement(case, "failure", message=_safe(message)).text = _safe(rows)
        else:
            SubElement(case, "system-out").text = _safe(describe_stage(stage))
    _count(suite)


def _add_level(suite: Element, label: str, level: Level, result: LevelResult) -> None:
    case = SubElement(suite, "testcase", classname=label, name=f"level {level.value}")
    if result.status is LevelStatus.CONTRADICTED:
        SubElement(case, "failure", message=_safe(result.reason))
    elif result.status in (LevelStatus.NOT_TESTED, LevelStatus.UNDECIDED):
        SubElement(case, "skipped", message=_safe(f"{result.status.value}: {result.reason}"))
    else:
        text = f"{result.status.value}: {result.reason}"
        SubElement(case, "system-out").text = _safe(text)


def _count(element: Element) -> None:
    for name, tag in (("tests", "testcase"), ("failures", "failure"), ("errors", "error")):
        element.set(name, str(sum(1 for _ in element.iter(tag))))
    element.set("skipped", str(sum(1 for _ in element.iter("skipped"))))


def _safe(text: str) -> str:
    """Text without characters that XML cannot hold."""
    return "".join(each if each in "\n\t" or each.isprintable() else "\ufffd" for each in text)
