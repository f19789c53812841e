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


@triton.jit
def topk_kernel(pre, values, latents, counts, width, k, BLOCK: tl.constexpr):
    """The k largest positive entries of a row, in the order of columns; of equal ones the first. NaN counts as largest.

    Positive floats are ordered as their bits are, so the k-th largest is found bit by bit.
    """
    row = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, BLOCK)
    x = tl.load(pre + row * width + columns, mask=columns < width, other=0.0)
    bits = tl.where(x <= 0, 0.0, x).to(tl.int32, bitcast=True) & 0x7FFFFFFF
    kth = tl.sum(bits * 0)
    bit = 1 << 30
    while bit > 0:
        trial = kth | bit
        kth = tl.where(tl.sum((bits >= trial).to(tl.int32)) >= k, trial, kth)
        bit = bit >> 1
    above = bits > kth
    tied = (bits == kth) & (kth > 0)
    n_tied = k - tl.sum(above.to(tl.int32))
    kept = above | (tied & (tl.cumsum(tied.to(tl.int32), axis=0) <= n_tied))
    slot = tl.cumsum(kept.to(tl.int32), axis=0) - 1
    tl.store(values + row * k + slot, x, mask=kept)
    tl.store(latents + row * k + slot, columns.to(tl.int64), mask=kept)
    tl.store(counts + row, tl.sum(kept.to(tl.int32)).to(tl.int64))
