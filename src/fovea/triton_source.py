"""The bodies of the kernels of fovea.sae.kernels, which alone calls them. Imported only where Triton is.

Not within fovea.sae: tests rewrite the functions of that package to check shapes, and Triton compiles what it is given.
"""

# pyright: basic, reportMissingImports=false
import triton
import triton.language as tl

ENTRIES = 16
"Entries of which one program of the sampled product takes the inner products."


@triton.jit
def gather_kernel(offsets, indices, values, rows, out, width, BLOCK: tl.constexpr):
    """out[g, columns] = sum over entries e of group g of values[e] * rows[indices[e], columns]."""
    group = tl.program_id(0)
    columns = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = columns < width
    total = tl.zeros((BLOCK,), dtype=tl.float32)
    stop = tl.load(offsets + group + 1)
    entry = tl.load(offsets + group)
    while entry < stop:
        row = tl.load(rows + tl.load(indices + entry) * width + columns, mask=inside, other=0.0)
        total += tl.load(values + entry) * row
        entry += 1
    tl.store(out + group.to(tl.int64) * width + columns, total, mask=inside)


@triton.jit
def sampled_kernel(left, right, left_rows, right_rows, out, n, width, BLOCK: tl.constexpr):
    """out[e] = left_rows[left[e]] . right_rows[right[e]] for a block of entries."""
    entries = tl.program_id(0) * 16 + tl.arange(0, 16)
    present = entries < n
    left_start = tl.load(left + entries, mask=present, other=0) * width
    right_start = tl.load(right + entries, mask=present, other=0) * width
    total = tl.zeros((16,), dtype=tl.float32)
    start = 0
    while start < width:
        columns = start + tl.arange(0, BLOCK)
        inside = present[:, None] & (columns < width)[None, :]
        a = tl.load(left_rows + left_start[:, None] + columns[None, :], mask=inside, other=0.0)
        b = tl.load(right_rows + right_start[:, None] + columns[None, :], mask=inside, other=0.0)
        total += tl.sum(a * b, axis=1)
        start += BLOCK
    tl.store(out + entries, total, mask=present)
