"""Records of a sweep: from given losses, and from the folder of a demo."""
import csv


def records(losses, name="sp", width=64):
    """Returns a sweep's rows, one for each loss in {log2 lr: losses of the seeds}."""
    return [{"parametrization": name, "width": width, "lr": 2.0**k, "seed": seed, "train_loss": loss}
            for k, seeds in losses.items() for seed, loss in enumerate(seeds)]


def table(out):
    """Reads the records that a demo left in its folder."""
    with open(out / "results.csv", encoding="utf-8") as file:
        return list(csv.DictReader(file))
