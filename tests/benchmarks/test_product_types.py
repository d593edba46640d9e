"""The counted types of matrix products in programs compiled here, and in the form GPUs' have."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import pytest

from tests.benchmarks.product_types import count_product_operations, share_of


def compiled_text(*dtypes: str) -> str:
    """A program with one product (4x16 by 16x8, twice: a batch) for each type, into float32."""

    def multiply(pairs: list[tuple[jax.Array, jax.Array]]) -> list[jax.Array]:
        return [
            jnp.einsum("bij,bjk->bik", jnp.sin(left), right, preferred_element_type=jnp.float32)
            for left, right in pairs
        ]

    pairs = [(jnp.ones((2, 4, 16), name), jnp.ones((2, 16, 8), name)) for name in dtypes]
    return str(jax.jit(multiply).lower(pairs).compile().as_text())


OPERATIONS = 2 * 2 * 4 * 16 * 8


@pytest.mark.parametrize(
    ("dtypes", "expected", "share"),
    [
        (("bfloat16",), {"bf16": OPERATIONS}, 1.0),
        (("float32",), {"f32": OPERATIONS}, 0.0),
        (("bfloat16", "float32", "bfloat16"), {"bf16": 2 * OPERATIONS, "f32": OPERATIONS}, 2 / 3),
        ((), {}, None),
    ],
)
def test_products_are_counted_by_the_type_of_their_operands(
    dtypes: tuple[str, ...], expected: dict[str, int], share: float | None
) -> None:
    operations = count_product_operations(compiled_text(*dtypes))
    assert operations == expected
    assert share_of("bf16", operations) == share


GPU_TEXT = """\
%gemm_fusion_dot.3_computation (parameter_0: bf16[64,32], parameter_1: bf16[32,16]) -> bf16[64,16] {
  %parameter_0 = bf16[64,32]{1,0} parameter(0)
  %parameter_1 = bf16[32,16]{1,0} parameter(1)
  ROOT %dot.7 = bf16[64,16]{1,0} dot(bf16[64,32]{1,0} %parameter_0, \
bf16[32,16]{1,0} %parameter_1), lhs_contracting_dims={1}, rhs_contracting_dims={0}
}
ENTRY %main (a: bf16[64,32], b: bf16[32,16], c: f32[16,8]) -> f32[64,8] {
  %a = bf16[64,32]{1,0} parameter(0)
  %b = bf16[32,16]{1,0} parameter(1)
  %c = f32[16,8]{1,0} parameter(2)
  %gemm_fusion_dot.3 = bf16[64,16]{1,0} fusion(%a, %b), kind=kCustom, \
calls=%gemm_fusion_dot.3_computation, \
backend_config={"fusion_backend_config":{"kind":"__triton_gemm"}}
  %wide = f32[64,16]{1,0} convert(%gemm_fusion_dot.3)
  %other = (f32[8], s32[]) custom-call(%c), custom_call_target="__cub$DeviceRadixSort"
  %cublas-gemm.1 = (f32[64,8]{1,0}, s8[4194304]{0}) custom-call(%wide, %c), \
custom_call_target="__cublas$gemm", backend_config={"gemm_backend_config":{"dot_dimension_numbers":\
{"lhs_contracting_dimensions":["1"],"rhs_contracting_dimensions":["0"]}}}
  ROOT %gte = f32[64,8]{1,0} get-tuple-element(%cublas-gemm.1), index=0
}
"""


def test_library_calls_and_fused_products_of_a_gpu_program_are_counted_once() -> None:
    """Written by hand after XLA's form; no GPU was there to compile it."""
    bf16, f32 = 2 * 64 * 16 * 32, 2 * 64 * 8 * 16
    operations = count_product_operations(GPU_TEXT)
    assert operations == {"bf16": bf16, "f32": f32}
    assert share_of("bf16", operations) == bf16 / (bf16 + f32)
    strange = GPU_TEXT.replace("lhs_contracting_dimensions", "another_form")
    assert count_product_operations(strange) == {"bf16": bf16, "unread": 1}
