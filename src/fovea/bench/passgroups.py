"""The benchmarks that run the lm: groups of variants, and the numbers drawn from them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from fovea.bench.driver import OURS, Measured, Variant
from fovea.bench.evaluated import evaluated_saes
from fovea.bench.machine import has_bf16
from fovea.bench.material import bench_folder, load_subject, text_file
from fovea.bench.passes import lm_flops
from fovea.bench.suite import PEAK, Group, Plan, peak_variants, schedule_of
from fovea.bench.summary import MULTI, RUN_EVALS, SEPARATE, fit_line, ratio, summarise
from fovea.bundled.model import model_folder
from fovea.data.activations import spread
from fovea.lm.hookpoint import HookPoint
from fovea.sae.files import load_sae, save_sae
from fovea.tensorfile import write_tensors


class Swept(NamedTuple):
    """A method of the post's grid."""

    method: str
    sparsities: tuple[int, ...]
    starts_from_general: bool
    "Then it has g's width, else d_sae_many."


GRID = (
    Swept("direct", (24, 40, 64), False),
    Swept("finetune", (24, 40, 64), True),
    Swept("ssae", (8, 16, 32), False),
)
"Three methods at three sparsities."
LM_ALONE = "lm pass alone"
CE_ALONE = f"{OURS}, CE alone"
WHOLE, SAME = "whole forwards, CE alone", "whole forwards, the same measures"
_CONTEXTS_PER_BATCH = 8
_LINE_ROWS = 3968
"Rows a step of the line: what 32 contexts of 128 tokens surely leave after the filter."


def lm_dtypes() -> list[str]:
    """Precisions of the lm that this processor has."""
    return ["float32", "bfloat16"] if has_bf16() else ["float32"]


def best_dtype() -> str:
    """What a user of this machine would run the lm in."""
    return lm_dtypes()[-1]


def harvest_groups(plan: Plan) -> list[Group]:
    """Tokens per second to the hook point, counted in the lm's FLOPs; with compiled layers too, where they can be."""
    from fovea.lm.compiled import compiler  # brings torch's compiler

    settings = plan.config.lm
    subject = load_subject(settings, dtype="float32")
    flops = lm_flops(subject.lm, subject.hook_point, settings.context_size)
    variants = [
        Variant(
            (OURS if dtype == "float32" else f"{OURS} bf16") + (", compiled" if compiled else ""),
            OURS,
            {"kind": "harvest", "lm": settings.model_dump(), "dtype": dtype, "compiled": compiled},
            flops,
        )
        for dtype in lm_dtypes()
        for compiled in ([False, True] if compiler()[1] else [False])
    ]
    about = {"hook_point": settings.hook_point, "context_size": settings.context_size, "flops_per_token": flops}
    title = f"harvest to {settings.hook_point}, context {settings.context_size}"
    return [Group(title, about, [*variants, *peak_variants()], schedule_of(plan, "default"), peak=PEAK)]


def line_groups(plan: Plan) -> list[Group]:
    """One pass of the lm with 0, 1, 3, ... SAEs trained on it."""
    step = plan.config.step
    common = {
        "kind": "line",
        "lm": plan.config.lm.model_dump(),
        "dtype": best_dtype(),
        "arch": "topk",
        "d_sae": step.d_sae_many,
        "k": step.k,
        "batch_size": _LINE_ROWS * plan.config.lm.context_size // 128,
    }
    variants = [Variant(LM_ALONE, OURS, common | {"n": 0})]
    variants += [Variant(f"{n} SAEs", OURS, common | {"n": n}) for n in plan.config.lm.line_saes]
    about = {"d_sae": step.d_sae_many, "k": step.k, "lm_dtype": best_dtype(), "allocator": "tuned"}
    title = f"one pass, N topk SAEs of {step.d_sae_many:,} latents, lm in {best_dtype()}"
    return [Group(title, about, variants, schedule_of(plan, "tuned", warm_ups=1), base=LM_ALONE)]


