"""Opens the images beside this file in FiftyOne, with the answers about them and the plane of their embeddings.

    uvx --from fiftyone --with pyarrow python open_in_fiftyone.py

Written by fastclip. It reads items.parquet, items.json and thumbs/ beside it, and nothing else.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent


def read() -> tuple[Any, dict[str, Any]]:
    """The rows of items.parquet that have a thumbnail, and items.json."""
    import pyarrow.parquet as pq

    table = pq.read_table(HERE / "items.parquet")
    return table.filter(table["thumb"].is_valid()), json.loads((HERE / "items.json").read_bytes())


def make_dataset() -> Any:
    """The dataset, which FiftyOne forgets when it ends; give it a name and make it `persistent` to keep it."""
    import fiftyone as fo
    import fiftyone.brain as fob
    import numpy as np

    table, facts = read()
    samples = []
    answers = list(facts["answers"])
    for row in table.drop_columns(["embedding", "x", "y"]).to_pylist():
        sample = fo.Sample(filepath=str(HERE / row["thumb"]), tags=[row["domain"]])
        sample["ground_truth"] = fo.Classification(label=row["class"])
        for name in ("key", "dataset", "domain", "path", "sha256"):
            sample["source_path" if name == "path" else name] = row[name]
        for name in answers:
            if row[f"{name}_predicted"] is not None:
                margin, rank = row[f"{name}_margin"], row[f"{name}_rank"]
                sample[name] = fo.Classification(label=row[f"{name}_predicted"], margin=margin, rank=rank)
        samples.append(sample)
    dataset = fo.Dataset()
    dataset.add_samples(samples)
    for name in answers:
        view = dataset.exists(name)
        view.evaluate_classifications(name, gt_field="ground_truth", eval_key=f"eval_{name}", method="simple")
    if samples:
        points = np.stack([table["x"].to_numpy(), table["y"].to_numpy()], axis=1)
        embeddings = np.stack(table["embedding"].to_numpy())
        fob.compute_visualization(
            dataset, embeddings=embeddings, points=points, method="manual", brain_key=_name(facts["backbone"])
        )
    return dataset


def _name(backbone: str) -> str:
    return "plane_" + "".join(letter if letter.isascii() and letter.isalnum() else "_" for letter in backbone.lower())


def main() -> None:
    """Open the app in a browser, until it is closed."""
    import fiftyone as fo

    fo.launch_app(make_dataset()).wait()


if __name__ == "__main__":
    main()
