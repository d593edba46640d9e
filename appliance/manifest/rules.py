"""What the schema cannot say: rules between the keys of a manifest.

Each rule is a function of the manifest and the document it was read from, and yields findings; none
looks at anything outside. A rule says what contradicts what, and every way out.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping

from appliance.manifest.finding import Document, Finding, KeyPath
from appliance.manifest.model import Manifest, SuccessRatePart
from appliance.manifest.power import (
    POWER_REQUIRED,
    bounds,
    episodes_to_confirm,
    margin_to_confirm,
    power_to_confirm,
)
from appliance.manifest.quoting import nearest_name, show_value
from appliance.manifest.schema import schema_at

Rule = Callable[[Manifest, Document], Iterator[Finding]]

MAX_NAMED = 5
# Presets that need no weights and no tokenizer of the user's.
WITH_ASSETS = ("robotwin-assets", "robotwin-checkout")
"""Simulators that play RoboTwin with its assets, in an environment of its own."""
SMALL_PRESETS = ("pi0_tiny_aloha_robotwin",)


def find_contradictions(manifest: Manifest, document: Document) -> list[Finding]:
    """The findings of all rules, errors and warnings, in the order of ``RULES``."""
    return [finding for rule in RULES for finding in rule(manifest, document)]


def find_unknown_names(
    manifest: Manifest, document: Document, known_names: Mapping[str, Collection[str]]
) -> Iterator[Finding]:
    """Values that are not among the names known for their key (``{"eval.task": (...)}``)."""
    values = manifest.as_dict()
    for key, names in known_names.items():
        if key.startswith("eval.") and manifest.eval.simulator in WITH_ASSETS:
            continue  # RoboTwin has names of its own, which it knows when it is started.
        path: KeyPath = tuple(key.split("."))
        value: object = values
        for step in path:
            value = value[step] if isinstance(value, dict) else None
        if isinstance(value, str) and value not in names:
            near = nearest_name(value, names)
            hint = "" if near is None else f"Did you mean `{near}`? "
            yield document.finding(
                path, f"{show_value(value)} is not known", f"{hint}Known: {', '.join(names)}."
            )


def check_checkpoint_is_reached(manifest: Manifest, document: Document) -> Iterator[Finding]:
    """The checkpoint to evaluate is not past the last training step."""
    step, steps = manifest.eval.checkpoint, manifest.train.steps
    if isinstance(step, int) and step > steps:
        yield document.finding(
            ("eval", "checkpoint"),
            f"{step} is past the end of training, train.steps: {steps}",
            f"Use `latest` or {steps}, or train longer.",
        )


def check_checkpoint_is_saved(manifest: Manifest, document: Document) -> Iterator[Finding]:
    """The checkpoint to evaluate is one that training keeps."""
    step, steps = manifest.eval.checkpoint, manifest.train.steps
    interval = manifest.train.save_interval
    if not isinstance(step, int) or step == -1 or step >= steps:
        return
    if interval is not None and step > 0 and step % interval == 0:
        return
    if interval is None:
        kept = f"only the last one, {steps}, because train.save_interval is null"
    else:
        kept = f"every {interval} steps and the last one, {steps}"
    near = _nearest_saved(step, steps, interval)
    interval_hint = f", or set train.save_interval to a divisor of {step}" if step > 0 else ""
    yield document.finding(
        ("eval", "checkpoint"),
        f"{step} is not saved: training keeps {kept}",
        f"Use {near}{interval_hint}.",
    )


def _nearest_saved(step: int, steps: int, interval: int | None) -> str:
    if interval is None:
        return f"`latest` or {steps}"
    below = step // interval * interval
    above = min(below + interval, steps)
    return f"{below} or {above}" if below > 0 else str(above)


def check_plan_settings_have_a_plan(manifest: Manifest, document: Document) -> Iterator[Finding]:
    """Settings that act on a plan are not given to the baseline."""
    if manifest.plan is not None:
        return
    train, expect = manifest.train, manifest.expect
    written: tuple[tuple[KeyPath, object, str], ...] = (
        (("train", "plan_aware_lr_scale"), train.plan_aware_lr_scale or None, "Set it to false"),
        (("train", "sampler_seed_override"), train.sampler_seed_override, "Set it to null"),
        (
            ("train", "sampler_replacement_override"),
            train.sampler_replacement_override,
            "Set it to null",
        ),
        (
            ("expect", "plan_sha256"),
            None if expect is None else expect.plan_sha256,
            "Set it to null",
        ),
    )
    for path, value, way_out in written:
        if value is not None:
            yield document.finding(
                path,
                f"{show_value(value)} needs a plan, and plan is null",
                f"{way_out}, or give a plan (`plan: {{}}` takes every default).",
            )


def check_subset_fits_plan(manifest: Manifest, document: Document) -> Iterator[Finding]:
    """Statistics are over the plan's frames with a plan, over all without (Plan-STaR 2)."""
    if manifest.norm_stats.mode != "recompute":
        return
    path, subset = ("norm_stats", "subset"), manifest.norm_stats.subset
    if manifest.plan is None and subset != "none":
        default = "" if document.is_written(path) else " (the default)"
        yield document.finding(
            path,
            f"{show_value(subset)}{default} needs a plan, and plan is null",
            "Write `subset: none` for statistics over the whole dataset, or give a plan.",
        )
    if manifest.plan is not None and subset == "none":
        yield document.finding(
            path,
            '"none" would take statistics over frames that the plan leaves out',
            "Use episodes_valid (recommended), episodes or anchors, or set plan to null.",
        )