def line_numbers(measured: list[list[Measured]]) -> dict[str, Any]:
    """The fitted line: us a token of the pass, and of one more SAE."""
    (found,) = measured
    done = [each for each in found if each.rounds]
    n_saes = [float(each.variant.task["n"]) for each in done]
    times = [summarise(each.rounds).us_per_token for each in done]
    if len(done) < 2:
        return {}
    fitted = fit_line(n_saes, times)
    return {
        "us_per_token_of_the_pass": fitted.intercept,
        "us_per_token_of_one_more_sae": fitted.slope,
        "r_squared": fitted.r_squared,
        "one_more_sae_as_share_of_lm_pass": fitted.slope / times[0],
    }


def e2e_groups(plan: Plan) -> list[Group]:
    """The post's grid trained from text to files: nine SAEs in one pass, nine sae-lens runs, its multi-SAE trainer."""
    settings, step = plan.config.lm, plan.config.step
    variants = [Variant(OURS, OURS, {"kind": "e2e", "experiment": _experiment(plan)})]
    if "sae-lens" in plan.peers:
        general = load_sae(settings.general_sae)
        folder = bench_folder() / "general"
        if not folder.exists():
            save_sae(general.sae, folder, metadata=general.metadata)
        hook = HookPoint.parse(settings.hook_point)
        task = {
            "model": _model_folder(settings.model),
            "hook_name": hook.hugging_face(),
            "dtype": best_dtype(),
            "texts": str(text_file(settings.corpus)),
            "context_size": settings.context_size,
            "train_tokens": settings.train_tokens,
            "batch_size": step.batch_size,
            "general": str(folder),
            "saes": _grid(general.sae.d_in, general.sae.d_sae, step.d_sae_many),
        }
        variants += [
            Variant(SEPARATE, "sae-lens", task | {"kind": "separate"}, max_rounds=settings.separate_rounds),
            Variant(MULTI, "sae-lens", task | {"kind": "multi"}),
        ]
    about = {"train_tokens": settings.train_tokens, "n_saes": 9, "lm_dtype": best_dtype()}
    title = f"the post's grid, nine SAEs on {settings.train_tokens:,} tokens each, lm in {best_dtype()}"
    return [
        Group(
            f"{title}, {allocator} allocator",
            about | {"allocator": allocator},
            variants,
            schedule_of(plan, allocator, seconds=0.0, warm_ups=0),
        )
        for allocator in plan.config.allocators[-1:]
    ]


def e2e_numbers(measured: list[list[Measured]]) -> dict[str, Any]:
    """Where fovea's time went, in the last round."""
    seconds = next((each.results.get("seconds", {}) for each in measured[0] if each.variant.name == OURS), {})
    return {f"fovea, seconds: {stage}": value for stage, value in seconds.items()}


def _grid(d_in: int, d_general: int, d_small: int) -> list[dict[str, Any]]:
    """The nine as sae-lens trains them. It has no residual target: an SSAE's stand-in rebuilds x, which is cheaper."""
    return [
        {
            "arch": "batch_topk",
            "d_in": d_in,
            "d_sae": d_general if swept.starts_from_general else d_small,
            "k": k,
            "starts_from_general": swept.starts_from_general,
        }
        for swept in GRID
        for k in swept.sparsities
    ]


def _experiment(plan: Plan) -> dict[str, Any]:
    """The same nine as a fovea experiment. Its buffer is as large as sae-lens's."""
    settings, step = plan.config.lm, plan.config.step
    jobs = [
        {"method": {"kind": swept.method}, "sae": {"kind": "batch_topk", "k": k} | width}
        for swept in GRID
        for width in [{} if swept.starts_from_general else {"d_sae": step.d_sae_many}]
        for k in swept.sparsities
    ]
    enough = 3 * settings.train_tokens // 2 + 4 * step.batch_size
    return {
        "name": "bench",
        "lm": {"model": settings.model, "hook_point": settings.hook_point, "dtype": best_dtype()},
        "text": {"context_size": settings.context_size, "contexts_per_chunk": 16},  # short: a chunk is read as a whole
        "general": {"sae": settings.general_sae, "max_train_tokens": enough, "max_heldout_tokens": 16_384},
        "domain": [
            {"name": "domain", "corpus": settings.corpus, "max_train_tokens": enough, "max_heldout_tokens": 16_384}
        ],
        "train": {
            "n_tokens": settings.train_tokens,
            "batch_size": step.batch_size,
            "buffer_rows": 2 * step.batch_size,
        },
        "job": jobs,
        "controls": None,
        "features": None,
    }


