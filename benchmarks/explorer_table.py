"""What the server needs for a table of 100,000 latents: pages, sorts, filters, searches, a latent. Prints milliseconds.

python benchmarks/explorer_table.py [N_LATENTS]     the bar is 300 ms for the first page and for a sort
"""

import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "src")]

from starlette.testclient import TestClient  # noqa: E402
from tests.features.made import make  # noqa: E402

from fovea.app.security import CSRF_HEADER  # noqa: E402
from fovea.app.server import Place, build  # noqa: E402

BASE = "http://127.0.0.1:8642"
QUERIES = {
    "first page": "",
    "sort by density on D": "sort=density_domain",
    "sort by cosine with g": "sort=novelty_decoder&order=ascending",
    "sort by SAE": "sort=job&order=ascending",
    "filter by ratio": "min-ratio=10&show=domain",
    "page 900": "sort=novelty_encoder&offset=90000",
    "search a word": "q=river",
    "search two words in a filter": "q=proof+war&show=domain&max-novelty_decoder=0.5",
}


def main() -> None:
    """Make a run, open the app in process, ask."""
    n_latents = int(sys.argv[1]) if len(sys.argv) > 1 else 100_000
    with tempfile.TemporaryDirectory() as folder:
        sizes = {"g": 2, "ssae-batch_topk-k16-s0": 4, "direct-batch_topk-k16-s0": 4}
        parts = {job: n_latents // part for job, part in sizes.items()}
        run = make(Path(folder) / "run", jobs=parts)
        began = time.perf_counter()
        app = build(run, Place(), "token")
        print(f"{n_latents:,} latents\nopen the run{1000 * (time.perf_counter() - began):>32.0f} ms")
        with TestClient(app, base_url=BASE, headers={"origin": BASE}) as client:
            client.post("/api/session", json={"token": "token"})
            client.headers[CSRF_HEADER] = client.get("/api/session").json()["csrf"]
            began = time.perf_counter()
            measure(client, "first page, text not yet read", "")
            while client.get("/api/run").json()["search_progress"] < 1:
                time.sleep(0.2)
            print(f"read all text for the search{time.perf_counter() - began:>17.1f} s")
            for name, query in QUERIES.items():
                measure(client, name, query)
            times = [timed(client, f"/api/latents/g/{latent}")[0] for latent in range(0, parts["g"], parts["g"] // 40)]
            print(f"a latent's page{statistics.median(times):>29.0f} ms, {max(times):.0f} ms at most, of {len(times)}")


def measure(client: TestClient, name: str, query: str) -> None:
    """Print the first answer's time, and the median of five more."""
    times, answers = zip(*(timed(client, f"/api/latents?{query}") for _ in range(6)), strict=True)
    n_rows = answers[0].json()["total"]
    print(f"{name:<32}{times[0]:>12.0f} ms, again {statistics.median(times[1:]):.0f} ms, {n_rows:,} rows")


def timed(client: TestClient, address: str) -> tuple[float, Any]:
    """Milliseconds of a request, and its answer."""
    began = time.perf_counter()
    answer = client.get(address)
    took = 1000 * (time.perf_counter() - began)
    assert answer.status_code == 200, answer.text
    return took, answer


if __name__ == "__main__":
    main()