def check_reuse_has_a_path(manifest: Manifest, document: Document) -> Iterator[Finding]:
    """``path`` is given with ``mode: reuse``, and only then."""
    norm_stats = manifest.norm_stats
    if norm_stats.mode == "reuse" and norm_stats.path is None:
        yield document.finding(
            ("norm_stats", "path"),
            "is missing, and norm_stats.mode is reuse",
            "Name the norm_stats.json to reuse, or set mode to recompute.",
        )
    if norm_stats.mode == "recompute" and norm_stats.path is not None:
        yield document.finding(
            ("norm_stats", "path"),
            f"{show_value(norm_stats.path)} is not used: norm_stats.mode is recompute",
            "Remove it, or set mode to reuse.",
        )


def check_smooth_window_is_odd(manifest: Manifest, document: Document) -> Iterator[Finding]:
    """A median filter has a middle (Plan-STaR 1, table)."""
    if manifest.plan is None:
        return
    window = manifest.plan["gripper_smooth_window"]
    if window % 2 == 0:
        yield document.finding(
            ("plan", "gripper_smooth_window"),
            f"{window} is even, and a median filter needs a middle",
            f"Use {window - 1} or {window + 1}.",
        )


def check_gripper_dims_differ(manifest: Manifest, document: Document) -> Iterator[Finding]:
    """Each gripper dimension is named once."""
    if manifest.plan is not None:
        yield from _find_repeated(
            ("plan", "gripper_dims"), manifest.plan["gripper_dims"], "dimension", document
        )


def check_trials_differ(manifest: Manifest, document: Document) -> Iterator[Finding]:
    """The same trial twice is no further evidence."""
    yield from _find_repeated(("eval", "trials"), manifest.eval.trials or (), "trial", document)


def _find_repeated(
    path: KeyPath, values: Collection[int], noun: str, document: Document
) -> Iterator[Finding]:
    repeated = sorted(value for value, count in Counter(values).items() if count > 1)
    if repeated:
        shown = ", ".join(map(str, repeated[:MAX_NAMED]))
        more = f" and {len(repeated) - MAX_NAMED} more" if len(repeated) > MAX_NAMED else ""
        yield document.finding(
            path, f"holds {shown}{more} more than once", f"Name each {noun} once."
        )


def check_trials_count(manifest: Manifest, document: Document) -> Iterator[Finding]:
    """As many trials are pinned as episodes are scored."""
    trials, episodes = manifest.eval.trials, manifest.eval.episodes
    if trials is not None and len(trials) != episodes:
        yield document.finding(
            ("eval", "trials"),
            f"pins {len(trials)} trials, but eval.episodes is {episodes}",
            f"Set eval.episodes to {len(trials)}, or pin {episodes} trials.",
        )


def check_weights_are_declared(manifest: Manifest, document: Document) -> Iterator[Finding]:
    """A pretrained preset says where its weights come from, or that random ones are meant."""
    train = manifest.train
    if train.init is not None or train.config in SMALL_PRESETS:
        return
    path = ("train", "init")
    if document.is_written(path):
        yield document.finding(
            path,
            f"is null: {train.config} starts from random weights, not from pi0's",
            "Such a policy is good for timing only; give init: {checkpoint, sha256} for results.",
            "warning",
        )
    else:
        yield document.finding(
            path,
            f"is missing: {train.config} fine-tunes pretrained weights",
            "Give init: {checkpoint: ..., sha256: ...}, or write `init: null` if random weights are"
            " meant.",
        )


def check_batch_divides(manifest: Manifest, document: Document) -> Iterator[Finding]:
    """The devices share a batch and the copies of the parameters evenly (pi0 spec, "Training").

    A batch size or FSDP size left to the preset is checked by training itself.
    """
    train, gpus = manifest.train, manifest.runtime.gpus
    devices = gpus or train.processes * train.cpu_devices
    named = f"{gpus} GPUs" if gpus else f"{devices} CPU devices (processes x cpu_devices)"
    if gpus % train.processes:
        yield document.finding(
            ("train", "processes"),
            f"{train.processes} processes cannot share {named} evenly",
            f"Use a divisor of {gpus}, or change runtime.gpus.",
        )
    if train.batch_size is not None and train.batch_size % devices:
        yield document.finding(
            ("train", "batch_size"),
            f"{train.batch_size} samples cannot be shared evenly by {named}",
            f"Use a multiple of {devices}, or fewer devices.",
        )
    if train.fsdp_devices is not None and devices % train.fsdp_devices:
        yield document.finding(
            ("train", "fsdp_devices"),
            f"{train.fsdp_devices} does not divide {named}",
            f"Use a divisor of {devices}.",
        )


