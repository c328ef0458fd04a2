"""Train a student on a distilled set, test it on real photos and captions, search photos with it, and keep it.

    python examples/train_on_a_set.py runs/mine/sets/bilevel-100-s0 photos/ student/ "a dog on the beach"

The set says its towers and its recipe: training reads none of the real data. They are read to test the student, and
photos among them are ranked for every question. docs/training.md tells what is behind every line.
"""

import sys

import vldistill as vd


def main(folder: str, source: str, out: str, *questions: str) -> None:
    """Train, test on the test split of ``source``, answer questions about the photos in it, and save."""
    pairs = vd.DistilledSet.load(folder)
    student = pairs.train()  # or pairs.train("generic"), or pairs.train(vd.Recipe(epochs=50, loss="siglip"))
    print(student.score(source))
    for question in questions:
        print(student.search(question, source, top=5))
    student.save(out)


if __name__ == "__main__":
    if len(sys.argv) < 4:
        raise SystemExit(__doc__)
    try:
        main(*sys.argv[1:])
    except vd.VldistillError as error:
        raise SystemExit(f"error: {error}") from None
