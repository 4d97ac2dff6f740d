"""The demo's scores: python -m benchmarks.subject [--out output/demo]

Runs `scripts/demo.py` (what it finds finished it leaves as it is) and stores what it measured, as rows.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.results import RESULTS, Results

ROOT = Path(__file__).resolve().parents[1]


def report(out: Path, results: Results) -> None:
    """Rows of the scores of both avatars on all their held-out frames."""
    for folder, label in ((out, "with blendshapes"), (out / "without_blendshapes", "without blendshapes")):
        scores = json.loads((folder / "metrics.json").read_text())["test"]
        regions = {"": scores} | {f"{name}_": scores[name] for name in ("face", "mouth") if name in scores}
        for prefix, values in regions.items():
            for name in ("psnr", "ssim", "lpips_alex", "lpips_vgg"):
                if values.get(name) is not None:
                    unit = "dB" if name == "psnr" else "1"
                    results.add(f"demo_{prefix}{name}", f"make demo, {label}", values[name], unit)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("output/demo"))
    parser.add_argument("--lpips_weights", type=Path)
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--commit", help="name of the measured commit, where git cannot tell")
    args = parser.parse_args()
    out = args.out if args.out.is_absolute() else ROOT / args.out
    fresh = not (out / "metrics.json").is_file()
    weights = ["--lpips_weights", str(args.lpips_weights)] if args.lpips_weights else []
    start = time.time()
    subprocess.run([sys.executable, "scripts/demo.py", "--out", str(args.out), *weights], cwd=ROOT, check=True)
    results = Results(args.results, args.commit)
    if fresh:
        results.add("demo_seconds", "make demo, after the installation", time.time() - start, "s")
    report(out, results)


if __name__ == "__main__":
    main()