def check_weights_are_a_file(manifest: Manifest, document: Document) -> Iterator[Finding]:
    """Stages have no network, so that weights are on this machine before the run."""
    init = manifest.train.init
    if init is not None and "://" in init.checkpoint:
        yield document.finding(
            ("train", "init", "checkpoint"),
            f"{show_value(init.checkpoint)} is on the network, and stages have none",
            "Download it once and name the folder or file; its sha256 says that it is the same.",
        )


def check_tokenizer_is_named(manifest: Manifest, document: Document) -> Iterator[Finding]:
    """A preset that reads prompts with PaliGemma's SentencePiece model is given it."""
    train = manifest.train
    if train.tokenizer is None and train.config not in SMALL_PRESETS:
        yield document.finding(
            ("train", "tokenizer"),
            f"is missing: {train.config} reads prompts with PaliGemma's SentencePiece model, which"
            " is not part of this project",
            "Give tokenizer: {path: ..., sha256: ...}.",
        )


def check_host_has_no_gpus(manifest: Manifest, document: Document) -> Iterator[Finding]:
    """The host engine does not hand out GPUs."""
    runtime = manifest.runtime
    if runtime.engine == "host" and runtime.gpus > 0:
        yield document.finding(
            ("runtime", "gpus"),
            f"{runtime.gpus} cannot be given to a stage: runtime.engine is host, which runs stages"
            " on the CPU",
            "Use 0, or another engine.",
        )


def check_margin_can_be_decided(manifest: Manifest, document: Document) -> Iterator[Finding]:
    """The planned episodes can confirm the claimed success rate if it is true."""
    claim = None if manifest.expect is None else manifest.expect.success_rate
    if claim is None:
        return
    path, episodes = ("expect", "success_rate", "margin"), manifest.eval.episodes
    if bounds(claim.value, claim.margin) == (None, None):
        yield document.finding(
            path,
            f"{claim.margin} around {claim.value} covers every rate from 0 to 1, so nothing could"
            " contradict it",
            f"Use less than {max(claim.value, round(1 - claim.value, 9))}.",
        )
        return
    power = power_to_confirm(episodes, claim.value, claim.margin, claim.alpha)
    if power < POWER_REQUIRED:
        yield document.finding(
            path,
            f"eval.episodes: {episodes} is too few to decide a margin of {claim.margin} around"
            f" {claim.value} at alpha {claim.alpha}: a true claim would be confirmed with"
            f" probability {power:.2f}, and {POWER_REQUIRED} is required",
            _offer_ways_out(claim, episodes),
        )


def _offer_ways_out(claim: SuccessRatePart, episodes: int) -> str:
    most = int(schema_at(("eval", "episodes"))["maximum"])
    enough = episodes_to_confirm(claim.value, claim.margin, claim.alpha, most)
    margin = margin_to_confirm(episodes, claim.value, claim.alpha)
    ways = [
        *([] if enough is None else [f"set eval.episodes to {enough}"]),
        *([] if margin is None else [f"widen the margin to {margin}"]),
    ]
    if not ways:
        return "Use more episodes and a wider margin."
    sentence = ", or ".join(ways)
    return f"{sentence[0].upper()}{sentence[1:]}."


def check_checkout_is_given(manifest: Manifest, document: Document) -> Iterator[Finding]:
    """Where RoboTwin's assets are is named for the simulators that use them, and only for those."""
    checkout, simulator = manifest.eval.checkout, manifest.eval.simulator
    if simulator in WITH_ASSETS and checkout is None:
        yield document.finding(
            ("eval", "checkout"),
            f"is missing, and eval.simulator is {simulator}",
            "Give checkout: {path: ..., python: ...}, or use `simulator: robotwin`.",
        )
    if simulator not in WITH_ASSETS and checkout is not None:
        yield document.finding(
            ("eval", "checkout"),
            f"is not used: eval.simulator is {simulator}",
            f"Remove it, or set simulator to {' or '.join(WITH_ASSETS)}.",
        )


RULES: tuple[Rule, ...] = (
    check_checkout_is_given,
    check_checkpoint_is_reached,
    check_checkpoint_is_saved,
    check_plan_settings_have_a_plan,
    check_subset_fits_plan,
    check_reuse_has_a_path,
    check_smooth_window_is_odd,
    check_gripper_dims_differ,
    check_trials_differ,
    check_trials_count,
    check_weights_are_declared,
    check_batch_divides,
    check_weights_are_a_file,
    check_tokenizer_is_named,
    check_host_has_no_gpus,
    check_margin_can_be_decided,
)
