"""Tables and pictures out of run directories: what retraining cost, and what it reached.

Reads run directories only, so it works on runs of another machine as well.
"""

from composer_kd.report.api import Report, report
from composer_kd.report.load import Arm, Run, collect

__all__ = ['Arm', 'Report', 'Run', 'collect', 'report']
