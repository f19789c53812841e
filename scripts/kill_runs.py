"""Kill a small run at random moments, continue it, and see that nothing is lost: `python -m scripts.kill_runs`.

    straight run --its hash, the seconds of each stage-->
    100 kills in training, 200 in the whole run: kill -9 --> try a copy --> --resume --> ... --> the same hash?

Half of the moments are uniform in time, half are uniform over the stages, so that short stages are hit too. What a kill
leaves behind is tried on a copy: `fovea report`, `fovea features` and `fovea show` must work, or say in one message
that there is nothing yet. The folder must be locked while its process lives, and free once it is dead.
"""

import argparse
import collections
import fcntl
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

from tests.experiment.nursery import Nursery, result_hash
from tests.experiment.tiny import experiment

from fovea.experiment.config import resolve

STAGES = ("starting", "tokenising", "calibrating", "training", "saving", "measuring", "features", "report", "ending")
MAX_KILLS_PER_FOLDER = 6
N_STEPS = 20
DRAWING = 0.15
"Share of the runs that draw figures, and of the reports that are tried; drawing takes longer than all else."
SIGNALS = (signal.SIGKILL, signal.SIGINT, signal.SIGTERM)


def stage_of(run: Path, jobs: list[str]) -> str:
    """What a run was doing, told from what its folder holds."""
    saved = [name for name in jobs if (run / "saes" / name / "job.json").exists()]
    if not (run / "provenance.json").exists():
        return "starting"
    if not all((run / "corpora" / name / "manifest.json").exists() for name in ("words", "general")):
        return "tokenising"
    if not all((run / "calibration" / f"{name}.safetensors").exists() for name in ("words", "general")):
        return "calibrating"
    if len(saved) < len(jobs):
        return "saving" if saved else "training"
    for name, stage in (("metrics.jsonl", "measuring"), ("features/manifest.json", "features")):
        if not (run / name).exists():
            return stage
    return "ending" if (run / "report.html").exists() else "report"


def is_locked(run: Path) -> bool:
    """Whether a process holds the folder."""
    if not (run / ".lock").exists():
        return False
    with (run / ".lock").open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def newest_step(run: Path) -> int:
    """Step of the newest checkpoint, 0 if there is none."""
    return max((int(path.name.removeprefix("step-")) for path in run.glob("checkpoints/words/step-*")), default=0)


