"""Stands in for test.py."""

import json
from pathlib import Path

from stand_in import note, value_of

run = Path(value_of("model_path"))
assert len(list((run / "checkpoints").glob("iteration_*"))) == 6, "tested before it was trained"
scores = {"frames": 3, "psnr": 30.5, "ssim": 0.9, "lpips_alex": 0.05, "lpips_vgg": None}
(run / "report.html").write_text("<p>report")
note(f"{run.name} test")
(run / "metrics.json").write_text(json.dumps({"test": scores}))
