"""Where metrics go beside metrics.jsonl: one file a tracker, each behind Tracker."""

from trainer.trackers.tracker import Tracker, check_trackers, open_trackers

__all__ = ["Tracker", "check_trackers", "open_trackers"]