class Trial:
    """One experiment, killed again and again."""

    def __init__(self, work: Path, seed: int) -> None:
        self.work, self.draw, self.nursery = work, random.Random(seed), Nursery()
        self.toml, self.log = work / "experiment.toml", work / "output.txt"
        tables = experiment(work)
        tables["job"] = [
            {"method": {"kind": "direct"}, "sae": {"kind": "batch_topk", "expansion": 2, "k": 4}},
            {"method": {"kind": "ssae", "silence": 0.25}, "sae": {"kind": "jumprelu", "expansion": 2, "target_l0": 3}},
        ]
        tables["train"].update(n_tokens=128 * N_STEPS, buffer_rows=256, checkpoint_seconds=0.05)
        tables["evaluate"] = {"heldout_tokens": 128, "train_tokens": 64, "general_tokens": 128, "density_tokens": 128}
        tables["evaluate"]["n_resamples"] = 20
        tables["features"] = {"tokens": 128}
        config = resolve(tables, where="script")
        self.toml.write_text(config.to_toml())
        self.jobs = [*(config.job_name(config.domain[0], job) for job in config.job), "control-frozen_decoder-k4"]
        self.kills: collections.Counter[str] = collections.Counter()
        self.tried: collections.Counter[str] = collections.Counter()
        self.hashes: collections.Counter[str] = collections.Counter()
        self.faults: list[str] = []
        self.seconds: dict[str, float] = {}
        self.wanted = ""

    def straight(self) -> None:
        """The run that nobody stops, twice: the first one also waits for imports."""
        for name in ("first", "straight"):
            out, began, last = self.work / name, time.monotonic(), "starting"
            self.seconds = dict.fromkeys(STAGES, 0.0)
            self.nursery.start("run", str(self.toml), "--out", str(out), log=self.log, draws=True)
            while not self.nursery.ends_within(0.002):
                now, stage = time.monotonic(), stage_of(out, self.jobs)
                self.seconds[last] += now - began
                began, last = now, stage
            assert self.nursery.wait() == 0, f"the straight run failed, see {self.log}"
            if name == "straight":
                self.wanted = result_hash(out)
            if not (self.work / "prepared").exists():
                shutil.copytree(out, self.work / "prepared")
                for made in ("saes", "evaluation", "features", "figures"):
                    shutil.rmtree(self.work / "prepared" / made)
                for made in ("metrics.jsonl", "comparisons.jsonl", "report.html", "excluded.json", "definitions.json"):
                    (self.work / "prepared" / made).unlink()

    def kill(self, n_kills: int, *, number: int, only_training: bool) -> None:
        """So many kills, in folder after folder, each folder continued to the end."""
        while n_kills > 0:
            out = self.work / "run"
            shutil.rmtree(out, ignore_errors=True)
            if only_training:
                shutil.copytree(self.work / "prepared", out)
            code, n_here = 1, 0
            while code and n_here < min(MAX_KILLS_PER_FOLDER, n_kills):
                code = self._killed(out, number, only_training=only_training)
                if code:
                    n_here += 1
                    self._try_what_is_left(out)
            if code:
                code = self.nursery.run("run", str(self.toml), "--out", str(out), "--resume", log=self.log)
            n_kills -= n_here
            if code:
                self._fault(out, f"cannot be resumed: exit code {code}")
                continue
            found = result_hash(out)
            self.hashes[found] += 1
            if found != self.wanted:
                self._fault(out, f"hash {found} in place of {self.wanted}")

    def _killed(self, out: Path, number: int, *, only_training: bool) -> int:
        """Start or continue the run and stop it at a random moment; 0 if it came to its end first."""
        draws = not only_training and self.draw.random() < DRAWING
        child = self.nursery.start("run", str(self.toml), "--out", str(out), "--resume", log=self.log, draws=draws)
        if only_training:
            delay = self._wait_for_a_step(out)
        elif self.draw.random() < 0.5:
            counted = STAGES if draws else STAGES[: STAGES.index("report")]
            delay = self.draw.uniform(0.0, 1.0) * sum(self.seconds[stage] for stage in counted)
        else:
            aim = self.draw.randrange(len(STAGES) if draws else STAGES.index("report"))
            while STAGES.index(stage_of(out, self.jobs)) < aim and not self.nursery.ends_within(0.001):
                continue
            delay = self.draw.uniform(0.0, 1.0) * self.seconds[STAGES[aim]]
        ended = delay is None or self.nursery.ends_within(delay)
        stage = stage_of(out, self.jobs)
        if not ended and not (only_training and stage not in ("training", "saving")):
            self.tried[f"lock while alive: {'held' if is_locked(out) else 'free'}"] += stage != "starting"
            os.kill(child, number)
            code = self.nursery.wait()
            if is_locked(out):
                self._fault(out, "its lock outlives the process")
            if code in (0, -number, 130):
                self.kills[stage] += code != 0
                print(f"{sum(self.kills.values())}: {stage}", flush=True)
                return code
            self._fault(out, f"signal {number} in stage {stage}: exit code {code}")
            return code
        code = self.nursery.wait()
        if code:
            self._fault(out, f"resumed in stage {stage_of(out, self.jobs)}: exit code {code}")
        return code

    def _wait_for_a_step(self, out: Path) -> float | None:
        """Wait until training is past a random step; seconds more to wait, None if training was over before."""
        aim = self.draw.randint(newest_step(out), N_STEPS)
        while newest_step(out) <= aim:
            if stage_of(out, self.jobs) != "training" or self.nursery.ends_within(0.001):
                return None
        return self.draw.uniform(0.0, 2.0) * self.seconds["training"] / N_STEPS

    def _try_what_is_left(self, out: Path) -> None:
        """`report`, `features` and `show` on a copy."""
        copy = self.work / "copy"
        shutil.rmtree(copy, ignore_errors=True)
        if not out.exists():
            return
        shutil.copytree(out, copy)
        measured = (copy / "metrics.jsonl").exists()
        trained = all((copy / "features" / name / "latents.parquet").exists() for name in self.jobs)
        draws = self.draw.random() < DRAWING
        self._try("report", str(copy), done=measured and draws, draws=draws)
        self._try("features", str(copy), "--force", done=trained and measured)
        for name in self.jobs:
            self._try("show", str(copy / "saes" / name), done=(copy / "saes" / name / "cfg.json").exists())

    def _try(self, verb: str, *arguments: str, done: bool, draws: bool = False) -> None:
        """One command: it must work where there is something, and say in one message where there is nothing yet."""
        answer = self.work / "answer.txt"
        answer.unlink(missing_ok=True)
        code = self.nursery.run(verb, *arguments, log=answer, draws=draws)
        said = answer.read_text()
        if code not in ((0,) if done else (0, 2)) or "Traceback" in said:
            self._fault(Path(arguments[0]), f"{verb}: exit code {code}: {said[-2000:]}")
        self.tried[f"{verb}: {'works' if code == 0 else 'says that there is nothing yet'}"] += 1

    def _fault(self, folder: Path, what: str) -> None:
        kept = self.work / f"fault-{len(self.faults)}"
        if folder.exists():
            shutil.copytree(folder, kept)
        self.faults.append(f"{what} (folder kept in {kept})")
        print("FAULT", self.faults[-1], flush=True)

    def report(self, title: str, n_kills: int) -> dict[str, object]:
        """What came of it, printed and as a record; the counts begin anew."""
        record = {
            "what": title,
            "kills": sum(self.kills.values()),
            "asked": n_kills,
            "by_stage": {stage: self.kills[stage] for stage in STAGES if self.kills[stage]},
            "folders_ended": sum(self.hashes.values()),
            "final_hashes": len(self.hashes),
            "hash": self.wanted,
            "tried": dict(sorted(self.tried.items())),
            "faults": self.faults[:],
        }
        print(json.dumps(record, indent=2), flush=True)
        for counts in (self.kills, self.tried, self.hashes):
            counts.clear()
        self.faults.clear()
        return record


