"""Cached equals live for every model × reduction × dtype, on rendered clips with EfficientNet-Lite0."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import numpy as np
import pytest

from framecache.train.config import MODEL_NAMES
from tests.train.served import Case, derived, every_way, make_run, require_equal, serve

REDUCTIONS = ("gap", "gmp", "gap+gmp", "gem", "grid", "gap.random=64")


@pytest.mark.soak
def test_all_models_reductions_and_dtypes_agree(tmp_path: Path) -> None:
    served = serve(tmp_path, REDUCTIONS, "float16", backbone=None)
    names = {(reduction, "float16"): f"efficientnet-lite0.{reduction}-" for reduction in REDUCTIONS}
    for reduction in REDUCTIONS:
        if reduction != "grid":  # whose levels would be 62,720 to a frame
            names[reduction, "uint8"] = derived(served, names[reduction, "float16"], dtype="uint8")
    for steps in ({"pca": 8}, {"pca": 8, "whiten": True, "dtype": "uint8"}, {"random": 32}, {"l2": True}):
        names[str(steps), "derived"] = derived(served, "efficientnet-lite0.gap-", **steps)
    # A cache of its own: two sets of one reduction have one name but for the fingerprint.
    other = serve(tmp_path / "float32", REDUCTIONS[:4], "float32", backbone=None)
    cases = [(served, model, *item) for model, item in product(MODEL_NAMES, names.items())]
    float32 = {(reduction, "float32"): f"efficientnet-lite0.{reduction}-" for reduction in REDUCTIONS[:4]}
    cases += [(other, model, *item) for model, item in product(MODEL_NAMES, float32.items())]
    # In a mixed order, so that the first dozens have tried each model, reduction and dtype.
    cases = [cases[number] for number in np.random.RandomState(0).permutation(len(cases))]
    worst = 0.0
    for number, (where, model, (reduction, dtype), name) in enumerate(cases):
        case = Case(model, name, max_len=(0, 6, 6)[number % 3], clip=("spread", "spread", "crop")[number % 3])
        ways = every_way(where, case, make_run(where, case, tmp_path / "runs" / str(number)))
        require_equal(ways)
        share = max(
            np.abs(ours - theirs).max() / ways.tolerance
            for other_way in (ways.live, ways.exported)
            for ours, theirs in zip(ways.cached, other_way, strict=True)
        )
        worst = max(worst, float(share))
        print(f"{model} {reduction} {dtype}: {share:.3f} of the tolerance {ways.tolerance:.2g}", flush=True)
    print(f"{len(cases)} cases, the worst at {worst:.3f} of its tolerance")
