"""The kernels compile for GPUs; the interpreter accepts more than Triton. This needs no GPU."""

import os
import subprocess
import sys

import pytest

PROGRAM = """
import sys

import triton
import triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from novograd.torch.backends import triton_kernels

POINTERS = {
    "table": "*i64",
    "part_of": "*i32",
    "rules": "*fp64",
    "lr": "*fp32",
    "found_inf": "*fp32",
    "grad_scale": "*fp32",
    "coefficients": "*fp32",
    "partial_sums": "*fp32",
}


def compiled(name, **constants):
    kernel = getattr(triton_kernels, name)
    names = kernel.arg_names
    kinds = {x: "constexpr" if x in constants else POINTERS.get(x, "i32") for x in names}
    source = ASTSource(
        fn=kernel,
        signature=kinds,
        constexprs={(names.index(x),): value for x, value in constants.items()},
        attrs={
            (i,): [["tt.divisibility", 16]] for i, x in enumerate(names) if kinds[x][0] == "*"
        },
    )
    options = {"num_warps": 4, "enable_fp_fusion": False}
    return triton.compile(source, target=GPUTarget("cuda", int(sys.argv[1]), 32), options=options)


def compiled_short(moment, width):
    return compiled(
        "short_layers",
        PARAM=dtype,
        GRAD=dtype,
        MOMENT=moment,
        V=tl.float32,
        ROWS=max(1, min(triton_kernels.MOST_ROWS, triton_kernels.SHORT_TILE // width)),
        WIDTH=width,
        ALIGNED=width >= (256 if moment == tl.int8 else 16),
        HAS_LR=half,
        HAS_FOUND_INF=half,
        HAS_SCALE=half,
        RULE_EACH=half,
        SKIP_NONFINITE=half,
        NESTEROV=True,
        STOCHASTIC=half,
        IN_ORDER=True,
    )


def check_barrier(kernel):
    # All warps must have loaded v, or the scales, before one of them stores the new ones. A missing
    # barrier changed the last digits of some weights on a GPU. The interpreter does not show it.
    ptx = kernel.asm["ptx"]
    before_stores = ptx[: ptx.index("st.global")]
    assert before_stores.rindex("bar.sync") > before_stores.rindex("ld.global")


def check_int8(kernel, tile):
    ptx = kernel.asm["ptx"]
    blocks = tile * size // 128 // 16  # of 16 bytes a thread
    assert ptx.count("ld.global.v4.b32") == 2 * blocks
    assert ptx.count("st.global.v4.b32") == blocks
    # Each thread moves as many whole numbers at a time as weights.
    assert ptx.count("st.global.v2.b32" if half else "st.global.b32") >= blocks
    assert "fma.rn.f32" not in ptx


half = sys.argv[2] == "bfloat16"
dtype = getattr(tl, sys.argv[2])
size = dtype.primitive_bitwidth // 8
for unscale in (False, True):
    tile = triton_kernels.SUM_BYTES // size
    kernel = compiled("square_sums", GRAD=dtype, HAS_SCALE=unscale, TILE=tile)
    assert kernel.asm["ptx"].count("ld.global.v4.b32") == triton_kernels.SUM_BYTES // 128 // 16
compiled("layer_sums")
for counts in (False, True):
    kernel = compiled(
        "scalars",
        V=tl.float32,
        HAS_LR=not counts,
        HAS_FOUND_INF=True,
        RULE_EACH=counts,
        SKIP_NONFINITE=counts,
    )
    check_barrier(kernel)
for nesterov in (False, True):
    kernel = compiled(
        "linear_pass",
        PARAM=dtype,
        GRAD=dtype,
        MOMENT=dtype,
        HAS_SCALE=nesterov,
        NESTEROV=nesterov,
        STOCHASTIC=half,
        IN_ORDER=nesterov,
        TILE=triton_kernels.UPDATE_BYTES // size,
    )
    ptx = kernel.asm["ptx"]
    blocks = triton_kernels.UPDATE_BYTES // 128 // 16  # of 16 bytes a thread
    assert ptx.count("ld.global.v4.b32") == 3 * blocks
    assert ptx.count("st.global.v4.b32") == 2 * blocks
    assert "fma.rn.f32" not in ptx
kernel = compiled(
    "linear_pass",
    PARAM=dtype,
    GRAD=dtype,
    MOMENT=tl.int8,
    HAS_SCALE=True,
    NESTEROV=True,
    STOCHASTIC=half,
    IN_ORDER=True,
    TILE=triton_kernels.QUANTISED_TILE,
)
check_int8(kernel, triton_kernels.QUANTISED_TILE)
check_barrier(kernel)
tile = triton_kernels.SHORT_TILE
check_int8(compiled_short(tl.int8, tile), tile)
check_barrier(compiled_short(tl.int8, 64))
for width in triton_kernels.WIDTHS:
    kernel = compiled_short(dtype, width)
    check_barrier(kernel)
    ptx = kernel.asm["ptx"]
    assert "fma.rn.f32" not in ptx
    if width >= 16:
        assert "ld.global.v4.b32" in ptx
        assert "st.global.v4.b32" in ptx
"""


@pytest.mark.parametrize(
    ("capability", "dtype"),
    [pytest.param("80", "float32", marks=pytest.mark.full), ("90", "bfloat16")],
)
def test_the_kernels_compile_and_move_16_bytes_at_a_time(tmp_path, capability, dtype):
    program = tmp_path / "program.py"
    program.write_text(PROGRAM, encoding="utf-8")
    environment = {x: y for x, y in os.environ.items() if x != "TRITON_INTERPRET"}
    environment["TRITON_CACHE_DIR"] = str(tmp_path)
    done = subprocess.run(
        [sys.executable, program, capability, dtype],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
