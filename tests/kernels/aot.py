"""Compile the kernels for GPUs that are not here, and say what became of them.

`python tests/kernels/aot.py` prints the table of docs/kernels.md; with --json, the facts behind
it; with --quick, of fewer variants.
Compiling needs Triton's compiler, not a GPU, and kernels that are not interpreted.
"""

import json
import os
import re
import subprocess
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

os.environ["TRITON_INTERPRET"] = "0"

import triton
from fastedit_kernels import (
    best_outside,
    compact,
    draft_and_corrupt,
    joint_threshold,
    row_partials,
    row_stats,
    splits,
)
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

TARGETS = {
    "sm_80": GPUTarget("cuda", 80, 32),
    "sm_90": GPUTarget("cuda", 90, 32),
    "sm_100": GPUTarget("cuda", 100, 32),
    "gfx942": GPUTarget("hip", "gfx942", 64),
}
POINTERS = {
    "*i64": "ids current token_out top_k seed start xt x0 example position z_out labels_out "
    "n_err_out forward draw_top_k top_tokens_out sample_out excluded ids_out",
    "*fp32": "threshold editing_threshold numbers temperature top_p prob_out prob_current_out "
    "lse_out entropy_out top_out total_out best_out p_draft_out top_probs_out sample_prob_out",
    "*i32": "max_post_steps num_to_transfer post_steps forwards m2t_commits t2t_edits forbid "
    "tokens counters cu cu_out",
    "*i1": "done dirty bad editable bad_out eligible only keep",
    "*u8": "kinds_out",
}
TYPES = {name: kind for kind, names in POINTERS.items() for name in names.split()}
SIXTEENS = {"logits", "gap", "stride", "logits_block", "logits_stride", "vocab"}
DRAWS = ("temperature", "top_k", "top_p", "seed", "start")
ROW_DRAWS = ("seed", "position", "forward", "draw_top_k", "top_p", "sample_out", "sample_prob_out")

LLADA2, QWEN = 157184, 151936  # vocabularies: 32 splits of 4912, and 19 of at most 8192
# Kernel, vocabulary, logits, multiples of 16 everywhere, targets, and those that --quick leaves
# out: a second one, or a kernel that is part of another one here.
VARIANTS = [
    ("row_stats", LLADA2, "bf16", True, [*TARGETS], []),
    ("row_stats", LLADA2, "bf16", False, ["sm_90"], ["gfx942"]),
    ("row_stats", LLADA2, "fp32", True, ["sm_90"], ["gfx942"]),
    ("row_stats with top_k", LLADA2, "bf16", True, [], ["sm_90", "gfx942"]),
    ("row_stats with only", LLADA2, "bf16", True, ["sm_90"], ["gfx942"]),
    ("row_stats with sampling", LLADA2, "bf16", True, [], ["sm_90"]),
    ("row_stats with top_k and sampling", LLADA2, "bf16", True, [*TARGETS], []),
    ("row_partials", LLADA2 // 8, "bf16", True, ["sm_90", "gfx942"], []),
    ("best_outside", LLADA2, "bf16", True, [*TARGETS], []),
    ("joint_threshold", LLADA2, "bf16", True, [*TARGETS], []),
    ("joint_threshold", LLADA2, "bf16", False, ["sm_90", "gfx942"], []),
    ("joint_threshold", QWEN, "bf16", True, ["sm_90"], ["gfx942"]),
    ("joint_threshold with sampling", LLADA2, "bf16", True, ["sm_90"], ["gfx942"]),
    ("draft_and_corrupt", LLADA2, "bf16", True, [*TARGETS], []),
    ("draft_and_corrupt", LLADA2, "bf16", False, ["sm_90"], ["gfx942"]),
    ("draft_and_corrupt with sampling", LLADA2, "bf16", True, ["sm_90"], ["gfx942"]),
]
MOVES = ["rewrite_blocks", "compact"]  # without logits, on all targets


def compiled(kernel: str, vocab: int, logits: str, aligned: bool, target: GPUTarget):
    sampling = kernel.endswith("sampling")
    fn = {
        "row_stats": row_stats.row_stats_kernel,
        "row_partials": row_partials.row_partials_kernel,
        "best_outside": best_outside.best_outside_kernel,
        "draft_and_corrupt": draft_and_corrupt.draft_and_corrupt_kernel,
        "joint_threshold": joint_threshold.joint_threshold_kernel,
    }[kernel.split()[0]]
    width = splits.split_width(vocab)
    many = triton.next_power_of_2(triton.cdiv(vocab, width))
    fixed = {"SPLIT": width, "SPLITS": many, "TILE": splits.TILE}
    kinds = TYPES | {"logits": f"*{logits}"}
    if fn is row_stats.row_stats_kernel:
        ranks = 8 if "top_k" in kernel else 0
        per_row = kernel != "row_stats"
        fixed |= {
            "GAPS": False,
            "ENTROPY": True,
            "PER_ROW": per_row,
            "TOP_K": ranks,
            "SAMPLING": sampling,
            "ONLY": "only" in kernel,
        }
        fixed |= {} if sampling else dict.fromkeys(ROW_DRAWS)
        fixed |= {} if ranks else dict.fromkeys(("top_tokens_out", "top_probs_out"))
        kinds |= {"only": "i32"} | ({} if per_row else {"temperature": "fp32"})
    elif fn is best_outside.best_outside_kernel:
        fixed |= {"GAPS": False, "ONLY": True}
    elif fn is draft_and_corrupt.draft_and_corrupt_kernel:
        fixed["SAMPLING"] = sampling
        kinds["temperature"] = "fp32"
        kinds |= {p.name: p.annotation_type for p in fn.params if p.annotation_type}
    elif fn is joint_threshold.joint_threshold_kernel:
        fixed |= {"PLACES": 32, "SAMPLING": sampling}
        fixed |= {} if sampling else dict.fromkeys(DRAWS)
    return assembly(fn, kinds, fixed, SIXTEENS if aligned else set(), target)


def compiled_move(kernel: str, target: GPUTarget):
    planes, blanks = ("*i1", "*fp32", "*i32", "*i64"), ("i32", "fp32", "i32", "i64")
    kinds = TYPES | {"planes": planes, "planes_out": planes, "blanks": blanks}
    if kernel == "rewrite_blocks":
        kinds |= {"insert": "*i1", "fixed": "*i1"}
        constants = {"WIDTH": 32, "FIXED": True}
        return assembly(compact.rewrite_blocks_kernel, kinds, constants, set(), target)
    kinds |= {"insert": "*i64", "room": "*i64"}
    fixed = {"WIDTH": compact.MOST, "ROOM": True}
    return assembly(compact.compact_kernel, kinds, fixed, set(), target)


def assembly(fn, kinds: dict, fixed: dict, sixteens: set[str], target: GPUTarget):
    """`kinds`: types of the arguments, 32-bit integers if not given; `fixed`: constants."""
    signature = {
        name: "constexpr" if name in fixed else kinds.get(name, "i32") for name in fn.arg_names
    }
    at = {name: (i,) for i, name in enumerate(fn.arg_names)}
    attrs = {at[n]: [["tt.divisibility", 16]] for n in sixteens & set(at)}
    source = ASTSource(fn, signature, {at[n]: value for n, value in fixed.items()}, attrs)
    warps = 128 // target.warp_size
    return triton.compile(source, target=target, options={"num_warps": warps}).asm


def events(code: str, **words: str) -> list[str]:
    """Which of the named instructions follow each other, in the order of the text."""
    found = []
    for line in code.splitlines():
        found += [name for name, word in words.items() if word in line]
    return found


def nvidia(ptx: str) -> dict:
    arch = re.search(r"\.target (\w+)", ptx)[1]
    ptxas = Path(triton.__file__).parent / "backends/nvidia/bin/ptxas"
    if "100" in arch and ptxas.with_name("ptxas-blackwell").exists():
        ptxas = ptxas.with_name("ptxas-blackwell")
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "kernel.ptx")
        source.write_text(ptx)
        done = subprocess.run(
            [ptxas, "-v", f"-arch={arch}", source, "-o", Path(folder, "kernel.cubin")],
            capture_output=True,
            text=True,
            check=True,
        )
    return {
        "registers": int(re.search(r"Used (\d+) registers", done.stderr)[1]),
        "spills": int(re.search(r"(\d+) bytes spill stores", done.stderr)[1]),
        "wide": len(re.findall(r"ld\.global\S*\.v4", ptx)),
        "narrow": len(re.findall(r"ld\.global\S*\.b16", ptx)),
        "order": events(ptx, barrier="bar.sync", atomic="atom.", store="st.global"),
    }


