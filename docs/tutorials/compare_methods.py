# %% [markdown]
# # Compare methods
#
# Methods side by side on your data, under one protocol: `vd.compare` runs each cell in a process of its own, keeps what is
# finished, and writes a table. Here it is drawn scenes, small towers and few iterations, so that it takes a minute: the
# figures show how it works, not which method is best, for which there is [the leaderboard](../leaderboard.md).

# %%
import vldistill as vd

# %% [markdown]
# A sweep is a file or a dictionary: a base configuration, options over it, budgets, methods and targets to compare with.
# `vldistill compare --help` shows all it can say. Give your data as `data=`.

# %%
sweep = {
    "base": "scenes.yaml",
    "pairs": [12],
    "methods": {"bilevel": {}, "prototypes": {}},
    "targets": ["random", "full"],
}
options = {"distill.iterations": 20, "distill.validate_every": 10, "evaluate.seeds": 2, "evaluate.trials": 2}
table = vd.compare(sweep, "scenes:train=400,val=100,test=100", run="board", workers=2, quiet=True, **options)
print(table)

# %% [markdown]
# Rows are plain values; `to_pandas()` gives a data frame.

# %%
import matplotlib.pyplot as plt

rows = sorted(table.rows, key=lambda row: row["generic"]["mean"])
figure, axes = plt.subplots(figsize=(5, 2))
axes.barh(
    [row["row"] for row in rows],
    [row["generic"]["mean"] for row in rows],
    xerr=[row["generic"]["std"] for row in rows],
    color="#4c72b0",
)
axes.set_xlabel("mean recall on test, %")
plt.show()

# %% [markdown]
# The same call again finds every cell finished. One more method, and only its cell runs:

# %%
sweep["methods"]["bilevel, short"] = {"method": "bilevel", "options": {"distill.iterations": 5}}
table = vd.compare(sweep, "scenes:train=400,val=100,test=100", run="board", quiet=True, **options)
{row["row"]: round(row["generic"]["mean"], 1) for row in table.rows}
