"""Peak memory and speed of collecting evidence on a stream of made-up firings: does memory grow with the tokens?

    PYTHONPATH=src python benchmarks/feature_collection.py --latents 10000 --tokens 3000000

Sparse firings go straight to the Gatherer, as `gather` passes on those of an SAE: no lm and no encoder runs, so the
figures are of what is kept alone. Latents differ in density (Zipf) and activations are log-normal, so that the largest
grow without end, as on real text, and are replaced again and again. Printed: resident memory in tenths of the tokens,
its peak, tokens a second.
"""

import argparse
import resource
import sys
import time
from pathlib import Path

import numpy as np

from fovea.features.collect import Firings, Gatherer
from fovea.features.hashing import window_hashes

CONTEXT, CHUNK = 128, 8192
N_WORDS = 50_000


def firings(draw: np.random.Generator, shares: np.ndarray, *, first: int, l0: float) -> Firings:
    """The firings on one chunk, the first of whose tokens is number `first`, ordered by latent, then location."""
    n = draw.poisson(l0 * CHUNK)
    latent = np.searchsorted(shares, draw.random(n)).astype(np.int64)
    cells = np.unique(latent * CHUNK + draw.integers(0, CHUNK, n))
    value = np.exp(draw.standard_normal(len(cells), dtype=np.float32))
    return Firings(cells // CHUNK, first + cells % CHUNK, value)


def resident_mb() -> float:
    """Memory of this process now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 1e6


def collect(n_latents: int, n_tokens: int, *, l0: float, seed: int) -> list[float]:
    """Collect, and say how fast; the resident memory after each chunk, in MB."""
    draw = np.random.default_rng(seed)
    shares = np.cumsum(1 / np.arange(1, n_latents + 1) ** 0.7)
    shares /= shares[-1]
    gatherer = Gatherer(n_latents, n_top=20, n_tokens=n_tokens, context_size=CONTEXT)
    held: list[float] = []
    spent = 0.0
    for first in range(0, n_tokens, CHUNK):
        found = firings(draw, shares, first=first, l0=l0)
        hashes = window_hashes(draw.integers(0, N_WORDS, (CHUNK // CONTEXT, CONTEXT), dtype=np.uint32)).reshape(-1)
        started = time.perf_counter()
        gatherer.add(found, lambda locations, hashes=hashes, first=first: hashes[locations - first])
        spent += time.perf_counter() - started
        held.append(resident_mb())
    result = gatherer.result()
    n_kept = len(result.sample.latent) + len(result.top.latent)
    print(f"gathering alone: {n_tokens / spent:,.0f} tokens/s; {n_kept:,} of {result.n_fired.sum():,} firings are kept")
    return held


def main() -> None:
    """Measure once and say whether memory is flat."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--latents", type=int, default=10_000)
    parser.add_argument("--tokens", type=int, default=3_000_000)
    parser.add_argument("--l0", type=float, default=40.0, help="latents that fire on a token")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    before = resident_mb()
    begin = time.perf_counter()
    n_tokens = given.tokens // CHUNK * CHUNK
    held = collect(given.latents, n_tokens, l0=given.l0, seed=given.seed)
    wall = time.perf_counter() - begin
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6
    print(
        f"{given.latents:,} latents, {n_tokens:,} tokens, {given.l0:g} firings a token, {before:.0f} MB before it began"
    )
    print(f"peak {peak:,.0f} MB, {n_tokens / wall:,.0f} tokens/s with making the firings")
    tenths = [max(part) for part in np.array_split(held, 10)]
    print("highest in each tenth of the tokens, MB:", " ".join(f"{value:,.0f}" for value in tenths))
    growth = max(tenths[1:]) / tenths[0]
    print(f"after the first tenth at most {growth:.2f} times the first tenth")
    if growth > 1.25:
        sys.exit("memory grows with the tokens")


if __name__ == "__main__":
    main()