def eval_groups(plan: Plan) -> list[Group]:
    """CE of nine SAEs patched into the lm, equal tokens: one pass, whole forwards, sae-lens's run_evals."""
    settings = plan.config.lm
    saes = evaluated_saes(plan.config)
    task: dict[str, Any] = {
        "lm": settings.model_dump(),
        "dtype": best_dtype(),
        "saes": [str(folder) for folder in saes],
        "n_contexts": settings.eval_contexts,
        "contexts_per_batch": min(_CONTEXTS_PER_BATCH, settings.eval_contexts),
    }
    variants = [
        Variant(OURS, OURS, task | {"kind": "eval", "same": True}),
        Variant(CE_ALONE, OURS, task | {"kind": "eval", "same": False}),
        Variant(WHOLE, OURS, task | {"kind": "whole_forwards", "same": False}),
        Variant(SAME, OURS, task | {"kind": "whole_forwards", "same": True}),
    ]
    if "sae-lens" in plan.peers:
        variants.append(Variant(RUN_EVALS, "sae-lens", _sae_lens_eval(plan, saes)))
    about = {"n_saes": len(saes), "tokens": settings.eval_contexts * settings.context_size, "lm_dtype": best_dtype()}
    title = f"evaluation of {len(saes)} SAEs on {about['tokens']:,} tokens, lm in {best_dtype()}"
    allocator = plan.config.allocators[-1]
    schedule = schedule_of(plan, allocator, seconds=0.0, warm_ups=0)
    return [Group(f"{title}, {allocator} allocator", about | {"allocator": allocator}, variants, schedule)]


def _sae_lens_eval(plan: Plan, saes: list[Path]) -> Mapping[str, Any]:
    settings = plan.config.lm
    subject = load_subject(settings, dtype="float32")
    packed = subject.corpus.heldout
    path = bench_folder() / "eval-tokens.safetensors"
    write_tensors(path, {"tokens": packed.batch(spread(packed.n_contexts, settings.eval_contexts)).tokens})
    return {
        "kind": "eval",
        "model": _model_folder(settings.model),
        "hook_name": HookPoint.parse(settings.hook_point).hugging_face(),
        "dtype": best_dtype(),
        "d_in": subject.lm.d_model,
        "saes": [str(folder) for folder in saes],
        "tokens": str(path),
        "contexts_per_batch": min(_CONTEXTS_PER_BATCH, settings.eval_contexts),
    }


def eval_numbers(measured: list[list[Measured]]) -> dict[str, Any]:
    """Speed against each alternative, and how far the losses of the two ways differ."""
    (found,) = measured
    by_name = {each.variant.name: each for each in found if each.rounds}
    if OURS not in by_name:
        return {}
    own = by_name[OURS]
    pairs = [(name, OURS) for name in by_name if name not in (OURS, CE_ALONE, WHOLE)] + [(WHOLE, CE_ALONE)]
    numbers: dict[str, Any] = {
        f"{name}: times as long as {ours}": ratio(by_name[name].rounds, by_name[ours].rounds)
        for name, ours in pairs
        if name in by_name and ours in by_name
    }
    if WHOLE in by_name:
        theirs = by_name[WHOLE].results["ce"]
        numbers["largest difference of a loss against whole forwards, nats"] = max(
            abs(theirs[name] - value) for name, value in own.results["ce"].items()
        )
    return numbers


def _model_folder(reference: str) -> str:
    return str(model_folder()) if reference.startswith("bundled:") else reference
