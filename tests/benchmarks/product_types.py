"""Which number types the matrix products of a compiled program multiply.

Read from the program's text (HLO): ``dot`` instructions, those inside fusions such as
``__triton_gemm`` among them, and the library calls ``__cublas*``. The body of a loop counts once. A
product that cannot be read counts one operation under ``UNREAD``, and is so seen.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

UNREAD = "unread"
_ARRAY = re.compile(r"([a-z]\w*)\[([\d,]*)\]")
_RESULT = re.compile(r"^\s*(?:ROOT )?%?([\w.\-]+) = (.*)$")
_PRODUCT = re.compile(r" (?:dot|custom-call)\(([^)]*)\)")
_LIBRARIES = re.compile(r'custom_call_target="__(?:cublas|triton_gemm)')
_CONTRACTED = re.compile(r'lhs_contracting_dim\w*"?[=:][{\[]([\d",]*)[}\]]')


@dataclass(frozen=True, slots=True)
class _Array:
    dtype: str
    shape: tuple[int, ...]


def count_product_operations(hlo: str) -> dict[str, int]:
    """Floating-point operations of all matrix products by operand type ("bf16", "bf16*f32")."""
    lines = [match for line in hlo.splitlines() if (match := _RESULT.match(line))]
    arrays = {match[1]: array for match in lines if (array := _read_array(match[2]))}
    found: dict[str, int] = {}
    for match in lines:
        product = _PRODUCT.search(match[2])
        if product is None or (" dot(" not in match[2] and not _LIBRARIES.search(match[2])):
            continue
        name, operations = UNREAD, 1
        operands = [_find(operand, arrays) for operand in product[1].split(", ")[:2]]
        dims = _CONTRACTED.search(match[2])
        if dims is not None and len(operands) == 2 and operands[0] and operands[1]:
            name = "*".join(sorted({array.dtype for array in operands if array}))
            contracted = [int(dim) for dim in dims[1].replace('"', "").split(",") if dim]
            depth = math.prod(operands[0].shape[dim] for dim in contracted)
            operations = 2 * math.prod(arrays[match[1]].shape) * depth
        found[name] = found.get(name, 0) + operations
    return found


def share_of(dtype: str, operations: Mapping[str, int]) -> float | None:
    """The part of the operations with operands of ``dtype`` alone; None without any product."""
    total = sum(operations.values())
    return operations.get(dtype, 0) / total if total else None


def _read_array(text: str) -> _Array | None:
    """The first array type in ``text``: of a tuple, as library calls give, the product's own."""
    match = _ARRAY.search(text)
    if match is None:
        return None
    return _Array(match[1], tuple(int(size) for size in match[2].split(",") if size))


def _find(operand: str, arrays: Mapping[str, _Array]) -> _Array | None:
    """An operand, written with its type before its name or by its name alone."""
    return _read_array(operand) or arrays.get(operand.rsplit(maxsplit=1)[-1].lstrip("%"))
