"""Time the library's KSG estimator against scikit-learn's, on the same samples, side by side.

Both estimate the mutual information of two correlated Gaussians from their 3 nearest neighbours.
They take turns, so that whatever else the machine does falls on both; what counts is the ratio.

    python benchmarks/ksg_speed.py --repeats 15

writes distill_lib/records/ksg-speed.json. It takes half a minute.
"""

import argparse
import statistics
import time
from pathlib import Path

import numpy as np
from recording import record_path, save_record
from sklearn.feature_selection import mutual_info_regression
from tqdm import tqdm

from distill_lib.estimators import ksg_mutual_information

RHO = 0.75
SAMPLES = (1000, 10_000, 100_000)
RECORD = record_path("ksg-speed")


def timed(estimate):
    started = time.perf_counter()
    value = estimate()
    return float(value), time.perf_counter() - started


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=15, help="runs of each, in turn")
    parser.add_argument("--record", type=Path, default=RECORD)
    arguments = parser.parse_args()

    results = []
    for n in SAMPLES:
        usual, ours, differences = [], [], []
        for seed in tqdm(range(arguments.repeats), desc=f"{n:,} samples"):
            rng = np.random.default_rng(seed)
            x, noise = rng.normal(size=(2, n))
            y = RHO * x + np.sqrt(1 - RHO**2) * noise
            theirs, seconds = timed(
                lambda: mutual_info_regression(x[:, None], y, n_neighbors=3, random_state=0)[0]  # noqa: B023
            )
            usual.append(seconds)
            value, seconds = timed(lambda: ksg_mutual_information(x, y, k=3))  # noqa: B023
            ours.append(seconds)
            differences.append(abs(value - theirs))
        ratios = [u / o for u, o in zip(usual, ours, strict=True)]
        results.append(
            {
                "samples": n,
                "usual_milliseconds": [round(1000 * s, 2) for s in usual],
                "our_milliseconds": [round(1000 * s, 2) for s in ours],
                "ratio_median": round(statistics.median(ratios), 2),
                "ratio_range": [round(min(ratios), 2), round(max(ratios), 2)],
                "largest_difference": max(differences),
            }
        )
        print(
            f"{n:,} samples: scikit-learn {1000 * statistics.median(usual):.1f} ms, ours "
            f"{1000 * statistics.median(ours):.1f} ms; ratio {statistics.median(ratios):.1f} "
            f"({min(ratios):.1f} to {max(ratios):.1f}); values within {max(differences):.1e} nats"
        )
    save_record(
        arguments.record, f"python benchmarks/ksg_speed.py --repeats {arguments.repeats}", results
    )
    print(f"written to {arguments.record}")


if __name__ == "__main__":
    main()