def amd(assembly: str) -> dict:
    def number(what):
        return int(re.search(rf"\.{what}:\s*(\d+)", assembly)[1])

    return {
        "registers": number("vgpr_count"),
        "spills": number("vgpr_spill_count"),
        "wide": assembly.count("global_load_dwordx4"),
        "narrow": len(re.findall(r"global_load_(?:ushort|short)", assembly)),
        "order": events(
            assembly, barrier="s_barrier", atomic="global_atomic_add", store="global_store"
        ),
    }


def facts_of(kernel: str, vocab: int | None, logits: str | None, aligned: bool, name: str) -> dict:
    target = TARGETS[name]
    if vocab is None:
        asm = compiled_move(kernel, target)
    else:
        asm = compiled(kernel, vocab, logits, aligned, target)
    facts = nvidia(asm["ptx"]) if "ptx" in asm else amd(asm["amdgcn"])
    variant = {"kernel": kernel, "vocab": vocab, "logits": logits, "aligned": aligned}
    return variant | {"target": name} | facts


def report(quick: bool) -> list[dict]:
    """Compiled on all cores, up to eight."""
    asked = [
        (*variant, name)
        for *variant, targets, more in VARIANTS
        for name in (targets if quick else targets + more)
    ]
    asked += [(kernel, None, None, False, name) for kernel in MOVES for name in TARGETS]
    with ProcessPoolExecutor(min(len(os.sched_getaffinity(0)), 8)) as pool:
        return list(pool.map(facts_of, *zip(*asked, strict=True)))


def table(rows: list[dict]) -> str:
    lines = [
        "| kernel | vocabulary | logits | 16-byte aligned | target | registers per thread "
        "| spilled bytes | 16-byte loads | 2-byte loads |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        aligned = "yes" if row["aligned"] else "no"
        read = (row["vocab"], row["logits"], aligned) if row["logits"] else ("", "", "")
        cells = (row["kernel"], *read, row["target"])
        cells += (row["registers"], row["spills"], row["wide"], row["narrow"])
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    found = report("--quick" in sys.argv)
    print(json.dumps(found) if "--json" in sys.argv else table(found))