def main() -> int:
    """Run the trials that were asked for; 1 if anything was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--training", type=int, default=100, help="kills in training")
    parser.add_argument("--whole", type=int, default=200, help="kills in the whole run")
    parser.add_argument("--signals", type=int, default=0, help="SIGINTs, and as many SIGTERMs, in the whole run")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--work", type=Path, help="folder to work in and keep")
    given = parser.parse_args()
    work = given.work or Path(tempfile.mkdtemp(prefix="fovea-kills-"))
    work.mkdir(parents=True, exist_ok=True)
    trial = Trial(work, given.seed)
    trial.straight()
    print("seconds of each stage:", {stage: round(seconds, 2) for stage, seconds in trial.seconds.items()}, flush=True)
    records = []
    wanted = [
        ("kill -9 in training", given.training, signal.SIGKILL, True),
        ("kill -9 in the whole run", given.whole, signal.SIGKILL, False),
        ("SIGINT in the whole run", given.signals, signal.SIGINT, False),
        ("SIGTERM in the whole run", given.signals, signal.SIGTERM, False),
    ]
    for title, n_kills, number, only_training in wanted:
        if n_kills:
            trial.kill(n_kills, number=number, only_training=only_training)
            records.append(trial.report(title, n_kills))
    trial.nursery.close()
    return int(any(record["faults"] or record["final_hashes"] != 1 for record in records))


if __name__ == "__main__":
    sys.exit(main())
