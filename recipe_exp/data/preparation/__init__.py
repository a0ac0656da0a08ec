"""From rows to prepared data: intake, statistics, splits and the folder that is the same on every machine."""
