"""Tables and pictures out of run directories: what retraining cost, and what it reached.

Reads run directories only, so it works on runs of another machine as well.
"""

from composer_kd.report.collect import Arm, Run, collect
from composer_kd.report.document import Report, report

__all__ = ['Arm', 'Report', 'Run', 'collect', 'report']
